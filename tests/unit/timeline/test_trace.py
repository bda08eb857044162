"""Traces: read whole or with named gaps, split without a nanosecond lost, idle time blamed on the host's frame."""

from __future__ import annotations

import copy
import gzip
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.cli.main import main
from osremed.core.errors import BadInput
from osremed.timeline.blame import Blame, flame, folded, idle_causes, launched
from osremed.timeline.ranktraces import slow_in_traces
from osremed.timeline.split import device_events, gaps_between, kernel_table, length, merged, split_device
from osremed.timeline.trace import COPY, KERNEL, Trace, load_trace
from osremed.timeline.tracediff import compare, mann_whitney
from osremed.timeline.tracefile import TraceFile, to_ns
from osremed.timeline.tracepage import export, page, page_data
from tests.support.cuda_trace import WAIT_US, event, job


@pytest.fixture
def write(tmp_path):
    numbers = iter(range(1000))

    def write(document, name="", **options):
        path = tmp_path / (name or f"trace{next(numbers)}.json")
        data = document if isinstance(document, bytes) else json.dumps(document, **options).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and data[:2] != b"\x1f\x8b" else data)
        return str(path)

    return write


def columns(trace):
    return [list(each) for each in (trace.start, trace.duration, trace.kind, trace.correlation)], [
        trace.name_of(each) for each in range(len(trace))
    ]


# --- reading ---


@pytest.mark.parametrize("size", [64, 1000, 1 << 20])
def test_a_trace_is_the_same_in_pieces_of_any_size_compact_or_spread_plain_or_gzip(write, monkeypatch, size):
    (document,) = job(steps=8)
    tricky = {"ph": "X", "cat": "cpu_op", "name": 'a},{"ph":"X"', "ts": 5, "dur": 1, "pid": 1, "tid": 1}
    document["traceEvents"].insert(3, {**tricky, "args": {"Input Dims": [{"a": 1}, {"b": [{}, {}]}], "s": '"},{"'}})
    monkeypatch.setattr("osremed.timeline.tracefile._PIECE_BYTES", size)
    paths = [
        write(document, indent=2),
        write(document, separators=(",", ":")),
        write(document, "whole.json.gz"),
        write(document["traceEvents"]),
    ]
    loaded = [load_trace(path) for path in paths]
    assert all(columns(each) == columns(loaded[0]) for each in loaded)
    assert len(loaded[0]) == sum(each["ph"] == "X" for each in document["traceEvents"])
    assert [each.gaps for each in loaded] == [[], [], [], []]
    assert [each.rank for each in loaded] == [0, 0, 0, -1]


def test_nanoseconds_survive_whether_times_count_from_a_base_or_from_1970(write):
    times = ["1795323760235446.271", "1795323760235446.272", "1795323760235447.1"]
    events = ",".join(f'{{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":{at},"dur":0.001}}' for at in times)
    trace = load_trace(write(b'{"traceEvents":[' + events.encode() + b"]}"))
    assert list(trace.start) == [1795323760235446271, 1795323760235446272, 1795323760235447100]
    assert list(trace.duration) == [1, 1, 1]
    assert to_ns(4467066399622.512) == 4467066399622512
    assert to_ns("1e3") == 1_000_000


def test_a_trace_that_is_cut_off_gives_its_whole_events_and_says_so(write):
    data = json.dumps(job(steps=5)[0]).encode()
    for cut in range(len(data) // 2, len(data) - 3, 997):
        trace = load_trace(write(data[:cut]))
        assert len(trace) > 20
        assert trace.gaps
    packed = gzip.compress(data)
    trace = load_trace(write(packed[: len(packed) - 40], "cut.json.gz"))
    assert any("compressed" in gap for gap in trace.gaps)


def test_a_trace_that_is_damaged_in_the_middle_says_so(write):
    data = bytearray(json.dumps(job(steps=5)[0]).encode())
    data[len(data) // 2 : len(data) // 2 + 3] = b"\x00}}"
    trace = load_trace(write(bytes(data)))
    assert len(trace) > 10
    assert "damaged after" in trace.gaps[0]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"traceEvents": []}', b"\x1f\x8b\x08garbage", b'{"traceEvents": 7}', b"\x00" * 99]
)
def test_what_is_no_trace_is_refused(write, data):
    with pytest.raises(BadInput):
        load_trace(write(data))


