"""The loader against a real kernel: every way to attach and run a program, every way to read what it kept."""

from __future__ import annotations

import ctypes
import gc
import os
import struct
import subprocess
import sys
import time
import zipfile

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors.bpf import features, libbpf, loader, perf
from osremed.sensors.bpf.programs import measuring

pytestmark = pytest.mark.kernel

GOOD = ("sum", "write_records", "on_exit", "on_raw_exit", "on_tracepoint", "on_clock", "on_call", "tasks")


@pytest.fixture
def load(every_kind):
    opened = []

    def load(programs=GOOD, max_entries=None, **more):
        loaded = loader.load_bytes(every_kind, "every_kind", programs=programs, max_entries=max_entries or {}, **more)
        if isinstance(loaded, Value):
            opened.append(loaded.value)
        return loaded

    yield load
    for objects in opened:
        objects.close()


def key(number):
    return struct.pack("=Q", number)


def value_of(objects, number):
    found = objects.map("counts").lookup(key(number))
    return struct.unpack("=Q", found)[0] if found else 0


def until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_program_runs_on_request_with_its_arguments(load):
    assert load().value.program("sum").run(40, 2) == 42


def test_a_refused_program_says_what_the_verifier_said(load):
    log = []
    refused = load(programs=None, log=log)
    assert isinstance(refused, Missing)
    assert refused.reason is Reason.UNSUPPORTED
    assert "invalid mem access" in refused.detail
    assert any("BEGIN PROG LOAD LOG" in line for line in log)


def test_programs_that_were_not_asked_for_are_not_loaded(load):
    objects = load(programs=("sum",)).value
    assert [program.name for program in objects.programs] == ["sum"]


def test_a_name_the_object_does_not_have_is_an_error_of_the_caller(load):
    with pytest.raises(KeyError, match="nothing"):
        load(programs=("nothing",))
    with pytest.raises(KeyError, match="nothing"):
        load(max_entries={"nothing": 1})


def test_bytes_that_are_no_object_are_unsupported():
    loaded = loader.load_bytes(b"\x7fELF" + bytes(100), "broken", programs=None, max_entries={})
    assert isinstance(loaded, Missing)
    assert loaded.reason is Reason.UNSUPPORTED


def test_map_sizes_can_be_chosen(load):
    objects = load(max_entries={"counts": 2, "ring": 4096}).value
    counts = objects.map("counts")
    counts.update(key(1), key(1))
    counts.update(key(2), key(1))
    with pytest.raises(OSError, match="too long"):
        counts.update(key(3), key(1))


