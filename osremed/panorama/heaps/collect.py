"""Heaps of some processes, each read by a child of its own that is ended when it is late.

A child keeps the collector bounded whatever it meets: a file system that hangs, structures that mislead, memory that
the interpreter would not give back."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.panorama.heaps import java, native, python
from osremed.panorama.heaps.growth import COMPARED_ROWS, compare, recorded_sentence, sentence
from osremed.panorama.heaps.java_recording import new_name, recorded, stop_for_another
from osremed.panorama.heaps.model import Heap, HeapReport, NoHeap, Recording, Snapshot
from osremed.sensors import cpython, jattach, procfs
from osremed.sensors.address_space import AddressSpace, ProcessLost, open_address_space

_AT_ONCE = 2
_GRACE_S = 3.0
_RECORDING_COMMANDS = 4


@record
class Wish:
    """How to look: `growth_s` between two snapshots (None: one snapshot), `limit_s` for each, `consent` to methods that
    pause the target, `rows` of types and of holders."""

    growth_s: float | None = None
    limit_s: float = 6.0
    consent: bool = False
    rows: int = 20


@record
class _Reader:
    """A child that reads the heap of `pid`, until `ends_s`. `recording`: the name of what it may leave in a JVM."""

    child: ForkProcess
    pipe: Connection
    pid: int
    start_time_ticks: int
    recording: str
    ends_s: float


def collect_heaps(pids: Sequence[int], wish: Wish, root: str = procfs.PROC) -> tuple[Heap, ...]:
    """One answer per pid, in order. Two processes are read at a time. Needs the right to ptrace them."""
    waiting = list(enumerate(pids))
    answers: dict[int, Heap] = {}
    running: dict[int, _Reader] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                place, pid = waiting.pop(0)
                running[place] = _start(pid, wish, root)
            next_end_s = min(each.ends_s for each in running.values())
            pipes = [each.pipe for each in running.values()]
            multiprocessing.connection.wait(pipes, max(0.0, next_end_s - time.monotonic()))
            for place, each in list(running.items()):
                if each.pipe.poll() or time.monotonic() >= each.ends_s:
                    answers[place] = _finish(running.pop(place), wish, root)
    finally:  # interrupted
        for each in running.values():
            _end(each, wish, root, whole=False)
    return tuple(answers[place] for place in range(len(pids)))


def longest_s(wish: Wish) -> float:
    """No process takes longer, its end included."""
    return _patience_s(wish) + (wish.limit_s + _GRACE_S if _records(wish) else 0.0)


def _patience_s(wish: Wish) -> float:
    """After so long a process is given up. A look may overrun its limit by what it had begun; a recording is four
    commands of a JVM besides, and is not to be cut off before the last, which ends it."""
    looks = 1 if wish.growth_s is None else 2
    commands = _RECORDING_COMMANDS if _records(wish) else 0
    return (1.5 * looks + commands) * wish.limit_s + (wish.growth_s or 0.0) + _GRACE_S


def _records(wish: Wish) -> bool:
    return wish.consent and wish.growth_s is not None


def _start(pid: int, wish: Wish, root: str) -> _Reader:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    stat, name = procfs.stat(pid, root), new_name()
    child = context.Process(target=_child, args=(send, pid, wish, root, name), name=f"heap-{pid}", daemon=True)
    child.start()
    send.close()
    ticks = 0 if isinstance(stat, Missing) else stat.value.start_time_ticks
    return _Reader(child, receive, pid, ticks, name, time.monotonic() + _patience_s(wish))


def _child(pipe: Connection, pid: int, wish: Wish, root: str, recording: str) -> None:
    pipe.send(read_heap(pid, wish, root, recording))
    pipe.close()


def _finish(reader: _Reader, wish: Wish, root: str) -> Heap:
    pid, source = reader.pid, f"{root}/{reader.pid}"
    late = f"no answer within {_patience_s(wish):.1f} s"
    whole = False
    try:
        if not reader.pipe.poll():
            return NoHeap(pid, _name(pid, root), Missing(Reason.TIMED_OUT, source, late))
        answer: Heap = reader.pipe.recv()
        whole = True
    except EOFError:
        answer = NoHeap(pid, _name(pid, root), Missing(Reason.MALFORMED, source, "the reader died on what it read"))
    finally:
        _end(reader, wish, root, whole=whole)
    return answer


def _end(reader: _Reader, wish: Wish, root: str, *, whole: bool) -> None:
    """Ends the child. One that was not `whole` may have left a recording in the JVM: another child, which may hang as
    well, ends that."""
    reader.pipe.close()
    reader.child.kill()
    reader.child.join()
    if whole or not _records(wish):
        return
    given = (reader.pid, reader.start_time_ticks, reader.recording, wish.limit_s, root)
    after = multiprocessing.get_context("fork").Process(target=stop_for_another, args=given, daemon=True)
    after.start()
    after.join(wish.limit_s + _GRACE_S)
    after.kill()
    after.join()


def _name(pid: int, root: str) -> str:
    stat = procfs.stat(pid, root)
    return "?" if isinstance(stat, Missing) else stat.value.comm


def read_heap(pid: int, wish: Wish, root: str = procfs.PROC, recording_name: str = "") -> Heap:
    """The heap of one process, read in this process. `recording_name`: for whoever ends it when this process cannot."""
    began_s, cpu_s = time.monotonic(), time.process_time()
    name = _name(pid, root)
    stat = procfs.stat(pid, root)
    if isinstance(stat, Missing):
        return NoHeap(pid, name, stat)
    wide = wish if wish.growth_s is None else replace(wish, rows=max(wish.rows, COMPARED_ROWS))
    first = _look(pid, wide, root)
    if isinstance(first, Missing):
        return NoHeap(pid, name, first)
    seen, growth, recording = first.value, None, None
    if wish.growth_s is not None:
        recording = _recording(pid, wish, seen, root, recording_name or new_name())
        time.sleep(max(0.0, seen.monotonic_s + wish.growth_s - time.monotonic()))
        second = _look(pid, wide, root)
        if isinstance(second, Missing):
            return NoHeap(pid, name, second)
        growth = compare(seen, second.value, wide.rows)
        seen = _cut(second.value, wish.rows)
    now = procfs.stat(pid, root)
    if isinstance(now, Missing) or now.value.start_time_ticks != stat.value.start_time_ticks:
        return NoHeap(pid, name, Missing(Reason.GONE, f"{root}/{pid}", "it ended meanwhile"))
    return HeapReport(
        pid=pid,
        start_time_ticks=stat.value.start_time_ticks,
        name=name,
        sentence=sentence(name, pid, seen, growth)
        + (recorded_sentence(recording.value) if isinstance(recording, Value) else ""),
        snapshot=seen,
        growth=growth,
        duration_s=time.monotonic() - began_s,
        cpu_s=time.process_time() - cpu_s,
        recording=recording,
    )


def _cut(seen: Snapshot, rows: int) -> Snapshot:
    return replace(seen, types=seen.types[:rows], holders=seen.holders[:rows], arenas=seen.arenas[:rows])


def _recording(pid: int, wish: Wish, seen: Snapshot, root: str, name: str) -> Reading[Recording] | None:
    """Of a JVM that was asked with consent, for as long as it is watched; None for what is none."""
    if seen.runtime != java.RUNTIME or not wish.consent or wish.growth_s is None:
        return None
    opened = open_address_space(pid, root)
    if isinstance(opened, Missing):
        return opened
    try:
        return recorded(opened.value, name, wish.growth_s, wish.limit_s, seen.resident_bytes)
    except ProcessLost as lost:
        return lost.missing


def _look(pid: int, wish: Wish, root: str) -> Reading[Snapshot]:
    opened = open_address_space(pid, root)
    if isinstance(opened, Missing):
        return opened
    try:
        return _snapshot(opened.value, wish)
    except ProcessLost as lost:
        return lost.missing


def _snapshot(space: AddressSpace, wish: Wish) -> Reading[Snapshot]:
    """By what is mapped: a JVM, a CPython, else what glibc's malloc holds."""
    jvm = jattach.jvm_mapping(space)
    if isinstance(jvm, Value) or jvm.reason is not Reason.NO_DATA:
        return java.snapshot(space, wish.limit_s, wish.rows, wish.consent)
    if cpython.python_images(space.maps):
        return python.snapshot(space, wish.limit_s, wish.rows)
    return native.snapshot(space, wish.limit_s, wish.rows)