def test_events_that_make_no_sense_are_counted_and_left_out(write):
    good = event("k", "kernel", 1, 1, 0, 7, correlation=1)
    bad = [{**good, "ts": "soon"}, {**good, "dur": -5}, {**good, "ts": 1e300}, {k: good[k] for k in good if k != "ts"}]
    trace = load_trace(write({"traceEvents": [good, *bad, 7, None, [], {"ph": "X", "ts": 1, "args": 7}]}))
    assert len(trace) == 2
    assert trace.gaps == ["4 events without a time that makes sense"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_traces_are_read_with_gaps_or_refused(tmp_path_factory, data):
    whole = bytearray(json.dumps(job(steps=1)[0]).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("trace") / "t.json"
    path.write_bytes(whole)
    try:
        trace = load_trace(str(path))
    except BadInput:
        return
    blame = Blame(trace)
    assert flame(blame)["value"] == sum(trace.duration[each] for each in trace.by_kind(KERNEL, COPY))


# --- arithmetic ---

INTERVALS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda each: (min(each), max(each))), max_size=12
)


@given(INTERVALS)
def test_merged_intervals_cover_the_same_moments_once(intervals):
    moments = {at for start, end in intervals for at in range(start, end)}
    found = merged(intervals)
    assert {at for start, end in found for at in range(start, end)} == moments
    assert length(found) == len(moments)
    assert all(before[1] < after[0] for before, after in zip(found, found[1:], strict=False))
    assert length(found) + length(gaps_between(found, 0, 60)) == 60


def small_trace(kernels, host):
    trace = Trace("test")
    for number, (start, end) in enumerate(kernels):
        kind = ("gemm", "ncclAllReduce", "Memcpy")[number % 3]
        category = "gpu_memcpy" if kind == "Memcpy" else "kernel"
        trace.add(event(kind, category, start, end - start, 0, number % 2, correlation=number + 1))
        trace.add(event("cudaLaunchKernel", "cuda_runtime", max(0, start - 3), 1, 9, 9, correlation=number + 1))
    for number, (start, end) in enumerate(host):
        trace.add(event(f"f{number}", ("python_function", "cpu_op")[number % 2], start, end - start, 9, 9))
    return trace


@given(INTERVALS, INTERVALS)
def test_the_parts_of_a_device_sum_up_to_its_span_and_the_blame_to_its_idle_time(kernels, host):
    trace = small_trace(kernels, host)
    blame = Blame(trace)
    idle = 0
    for device, events in device_events(trace).items():
        split = split_device(trace, device, events, blame.launches)
        parts = split.compute_ns + split.exposed_communication_ns + split.exposed_copy_ns + split.idle_ns
        assert parts == split.span_ns
        assert min(split.compute_ns, split.exposed_communication_ns, split.exposed_copy_ns, split.idle_ns) >= 0
        moments = {at for each in events for at in range(trace.start[each], trace.end(each), 1000)}
        assert split.idle_ns == split.span_ns - 1000 * len(moments)
        idle += split.idle_ns
    assert sum(each.idle_ns for each in idle_causes(blame)) == idle
    total = sum(trace.duration[each] for each in trace.by_kind(KERNEL, COPY))
    assert flame(blame)["value"] == total
    assert sum(int(line.rpartition(" ")[2]) for line in folded(flame(blame))) == total
    assert sum(row.total_ns for row in kernel_table(trace)) == total
    assert sum(row.total_ns for row in launched(blame)) == total