def test_closing_leaves_nothing_in_the_kernel_and_no_descriptor(load):
    load().value.close()  # what the first load keeps for good (libbpf's own caches) is not counted
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    objects = load().value
    objects.program("on_exit").attach()
    objects.ring("ring")
    assert len(os.listdir("/proc/self/fd")) > before
    objects.close()
    objects.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_object_is_found_inside_a_zipapp(tmp_path, every_kind, load):
    """The loader is imported from an archive and takes the object out of the same archive."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(loader.__file__)))
    archive = tmp_path / "host.pyz"
    with zipfile.ZipFile(archive, "w") as target:
        for directory, _, files in os.walk(package):
            for name in files:
                if name.endswith(".py"):
                    path = os.path.join(directory, name)
                    target.write(path, os.path.relpath(path, os.path.dirname(package)))
        target.writestr(f"osremed/sensors/bpf/every_kind.{os.uname().machine}.bpf.o", every_kind)
        target.writestr(
            "__main__.py",
            "from osremed.sensors.bpf.loader import load\n"
            "with load('every_kind', programs=('sum',)).value as objects:\n"
            "    print(objects.program('sum').run(40, 2))\n",
        )
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(archive)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "42\n", done.stderr


# --- what is missing -------------------------------------------------------------------------------------------------


def test_an_object_that_was_not_built_is_said_so():
    missing = loader.load("no_such_object")
    assert isinstance(missing, Missing)
    assert missing.reason is Reason.UNSUPPORTED
    assert "make bpf" in missing.detail


def test_without_btf_nothing_is_loaded(load, monkeypatch):
    monkeypatch.setattr(features, "BTF", "/nonexistent")
    assert load().reason is Reason.UNSUPPORTED


def test_without_libbpf_nothing_is_loaded(load, monkeypatch):
    monkeypatch.setattr(libbpf, "NAME", "libbpf-is-not-here.so.1")
    monkeypatch.setattr(libbpf, "_loaded", libbpf._Loaded())
    missing = load()
    assert missing.reason is Reason.UNSUPPORTED
    assert "not installed" in missing.detail


@pytest.mark.parametrize("told", [True, False], ids=["by its capabilities", "by the kernel"])
def test_without_privilege_it_is_denied(load, every_kind, tmp_path, told):
    path = tmp_path / "object"
    path.write_bytes(every_kind)
    code = (
        "import os, sys\n"
        "from osremed.sensors.bpf import features, libbpf, loader\n"
        "libbpf.library()\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "os.setgid(65534); os.setuid(65534)\n"
        + ("" if told else "features._may_load = lambda: True\n")
        + "print(loader.load_bytes(data, 'x', programs=('sum',), max_entries={}).reason.value)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(loader.__file__))))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, check=False, cwd=root, timeout=60,
    )  # fmt: skip
    assert done.stdout == "denied\n", done.stderr


# --- attaching -------------------------------------------------------------------------------------------------------


def test_typed_and_raw_tracepoints_see_a_process_end(load, ended):
    objects = load(constants=key(0)).value
    assert isinstance(objects.program("on_exit").attach(), Value)
    link = objects.program("on_raw_exit").attach_raw_tracepoint("sched_process_exit").value
    ended()
    assert value_of(objects, 1) == value_of(objects, 2) == 0  # pid 0 was asked for
    link.detach()


def test_constants_reach_the_program_and_a_detached_link_sees_no_more(load):
    child = subprocess.Popen(["sleep", "60"])
    objects = load(constants=key(child.pid)).value
    objects.program("on_exit").attach()
    objects.program("on_raw_exit").attach_raw_tracepoint("sched_process_exit").value.detach()
    child.terminate()
    child.wait(timeout=10)
    until(lambda: value_of(objects, 1) == 1)
    assert value_of(objects, 2) == 0


def test_a_tracepoint_that_does_not_exist_is_unsupported(load):
    objects = load().value
    for missing in (
        objects.program("on_raw_exit").attach_raw_tracepoint("no_such_tracepoint"),
        objects.program("on_tracepoint").attach_tracepoint("sched", "no_such_tracepoint"),
    ):
        assert isinstance(missing, Missing)
        assert missing.reason is Reason.UNSUPPORTED


def test_a_tracepoint_of_tracefs_counts(every_kind, tmp_path):
    """In a mount namespace of its own, with tracefs mounted: hosts have it, this one may not."""
    path = tmp_path / "object"
    path.write_bytes(every_kind)
    code = (
        "import os, subprocess, sys\n"
        "subprocess.run(['mount', '-t', 'tracefs', 'tracefs', '/sys/kernel/tracing'], check=True)\n"
        "from osremed.sensors.bpf import loader\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "with loader.load_bytes(data, 'x', programs=('on_tracepoint',), max_entries={}).value as objects:\n"
        "    link = objects.program('on_tracepoint').attach_tracepoint('sched', 'sched_process_exit')\n"
        "    subprocess.run(['true'])\n"
        "    print(link.__class__.__name__, len(objects.map('counts').items()))\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(loader.__file__))))
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, check=False, cwd=root, timeout=60,
    )  # fmt: skip
    if "mount:" in done.stderr:
        pytest.skip("no tracefs in this kernel")
    assert done.stdout == "Value 1\n", done.stderr


def test_a_sampler_on_every_cpu_counts_the_clock(load):
    objects = load().value
    program = objects.program("on_clock")
    for cpu in perf.online_cpus().value:
        assert isinstance(program.attach_perf_event(perf.open_event(cpu, hz=500).value), Value)
    samples = objects.map("samples")

    def total():
        values = samples.lookup(bytes(4))
        return sum(struct.unpack(f"={len(values) // 8}Q", values))

    until(lambda: total() > 50)
    program.detach()
    settled = total()
    busy = time.monotonic() + 0.1
    while time.monotonic() < busy:
        pass
    assert total() == settled


def test_an_event_on_a_cpu_that_does_not_exist_is_missing():
    assert isinstance(perf.open_event(100_000, hz=10), Missing)


def test_a_uprobe_sees_calls_of_the_probed_function(load):
    libc = ctypes.CDLL(None)
    base, path = mapping_of(ctypes.cast(libc.getppid, ctypes.c_void_p).value)
    objects = load().value
    offset = ctypes.cast(libc.getppid, ctypes.c_void_p).value - base
    linked = objects.program("on_call").attach_uprobe(path, offset, pid=os.getpid())
    if isinstance(linked, Missing):
        pytest.skip(str(linked))
    for _ in range(7):
        libc.getppid()
    assert value_of(objects, 4) == 7


def mapping_of(address):
    """(address - offset in the file, path) of the mapping that holds it."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            span, _, offset, _, _, *path = line.split()
            low, high = (int(word, 16) for word in span.split("-"))
            if low <= address < high:
                return low - int(offset, 16), path[0]
    raise AssertionError("not mapped")


