from __future__ import annotations

import dataclasses
import tracemalloc

import pytest

from osremed.hotspot import records
from osremed.hotspot.book import Book
from osremed.hotspot.collect import MARGIN_NS, profile_of
from osremed.hotspot.model import INTERPRETER_LOCK, Frame, Profile
from osremed.hotspot.ring import Window
from osremed.hotspot.segment import Segment
from osremed.hotspot.symbols import Symbols, merge
from osremed.sensors import kallsyms, perfmap
from tests.unit.hotspot.made import RUN, START_NS, book, raw, segment, text

KERNEL = kallsyms.parse(b"0000000000001000 T do_read\n0000000000002000 t proc_reg_read\tx\n")
FUTEX = 202


def seen(*segments: Segment, from_s: float = 0.0, to_s: float = 10.0, names: Book | None = None) -> Profile:
    symbols = Symbols(
        lambda _: KERNEL, lambda pid, path, build_id: None, lambda pid: perfmap.parse(b"700000 100 Hello::run\n")
    )
    start_ns, end_ns = START_NS + round(from_s * 1e9), START_NS + round(to_s * 1e9)
    return profile_of(Window(segments, (), {RUN: [names or book()]}), start_ns, end_ns, symbols)


def away(begin_s: float, end_s: float, tid: int = 8, **other: object) -> records.Raw:
    facts = {"kernel": (0x1001,), **other}
    return raw(round(end_s * 1e9), records.AWAY, tid=tid, syscall=FUTEX, since_ns=round(begin_s * 1e9), **facts)


def test_a_sample_has_its_process_container_call_and_named_stack() -> None:
    found = seen(segment(raw(kernel=(0x2004, 0x1001), syscall=0))).samples[0]
    assert (found.process, found.container, found.syscall) == ("app", "abc", "read")
    assert [each.name for each in found.stack] == ["do_read", "proc_reg_read"]
    assert found.weight_ns == round(1e9 / 99)


def test_only_the_window_counts() -> None:
    found = seen(segment(*(raw(round(at * 1e9)) for at in (0.5, 2.5, 3.5, 9.5))), from_s=2, to_s=4)
    assert [each.at_ns - START_NS for each in found.samples] == [2_500_000_000, 3_500_000_000]


def test_a_number_that_belongs_to_another_process_now_gets_no_name_of_it() -> None:
    other = raw(start_ns=77_000_000_000, comm="later")
    assert seen(segment(other)).samples[0].process == "later"


def test_a_wait_counts_with_its_part_inside_the_window() -> None:
    found = seen(segment(away(1.0, 6.0)), from_s=4, to_s=5).samples
    assert [(each.state, each.weight_ns, each.wait_ns) for each in found] == [("off", 10**9, 5 * 10**9)]


def test_a_wait_that_ends_in_a_later_segment_is_joined() -> None:
    found = seen(segment(), segment(away(9.0, 12.0), start_s=10), from_s=8, to_s=10).samples
    assert [each.weight_ns for each in found] == [10**9]


def test_each_sampled_wait_stands_for_those_of_its_length() -> None:
    """A thread that waits once for 6 s must not be shared out over the short waits of the others."""
    buckets = [0] * 20
    buckets[14], buckets[19] = 200, 1  # 16 to 32 ms; from 0.5 s on
    blocked = [{"pid": 7, "name": "app", "syscall": FUTEX, "count": 201, "total_ns": 10 * 10**9,
                "longest_ns": 6 * 10**9, "buckets": buckets}]  # fmt: skip
    found = seen(segment(away(1.0, 1.02), away(3.0, 3.02, tid=9), blocked=blocked))
    assert [each.weight_ns for each in found.samples] == [100 * 20_000_000] * 2
    assert (found.blocked[0].total_s, found.blocked[0].syscall) == (10.0, "futex")


