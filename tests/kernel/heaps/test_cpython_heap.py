"""What is said of a running CPython against what it planted: counts to the object, holders by name, growth by rate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from types import SimpleNamespace

import pytest

from osremed.core.reading import Reason
from osremed.panorama.heaps.collect import Wish, collect_heaps, read_heap
from osremed.panorama.heaps.growth import compare, sentence
from osremed.panorama.heaps.model import HeapReport, NoHeap
from osremed.panorama.layers import run_layer
from osremed.panorama.sources import HeapWish, kernel_sources
from tests.kernel.heaps.conftest import PLANTER, RELEASES, interpreters

pytestmark = pytest.mark.kernel

N = 20_000
LONG = Wish(limit_s=60.0, rows=400)


def command(release: str, count: int = N) -> list[str]:
    found = interpreters()
    if release not in found:
        pytest.skip(f"no CPython {release} is installed here")
    return [found[release], PLANTER, str(count)]


def report_of(pid: int, wish: Wish = LONG) -> HeapReport:
    heap = read_heap(pid, wish)
    assert isinstance(heap, HeapReport), heap
    return heap


@pytest.mark.parametrize("release", RELEASES)
def test_planted_objects_are_counted_to_the_object(start, release):
    target = start(command(release))
    seen = report_of(target.pid).snapshot
    assert seen.runtime.startswith(f"CPython {release}")
    assert seen.coverage == 1.0
    counts = {
        row.name.removeprefix("__main__.") if row.name.startswith("__main__.") else row.name: row.count
        for row in seen.types
    }
    assert {name: counts[name] for name in target.planted["counts"]} == target.planted["counts"]


@pytest.mark.parametrize("release", RELEASES)
def test_bytes_are_those_of_getsizeof(start, release):
    target = start(command(release))
    sizes = {row.name.split(".")[-1]: row.bytes for row in report_of(target.pid).snapshot.types}
    for name in ("Slotted", "Point"):
        assert sizes[name] == target.planted["bytes"][name]
    planted = target.planted["bytes"]
    assert sizes["list"] == pytest.approx(planted["list"], rel=0.1)  # small ones by sample
    # The collector does not track the table of interned strings and dicts of plain values; they are on the heap.
    assert 0.95 * planted["dict"] <= sizes["dict"] <= planted["dict"] + (1 << 20)


@pytest.mark.parametrize("release", RELEASES)
def test_large_containers_are_named_by_what_holds_them(start, release):
    target = start(command(release))
    holders = {row.path: row for row in report_of(target.pid).snapshot.holders}
    expected = {
        "__main__.Registry.sessions": (N, "Session"),
        "__main__.CACHE": (N, "Slotted"),
        "__main__.shop.basket.items": (N // 2, "Point"),
        "__main__.QUEUE": (N // 2, "bytes"),
        "__main__.SEEN": (N // 2, "str"),
        "__main__.cached.<_lru_cache_wrapper>": (N // 4, "tuple"),
    }
    assert {path: (holders[path].items, holders[path].element) for path in expected} == expected


def test_growth_is_a_sentence_with_rate_and_holder(start):
    target = start(command("3.11"))
    before = report_of(target.pid).snapshot
    assert target.say("grow 30000") == "50000"
    after = report_of(target.pid).snapshot
    growth = compare(before, after)
    assert growth.holders[0].path == "__main__.Registry.sessions"
    assert growth.holders[0].items_per_s * growth.window_s == pytest.approx(30_000)
    types = {row.name: row.count_per_s * growth.window_s for row in growth.types}
    assert types["__main__.Session"] == pytest.approx(30_000)
    said = sentence("python", target.pid, after, growth)
    assert "held in __main__.Registry.sessions: dict of Session, 50,000 items" in said


def test_two_looks_at_a_leak_while_it_leaks(start):
    target = start(command("3.13", 1000))
    target.say("leak")
    heap = read_heap(target.pid, Wish(growth_s=1.0, limit_s=60.0))
    assert isinstance(heap, HeapReport)
    assert "grows by" in heap.sentence
    assert "held in __main__.Registry.sessions" in heap.sentence


def test_a_process_that_stands_still_is_said_not_to_grow(start):
    target = start(command("3.11"))
    heap = read_heap(target.pid, Wish(growth_s=1.0, limit_s=60.0))
    assert isinstance(heap, HeapReport)
    assert "did not grow" in heap.sentence


def test_the_target_never_stands_still(start):
    """Its own clock thread sees no longer gap while it is read than in a control period of the same length, beyond the
    noise of a shared machine."""
    target = start(command("3.12", 100_000))
    target.say("watch")
    read_heap(target.pid, LONG)  # pages of the reader itself are in memory from here on
    worst_read, worst_control = [], []
    for _round in range(3):
        target.say("gap")
        took_s = report_of(target.pid).duration_s
        worst_read.append(float(target.say("gap")))
        threading.Event().wait(took_s)
        worst_control.append(float(target.say("gap")))
    assert min(worst_read) <= 5 * max(worst_control) + 20, (worst_read, worst_control)


def test_a_sample_is_said_to_be_one_and_holders_are_found_all_the_same(start):
    """Whatever part of it a second is enough for on this machine."""
    target = start(command("3.11", 200_000))
    heap = read_heap(target.pid, Wish(limit_s=1.5, rows=400))
    if isinstance(heap, NoHeap):
        assert heap.missing.reason is Reason.TIMED_OUT
        return
    assert (heap.snapshot.coverage < 0.999) == any("scaled up" in gap.detail for gap in heap.snapshot.gaps)
    named = [holder.path for holder in heap.snapshot.holders if holder.path]  # the interpreter's own hang on no module
    assert not named or named[0].startswith("__main__.")


def test_several_heaps_are_answered_in_order_and_in_bounded_memory(start):
    targets = [start(command("3.11", 50_000)), start(command("3.12", 1000)), start(["/bin/sh", "-c", "echo {}; cat"])]
    heaps = collect_heaps([one.pid for one in targets], Wish(limit_s=30.0))
    assert [one.pid for one in heaps] == [one.pid for one in targets]
    assert [type(one) for one in heaps[:2]] == [HeapReport, HeapReport]
    json.dumps([one.as_json() for one in heaps])


def test_a_process_that_ends_while_it_is_read_is_gone(start):
    target = start(command("3.11", 200_000))
    killer = threading.Timer(0.3, target.process.kill)
    killer.start()
    heap = read_heap(target.pid, LONG)
    killer.join()
    assert isinstance(heap, NoHeap)
    assert heap.missing.reason in (Reason.GONE, Reason.NO_DATA)


def test_a_process_that_becomes_another_program_is_gone(start):
    target = start(command("3.11", 200_000))

    def become_another():
        target.process.stdin.write("exec\n")
        target.process.stdin.flush()

    changer = threading.Timer(0.3, become_another)
    changer.start()
    heap = read_heap(target.pid, LONG)
    changer.join()
    assert isinstance(heap, NoHeap)
    assert heap.missing.reason in (Reason.GONE, Reason.NO_DATA, Reason.TIMED_OUT)


def test_without_the_right_to_look_it_is_denied(start):
    target = start(command("3.11", 1000))
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        heap = read_heap(target.pid, Wish())
        os._exit(42 if isinstance(heap, NoHeap) and heap.missing.reason is Reason.DENIED else 1)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42


def test_an_interpreter_without_symbols_and_section_names_is_read_too(start, tmp_path):
    found = interpreters()["3.11"]
    real = os.path.realpath(found)
    library = subprocess.run(["ldd", real], capture_output=True, text=True, check=True).stdout
    paths = [word for word in library.split() if "libpython3" in word and word.startswith("/")]
    stripped = tmp_path / (os.path.basename(paths[0]) if paths else "python3.11")
    subprocess.run(["objcopy", "--strip-all", paths[0] if paths else real, str(stripped)], check=True)
    _blank_symbol_names(stripped)
    options = {"env": {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}}
    target = start([real, PLANTER, "2000"], **options)
    stripped.unlink()  # nothing but the mapping itself leads to the file now
    counts = {row.name: row.count for row in report_of(target.pid).snapshot.types}
    assert counts["__main__.Session"] == 2000


def test_an_interpreter_in_a_mount_namespace_of_its_own_is_read(start, tmp_path):
    """Its files are at paths that do not exist here."""
    found = interpreters()["3.11"]
    home = os.path.dirname(os.path.dirname(os.path.realpath(found)))
    hidden = "/mnt/only-in-there"
    script = (
        "mount -t tmpfs none /mnt && mkdir $1 && mount --bind $2 $1 && "
        'exec env LD_LIBRARY_PATH=$1/lib PYTHONHOME=$1 $1/bin/python3.11 "$3" 2000'
    )
    made = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if made.returncode != 0 or not os.path.exists(f"{home}/bin/python3.11"):
        pytest.skip("mount namespaces, or a CPython 3.11 with a home of its own, are not to be had here")
    target = start(["unshare", "--mount", "sh", "-ec", script, "sh", hidden, home, PLANTER])
    assert not os.path.exists(hidden)
    counts = {row.name: row.count for row in report_of(target.pid).snapshot.types}
    assert counts["__main__.Session"] == 2000


def test_the_largest_processes_are_a_layer_of_the_panorama(start):
    targets = [start(command("3.11", count)) for count in (1000, 40_000)]
    rows = [SimpleNamespace(pid=one.pid) for one in reversed(targets)]  # the largest first, as the table has them
    heaps = kernel_sources(HeapWish(count=1)).heaps
    documents, layer, gaps = run_layer("heaps", lambda progress: heaps(progress, rows), [], 100.0)
    assert [one["pid"] for one in documents] == [targets[1].pid]
    assert "__main__.CACHE" in {row["path"] for row in documents[0]["holders"]}
    assert layer.finished
    assert gaps == ()


def _blank_symbol_names(path) -> None:
    """Section headers off: the loader does not need them, and no symbol is found by section any more."""
    data = bytearray(path.read_bytes())
    data[40:48] = bytes(8)
    data[60:64] = bytes(4)
    path.write_bytes(data)


CRAFTED = """
#include <stdio.h>
#include <unistd.h>
struct object { unsigned long count; void *type; unsigned long rest[60]; };
struct object PyType_Type = {1, &PyType_Type, {0}};
struct { char cookie[8]; unsigned long release, free_threaded, rest[60]; } _PyRuntime = {
    {'x', 'd', 'e', 'b', 'u', 'g', 'p', 'y'}, RELEASE, FREE_THREADED, {0}};
int main(void) { puts("{}"); fflush(stdout); pause(); return 0; }
"""


@pytest.mark.parametrize(
    ("release", "free_threaded", "told"),
    [("0x030e00f0", 0, "CPython 3.14.0 is not read"), ("0x030e00f0", 1, "CPython 3.14.0 free-threaded is not read"),
     ("0x030d00f0", 1, "CPython 3.13.0 free-threaded is not read")],
)  # fmt: skip
def test_a_release_or_build_that_is_not_read_says_which_it_is(start, tmp_path, release, free_threaded, told):
    """No such interpreter can be had here: a program that says of itself what one would say."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "python3.14"
    flags = ["-rdynamic", f"-DRELEASE={release}", f"-DFREE_THREADED={free_threaded}", "-x", "c", "-"]
    subprocess.run([compiler, "-o", program, *flags], input=CRAFTED, text=True, check=True)
    heap = read_heap(start([str(program)]).pid, Wish(limit_s=30.0))
    assert isinstance(heap, NoHeap), heap
    assert heap.missing.reason is Reason.UNSUPPORTED
    assert told in heap.missing.detail