def test_an_iterator_lists_all_tasks(load):
    listed = load().value.program("tasks").read().value
    assert (os.getpid(), os.getpid()) in set(struct.iter_unpack("=ii", listed))


def test_the_cost_of_a_program_is_measured_on_request(load):
    program = load().value.program("sum")
    with measuring():
        for _ in range(100):
            program.run(1, 1)
    cost = program.cost().value
    assert cost.runs == 100
    assert 0 < cost.run_time_ns < 10**9
    program.run(1, 1)
    assert program.cost().value.runs == 100  # measuring has ended


# --- maps ------------------------------------------------------------------------------------------------------------


def test_a_map_holds_what_was_put_in_and_gives_all_of_it_at_once(load):
    counts = load(max_entries={"counts": 100_000}).value.map("counts")
    assert counts.items() == []
    counts.update_many((key(number), key(number * 2)) for number in range(100_000))
    assert counts.lookup(key(77)) == key(154)
    assert counts.delete(key(77))
    assert not counts.delete(key(77))
    assert counts.lookup(key(77)) is None
    found = {struct.unpack("=Q", k)[0]: struct.unpack("=Q", v)[0] for k, v in counts.items()}
    assert found == {number: number * 2 for number in range(100_000) if number != 77}
    assert len(counts.take()) == 99_999
    assert counts.items() == []


def test_one_by_one_gives_the_same_as_a_batch(load):
    counts = load().value.map("counts")
    counts.update_many((key(number), key(number)) for number in range(100))
    by_batch = sorted(counts.items())
    keys, values = counts._read_one_by_one(take=True)
    assert sorted(counts._split(keys, values)) == by_batch
    assert counts.items() == []


def test_a_per_cpu_value_has_one_part_for_each_cpu(load):
    samples = load().value.map("samples")
    assert samples.value_bytes >= 8 * len(perf.online_cpus().value)
    assert [k for k, _ in samples.items()] == [bytes(4)]


def test_a_key_or_value_of_the_wrong_length_is_refused(load):
    counts = load().value.map("counts")
    with pytest.raises(ValueError, match="8 bytes"):
        counts.lookup(b"short")
    with pytest.raises(ValueError, match="8 bytes"):
        counts.update(key(1), b"short")


# --- rings -----------------------------------------------------------------------------------------------------------


def numbers(batch):
    found = []
    for record in batch:
        number, other, again = struct.unpack("=III", record)
        assert other == again == number ^ 0xFFFFFFFF
        found.append(number)
    return found


def test_a_ring_gives_each_record_once_in_order_without_the_discarded(load):
    objects = load().value
    ring = objects.ring("ring")
    assert not ring.wait(0)
    assert objects.program("write_records").run(10) == 7
    assert ring.wait(5)
    assert numbers(ring.drain()) == [0, 1, 3, 4, 6, 7, 9]
    assert len(ring.drain()) == 0
    assert ring.waiting_bytes() == 0


def test_a_ring_goes_on_over_its_end(load):
    """24 bytes a record in 4096: the end falls inside a record."""
    objects = load(max_entries={"ring": 4096}).value
    ring, program = objects.ring("ring"), objects.program("write_records")
    for _ in range(60):
        program.run(100)
        assert numbers(ring.drain()) == [number for number in range(100) if number % 3 != 2]


def test_a_full_ring_loses_the_newest_and_goes_on_after_a_drain(load):
    objects = load(max_entries={"ring": 4096}).value
    ring, program = objects.ring("ring"), objects.program("write_records")
    program.run(1000)
    kept = numbers(ring.drain())
    assert kept == [number for number in range(len(kept) * 2) if number % 3 != 2][: len(kept)]
    assert 0 < len(kept) < 4096 // 16
    program.run(3)
    assert numbers(ring.drain()) == [0, 1]


def test_a_map_that_is_no_ring_cannot_be_read_as_one(load):
    with pytest.raises(ValueError, match="no ring"):
        load().value.ring("counts")