def test_a_stack_of_the_segment_before_is_found_and_one_that_is_nowhere_is_a_gap() -> None:
    before, after = segment(), segment(start_s=10)
    stack, event = records.build(raw(at_ns=11 * 10**9, kernel=(0x1001,)))
    early = Segment(before.start_ns, before.end_ns, before.tables, records.join([stack]))
    late = Segment(after.start_ns, after.end_ns, after.tables, records.join([event]))
    assert [each.stack[0].name for each in seen(early, late, to_s=20).samples] == ["do_read"]
    alone = seen(late, to_s=20)
    assert not alone.samples
    assert any("a stack that no segment here holds" in gap for gap in alone.gaps)


def test_an_event_has_its_own_leaf() -> None:
    """Samples of a loop share one stack; where in the loop each was is its own."""
    stack, event = records.build(raw(user=(0x10, 0x20)))
    other = event[:32] + (0x18).to_bytes(8, "little") + event[40:]
    found = list(records.read(records.join([stack, event, other]), records.stacks_of(records.join([stack]))))
    assert [each and each.user for each in found] == [(0x10, 0x20), (0x18, 0x20)]


def test_a_futex_inside_of_cpython_is_the_interpreter_lock() -> None:
    row = {"pid": 7, "start_ticks": 100, "name": "app", "container": "", "inside": 7, "maps": [],
           "runtime": [0x5000, 0x6000]}  # fmt: skip
    stacks = [seen(segment(away(1, 2, argument=at)), names=book(row)).samples[0].stack for at in (0x5008, 0x6000)]
    assert [INTERPRETER_LOCK in stack for stack in stacks] == [True, False]


def test_python_frames_get_name_file_and_line() -> None:
    table = bytes([0x80 | 11 << 3 | 7, 0, 0, 0x80 | 12 << 3 | 0, 0, 0])  # eight instructions on line 39, one on 41
    names = book(texts=records.join([text(3, "Work.do", "/srv/w.py", first_line=38, table=table)]))
    stack = seen(segment(raw(python=(records.NAMED | 3, 16, 0x8000, 1))), names=names).samples[0].stack
    assert stack == (Frame("python", "[code 0x8000]"), Frame("python", "Work.do", "/srv/w.py", 41))


def test_a_name_of_another_run_of_the_recorder_is_not_taken() -> None:
    """Each run counts its texts and stacks from one."""
    names = book(texts=records.join([text(3, "Work.do", "/srv/w.py")]))
    other = segment(raw(python=(records.NAMED | 3, 0)), run=RUN + 1)
    assert seen(other, names=names).samples[0].stack == (Frame("python", "[code 0x3]"),)
    stack, event = records.build(raw(kernel=(0x1001,)))
    parts = [Segment(each.start_ns, each.end_ns, each.tables, records.join([part]))
             for each, part in ((segment(), stack), (segment(run=RUN + 1), event))]  # fmt: skip
    assert not seen(*parts).samples


def test_code_made_at_run_time_is_named_by_the_perf_map() -> None:
    row = {"pid": 7, "start_ticks": 100, "name": "java", "container": "", "inside": 7, "language": "java",
           "maps": [[0x700000, 0x800000, 0, "", ""]]}  # fmt: skip
    stack = seen(segment(raw(user=(0x700010,))), names=book(row)).samples[0].stack
    assert stack == (Frame("java", "Hello::run"),)


def test_native_code_without_symbols_keeps_object_and_offset() -> None:
    row = {"pid": 7, "start_ticks": 100, "name": "app", "container": "", "inside": 7,
           "maps": [[0x400000, 0x500000, 0x1000, "/usr/lib/libx.so", "ab"]]}  # fmt: skip
    stack = seen(segment(raw(user=(0x400100,))), names=book(row)).samples[0].stack
    assert stack == (Frame("native", "[libx.so+0x1100]", "/usr/lib/libx.so"),)


def test_python_stands_for_the_interpreter_and_keeps_what_it_called() -> None:
    native = [Frame("native", name) for name in ("_start", "_PyEval_EvalFrameDefault", "cfunction", "sha256_update")]
    python = [Frame("python", "main"), Frame("python", "digest")]
    assert [each.name for each in merge(python, native)] == ["main", "digest", "cfunction", "sha256_update"]