def test_a_job_with_a_known_answer_is_split_as_it_was_made(write):
    trace = load_trace(write(job(steps=10)[0]))
    blame = Blame(trace)
    ((device, events),) = device_events(trace).items()
    split = split_device(trace, device, events, blame.launches)
    assert split.exposed_communication_ns == pytest.approx(10 * 500_000, rel=1e-3)
    assert split.compute_ns == pytest.approx(10 * 4 * 900_000, rel=0.02)
    assert split.unlinked == 0
    assert split.idle_ns == pytest.approx(9 * (WAIT_US + 65) * 1000, rel=0.01)
    worst = idle_causes(blame)[0]
    assert (worst.cause, worst.frame) == ("data loading", "torch/utils/data/dataloader.py(700): __next__")
    assert worst.idle_ns == pytest.approx(9 * WAIT_US * 1000, rel=1e-3)
    rows = launched(blame)
    assert {(row.operator, row.frame) for row in rows if row.kernel.startswith("sm90")} == {
        ("aten::mm", "model.py(33): forward")
    }


def test_the_flame_graph_goes_from_python_over_the_operator_to_the_kernel(write):
    lines = list(folded(flame(Blame(load_trace(write(job(steps=2)[0]))))))
    stack = "ProfilerStep;train.py(20): train_step;model.py(33): forward;aten::mm;cudaLaunchKernel;sm90_gemm_1"
    assert any(line.startswith(f"GPU;{stack} ") for line in lines)
    assert not any("ProfilerStep#" in line for line in lines), "steps are one tower"


def test_what_autograd_launches_belongs_to_the_line_whose_operator_it_derives():
    """Autograd's thread has no Python; the profiler links its operators to those of the forward pass."""
    trace = Trace("test")
    for number, line in enumerate(("model.py(7): first", "model.py(9): second")):
        at = 100 * number
        trace.add(event(line, "python_function", at, 50, 1, 1))
        trace.add(event("aten::mm", "cpu_op", at + 10, 20, 1, 1))
        trace.add({"ph": "s", "cat": "fwdbwd", "id": number, "pid": 1, "tid": 1, "ts": at + 10})
        back = 1000 - 100 * number
        trace.add(event("MmBackward0", "cpu_op", back, 50, 1, 2))
        trace.add({"ph": "f", "cat": "fwdbwd", "id": number, "pid": 1, "tid": 2, "ts": back, "bp": "e"})
        trace.add(event("cudaLaunchKernel", "cuda_runtime", back + 5, 5, 1, 2, correlation=number + 1))
        trace.add(event(f"kernel_{number}", "kernel", back + 20, 40, 0, 7, correlation=number + 1))
    trace.add(event("cudaLaunchKernel", "cuda_runtime", 1100, 5, 1, 2, correlation=9))
    trace.add(event("unlinked", "kernel", 1120, 40, 0, 7, correlation=9))
    for broken in ({"id": "x", "ts": 1}, {"id": 7}, {"id": 8, "ts": "soon"}):
        assert not trace.add({"ph": "f", "cat": "fwdbwd", **broken})
    assert {row.kernel: row.frame for row in launched(Blame(trace))} == {
        "kernel_0": "model.py(7): first",
        "kernel_1": "model.py(9): second",
        "unlinked": "",
    }
    lines = list(folded(flame(Blame(trace))))
    assert "GPU;model.py(7): first;MmBackward0;cudaLaunchKernel;kernel_0 40000" in lines


def test_a_kernel_without_a_launch_is_counted_and_not_dropped(write):
    (document,) = job(steps=2)
    document["traceEvents"] = [each for each in document["traceEvents"] if each.get("name") != "cudaLaunchKernel"]
    trace = load_trace(write(document))
    blame = Blame(trace)
    ((device, events),) = device_events(trace).items()
    split = split_device(trace, device, events, blame.launches)
    assert split.unlinked == 8
    assert flame(blame)["value"] == sum(trace.duration[each] for each in events)
    assert "unrecorded" in {each.cause for each in idle_causes(blame)}