def test_our_own_programs_are_not_on_the_stack() -> None:
    kernel = kallsyms.parse(b"1000 t bpf_prog_ab_on_switch\n2000 t bpf_trace_run4\n3000 t __schedule\n")
    symbols = Symbols(lambda _: kernel, lambda *_: None, lambda _: None)
    window = Window((segment(away(1, 2, kernel=(0x1001, 0x2001, 0x3001))),), (), {RUN: [book()]})
    found = profile_of(window, START_NS, START_NS + 10**10, symbols)
    assert [each.name for each in found.samples[0].stack] == ["__schedule"]


def test_what_was_not_recorded_is_a_gap() -> None:
    assert seen(segment(raw(), length_s=4.0)).gaps[0].startswith("6.0 s of the window were not recorded")
    assert "the ring holds nothing of this window" in seen().gaps


def test_rates_are_counts_over_the_time_that_was_looked() -> None:
    opened = [raw(round(at * 1e8), records.OPENED, path="/proc/net/tcp") for at in range(1, 11)]
    calls = [{"pid": 7, "name": "app", "syscall": 0, "count": 50, "bytes": 5000}]
    found = seen(segment(*opened, calls=calls, windows_s=0.2))
    assert (found.open_rates[0].path, found.open_rates[0].per_s) == ("/proc/net/tcp", 50.0)
    assert (found.call_rates[0].syscall, found.call_rates[0].per_s, found.call_rates[0].mean_bytes) == (
        "read",
        250,
        100,
    )


def test_a_rate_that_changed_in_the_window_is_not_told_as_one() -> None:
    found = seen(segment(raw()), segment(raw(15 * 10**9), start_s=10, hz=49), to_s=20)
    assert found.mode.hz == 0
    assert [each.weight_ns for each in found.samples] == [round(1e9 / 99), round(1e9 / 49)]


def test_a_damaged_stream_of_records_is_said() -> None:
    bad = segment(raw())
    broken = Segment(bad.start_ns, bad.end_ns, bad.tables, bad.records[:-9])
    found = seen(broken)
    assert any("does not fit" in gap for gap in found.gaps)


@pytest.mark.parametrize("late_s", [1, 19])
def test_the_margin_reaches_further_than_a_segment(late_s: int) -> None:
    assert late_s * 10**9 < MARGIN_NS


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (records.USER_CUT, "without unwind rows"),
        (records.PYTHON_UNKNOWN, "state was not found"),
        (records.PYTHON_CUT, "deeper than"),
        (records.PYTHON_ERROR, "could not be read"),
    ],
)
def test_samples_whose_stack_is_not_whole_are_a_gap(flag: int, said: str) -> None:
    found = seen(segment(raw(1_000_000, flags=flag | records.UNWOUND), raw(2_000_000, flags=flag), raw(3_000_000)))
    assert [gap.split()[0] for gap in found.gaps if said in gap] == ["2"]
    assert not [gap for gap in seen(segment(raw(flags=records.UNWOUND))).gaps if said in gap]


@pytest.mark.parametrize("flag", [records.PYTHON_CUT, records.PYTHON_ERROR])
def test_a_python_stack_without_its_root_says_so_there(flag: int) -> None:
    assert seen(segment(raw(python=(records.NAMED | 1, 0), flags=flag))).samples[0].stack[0].name == "[deeper]"
    assert "[deeper]" not in [part.name for part in seen(segment(raw(user=(0x5000,), flags=flag))).samples[0].stack]


def test_many_events_of_few_stacks_cost_the_memory_of_few_stacks() -> None:
    """A look for traps at a minute of sixty busy CPUs has half a million of them."""
    count, addresses = 20_000, tuple(range(0x1000, 0x1000 + 40))
    stack, event = records.build(raw(user=addresses, comm="worker"))
    events = []
    for at in range(count):
        fields = list(records.EVENT.unpack(event))
        fields[3] = at * 400_000
        events.append(records.EVENT.pack(*fields))
    made = segment()
    made = dataclasses.replace(made, records=records.join([stack, *events]))
    tracemalloc.start()
    try:
        found = seen(made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.samples) == count
    assert len({id(each.stack) for each in found.samples}) == 1
    assert peak < 600 * count