@pytest.mark.parametrize(
    ("category", "runtime"),
    [("kernel", "cuda_runtime"), ("Kernel", "Runtime"), ("kernel", "hip_runtime"), ("Kernel", "cuda_driver")],
)
def test_names_of_old_and_new_profilers_for_cuda_and_rocm_are_known(write, category, runtime):
    events = [
        event(
            "aten::mm", "Operator" if category == "Kernel" else "cpu_op", 0, 20, 1, 1, **{"Call stack": "a.py(3): f"}
        ),
        event("launch", runtime, 5, 2, 1, 1, correlation=3),
        event("gemm", category, 10, 5, 0, 7, correlation=3),
    ]
    (row,) = launched(Blame(load_trace(write({"traceEvents": events}))))
    assert (row.operator, row.frame, row.total_ns) == ("aten::mm", "a.py(3): f", 5000)


def test_each_call_of_an_operator_has_its_own_call_stack_in_older_traces(write):
    events = []
    for number, told in enumerate(("attention.py(10): qk; a.py(1): f", "mlp.py(20): up", "")):
        at = 100 * number
        stack = {"Call stack": told} if told else {}
        events += [
            event("module", "cpu_op", at, 40, 1, 1, **({} if told else {"Call stack": "outer.py(5): forward"})),
            event("aten::mm", "cpu_op", at + 1, 20, 1, 1, **stack),
            event("launch", "cuda_runtime", at + 5, 2, 1, 1, correlation=number + 1),
            event(f"gemm_{number}", "kernel", at + 30, 50, 0, 7, correlation=number + 1),
        ]
    rows = launched(Blame(load_trace(write({"traceEvents": events}))))
    assert {row.kernel: row.frame for row in rows} == {
        "gemm_0": "attention.py(10): qk",
        "gemm_1": "mlp.py(20): up",
        "gemm_2": "outer.py(5): forward",
    }


def test_all_kernels_of_a_graph_launch_share_its_frame(write):
    events = [
        event("replay.py(9): run", "python_function", 0, 20, 1, 1),
        event("cudaGraphLaunch", "cuda_runtime", 5, 2, 1, 1, correlation=3),
        *(event(f"k{number}", "kernel", 10 + number, 1, 0, 7, correlation=3) for number in range(5)),
    ]
    rows = launched(Blame(load_trace(write({"traceEvents": events}))))
    assert {row.frame for row in rows} == {"replay.py(9): run"}
    assert len(rows) == 5


# --- several traces ---


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.3])
def test_the_rank_that_the_others_kernels_wait_for_is_named_without_a_common_clock(write, factor):
    documents = job(ranks=4, steps=40, slow=2, factor=factor)
    shifted = copy.deepcopy(documents)
    for rank, document in enumerate(shifted):
        for each in document["traceEvents"]:
            each["ts"] += 5_000_000 * rank
    for some in (documents, shifted):
        (verdict,) = slow_in_traces([load_trace(write(each)) for each in some])
        assert verdict.rank == (2 if factor > 1 else -1)


def test_a_diff_is_antisymmetric_and_names_what_changed(write):
    before = load_trace(write(job(steps=20)[0]))
    after = load_trace(write(job(steps=20, slow=0, factor=1.1, seed=1)[0]))
    forth = {each.name: each for each in compare(before, after)}
    back = {each.name: each for each in compare(after, before)}
    assert forth.keys() == back.keys()
    for name, each in forth.items():
        assert (each.total_ns, each.calls, each.median_ns) == tuple(
            -number for number in (back[name].total_ns, back[name].calls, back[name].median_ns)
        )
        assert each.p_value == pytest.approx(back[name].p_value)
    assert forth["sm90_gemm_0"].p_value < 1e-6
    assert forth["sm90_gemm_0"].total_ns > 0
    assert all(each.total_ns == 0 and each.p_value == 1.0 for each in compare(before, before))


def test_equal_samples_are_no_change_and_shifted_ones_are():
    rng = random.Random(3)
    left = [rng.gauss(1000, 50) for _ in range(300)]
    assert mann_whitney(left, [rng.gauss(1000, 50) for _ in range(300)]) > 0.01
    assert mann_whitney(left, [rng.gauss(1030, 50) for _ in range(300)]) < 1e-6
    assert mann_whitney([5] * 20, [5] * 20) == 1.0
    assert mann_whitney([1] * 7, [2] * 700) != mann_whitney([1] * 7, [2] * 700), "NaN: too few to tell"


# --- what is written ---


def test_an_export_reads_back_to_the_nanosecond(write, tmp_path):
    trace = load_trace(write(job(steps=3)[0]))
    for name in ("out.json", "out.json.gz"):
        export([trace], str(tmp_path / name))
        again = load_trace(str(tmp_path / name))
        assert sorted(columns(again)[0][0]) == sorted(trace.start)
        assert sum(again.duration) == sum(trace.duration)
        assert sorted(columns(again)[1]) == sorted(columns(trace)[1])


def test_rows_of_the_page_hold_every_event_once_and_never_two_at_one_moment(write):
    trace = load_trace(write(job(steps=3)[0]))
    trace.add(event("outlasts", "cpu_op", 1_000_010, 10_000_000, 1000, 1000))
    data = page_data([trace], "t")
    assert sum(row["count"] for lane in data["lanes"] for row in lane["rows"]) == len(trace)
    import base64
    import struct
    import zlib

    for lane in data["lanes"]:
        for row in lane["rows"]:
            blob, count = zlib.decompress(base64.b64decode(row["data"])), row["count"]
            starts = struct.unpack(f"<{count}d", blob[: 8 * count])
            durations = struct.unpack(f"<{count}d", blob[8 * count : 16 * count])
            assert all(starts[at] + durations[at] <= starts[at + 1] for at in range(count - 1))


def test_a_hostile_name_does_not_leave_the_pages_data(write):
    name = "</script><script>alert(1)</script>\u2028<!--"
    events = [event(name, "kernel", 1, 1, 0, 7)]
    text = page([load_trace(write({"traceEvents": events}))], name).decode()
    assert text.count("</script>") == 1
    assert "alert(1)</script" not in text
    assert "src=" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_verbs_say_where_the_time_went(write, tmp_path, capsys):
    paths = [write(each) for each in job(ranks=4, steps=30, slow=1, factor=1.2)]
    out = [str(tmp_path / name) for name in ("page.html", "flame.txt", "all.json.gz")]
    assert main(["timeline", "trace", *paths, "--page", out[0], "--flame", out[1], "--export", out[2]]) == 0
    text = capsys.readouterr().out
    assert "% computing" in text
    assert "data loading" in text
    assert "SLOW 0 [0, 1, 2, 3]" in text
    assert "rank 1 is last in 30 of 30" in text
    assert "nanosecond" not in text
    assert len(load_trace(out[2])) == sum(len(load_trace(path)) for path in paths)
    assert main(["timeline", "diff", paths[0], paths[1], "--top", "3"]) == 0
    assert "sm90_gemm" in capsys.readouterr().out
    assert main(["timeline", "trace", str(tmp_path / "none.json")]) == 2


def test_a_large_trace_is_read_in_a_small_multiple_of_its_columns(write, monkeypatch):
    import tracemalloc

    path = write(job(steps=3000)[0], separators=(",", ":"))
    source = TraceFile(path)
    tracemalloc.start()
    events = sum(len(piece) for piece in source.pieces())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert events > 50_000
    assert peak < 24 << 20, "pieces, not the whole document"
