"""The calls of this host's processes into CUDA and NCCL, followed: which files to probe, what each allocation means,
and when following costs too much."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Items
from typing import Any

from osremed.core.reading import Missing, Reading, Value, reading_as_json
from osremed.core.record import record
from osremed.sensors import elf, procfs
from osremed.sensors.address_space import AddressSpace, Mapping, ProcessLost, mappings, open_address_space
from osremed.sensors.functions import read_functions
from osremed.sensors.pyframes import Interpreter, Known, code_names, find_interpreter, line_of
from osremed.timeline.callmaps import call_libraries, mapping_at
from osremed.timeline.callprobes import (
    ALLOCATES,
    CHOOSES,
    COLLECTIVE,
    ENTERS,
    FREES,
    FUNCTIONS,
    PYTHON_ERROR,
    PYTHON_UNKNOWN,
    WAITS,
    Call,
    CallProbes,
    File,
    Flight,
    Sum,
    open_probes,
)
from osremed.timeline.ledger import UNSEEN, Held, Ledger, Line, Place, by_device, device_number, place_json, shares
from osremed.timeline.memorychain import chain
from osremed.timeline.ordinals import Sight, on_gpu

#: What is let go first when the calls are too many.
_STEPS = (
    (ALLOCATES, FREES, CHOOSES, ENTERS, WAITS, COLLECTIVE),
    (ALLOCATES, FREES, CHOOSES, ENTERS),
    (ALLOCATES, FREES),  # of no known GPU: a program that changes contexts all the time
    (),
)
_RETRY_S = 600.0
_MOST_CODES = 3000
_MOST_PROCESSES = 512
_MOST_WAIT_ROUNDS = 64


@record
class Budget:
    """More than `calls_per_s` traps of all processes, and the probes step down."""

    calls_per_s: float


class Followed:
    """A process with a library that is probed."""

    def __init__(self, key: tuple[int, int], name: str) -> None:
        self.key, self.name = key, name
        self.ledger = Ledger()
        self.maps: tuple[Mapping, ...] = ()
        self.files: tuple[File, ...] = ()
        self.space: AddressSpace | None = None
        self.interpreter: Interpreter | None = None
        self.names: dict[tuple[int, int], Line] = {}
        self.unread = 0
        self.gap = ""
        self.missed = False

    def alive(self, root: str) -> bool:
        """Whether it is still the same program: a process seen between its fork and its exec is another one now."""
        stat = procfs.stat(self.key[0], root)
        if isinstance(stat, Missing) or stat.value.start_time_ticks != self.key[1]:
            return False
        try:
            if self.space is not None:
                self.space.check_same()
        except ProcessLost:
            return False
        return True


class Calls:
    """All of it; `look` each round, `take` when the descriptor is readable. Without BPF there is a Missing and nothing
    is followed."""

    def __init__(self, budget: Budget, root: str = procfs.PROC) -> None:
        opened = open_probes()
        self.probes: Reading[CallProbes] = opened
        self.processes: dict[int, Followed] = {}
        self.gaps: dict[File, str] = {}
        self.step = 0
        self.lost = 0
        self._budget, self._root = budget, root
        self._rounds: dict[int, tuple[int, int]] = {}
        self._others: dict[int, tuple[File, ...]] = {}  # mapped by those that are too many to be followed
        self._known: Known = {}
        self._before = (time.monotonic(), 0)
        self._stepped_s = 0.0

    def close(self) -> None:
        if isinstance(self.probes, Value):
            self.probes.value.close()

    # --- which processes ---

    def look(self, holders: Iterable[int]) -> None:
        """Finds libraries to probe. `holders`: pids that the driver names. Others are looked at when they are new and
        then less and less often: a library may come late."""
        if isinstance(self.probes, Missing):
            return
        self.take()
        self._count(self.probes.value)
        again = self._forget_ended(self.probes.value)
        if self.step == len(_STEPS) - 1:
            return
        for pid in dict.fromkeys([*again, *self._due(set(holders))]):
            self._look_at(pid, self.probes.value)

    def _due(self, holders: set[int]) -> list[int]:
        """Which processes to look at now. A number that another process has taken since waits as the old one did."""
        found = procfs.pids(self._root)
        alive = sorted(holders) if isinstance(found, Missing) else found.value
        due, rounds = [], {}
        for pid in alive:
            waited, limit = self._rounds.get(pid, (0, 1))
            if waited + 1 >= limit or (pid in holders and pid not in self.processes):
                due.append(pid)
                waited, limit = -1, min(limit * 2, _MOST_WAIT_ROUNDS)
            rounds[pid] = (waited + 1, limit)
        self._rounds = rounds
        return due

    def _look_at(self, pid: int, probes: CallProbes) -> None:
        libraries, maps = call_libraries(pid, self._root)
        if not libraries:
            return
        for mapping in libraries:
            attached = probes.attach(pid, mapping, _STEPS[self.step], self._root)
            file = (mapping.device, mapping.inode)
            if isinstance(attached, Missing):
                self.gaps[file] = f"{mapping.path}: {attached.detail or attached.reason.value}"
            else:
                self.gaps.pop(file, None)
        if pid not in self.processes and len(self.processes) < _MOST_PROCESSES:
            self._follow(pid, probes)
        if pid in self.processes:
            self.processes[pid].maps, self.processes[pid].files = maps, _files(libraries)
        else:
            self._others[pid] = _files(libraries)

    def _follow(self, pid: int, probes: CallProbes) -> Followed | None:
        stat = procfs.stat(pid, self._root)
        if isinstance(stat, Missing):
            return None
        followed = self.processes[pid] = Followed((pid, stat.value.start_time_ticks), stat.value.comm)
        opened = open_address_space(pid, self._root)
        if isinstance(opened, Missing):
            followed.gap = f"its memory cannot be read: {opened}"
            return followed
        try:
            found = find_interpreter(opened.value, self._known)
        except ProcessLost as error:
            followed.gap = str(error)
            return followed
        if isinstance(found, Missing):
            followed.gap = f"no Python lines: {found.detail}"
            return followed
        followed.space, followed.interpreter = opened.value, found.value
        try:
            probes.set_python(pid, found.value)
        except OSError as error:
            followed.gap = f"no Python lines: {error.strerror}"
        return followed

    def _forget_ended(self, probes: CallProbes) -> list[int]:
        """Processes, and the files that none of the rest maps. The pids of those to be looked at again."""
        for pid, followed in list(self.processes.items()):
            if not followed.alive(self._root):
                del self.processes[pid]
                probes.forget_python(pid)
                probes.forget_sums(pid)
        self._others = {
            pid: files
            for pid, files in self._others.items()
            if pid not in self.processes and os.path.exists(f"{self._root}/{pid}")
        }
        used = {**self._others, **{pid: followed.files for pid, followed in self.processes.items()}}
        again = probes.keep({file for files in used.values() for file in files})
        self.gaps = {file: gap for file, gap in self.gaps.items() if any(file in files for files in used.values())}
        return [pid for pid, files in used.items() if not again.isdisjoint(files)]

    # --- what it costs ---

    def _count(self, probes: CallProbes) -> None:
        now_s = time.monotonic()
        hits, self.lost = probes.tally()
        (then_s, before), self._before = self._before, (now_s, hits)
        rate = (hits - before) / max(now_s - then_s, 1e-3)
        if rate > self._budget.calls_per_s and self.step < len(_STEPS) - 1:
            probes.detach(set(_STEPS[self.step]) - set(_STEPS[self.step + 1]))
            self.step, self._stepped_s = self.step + 1, now_s
        elif self.step and now_s - self._stepped_s > _RETRY_S:
            probes.detach(set(FUNCTIONS.values()))
            probes.forget_files()
            self._rounds.clear()  # so that all processes are looked at now, and their files attached again
            if self.step == len(_STEPS) - 1:
                for followed in self.processes.values():
                    followed.ledger, followed.missed = Ledger(), True
            self.step = 0

    # --- what was called ---

    def take(self) -> None:
        """Enters what came into the ledgers, with names while the process is alive. They are read anew each time: where
        a code object was another one may be by now, of the next cell of a notebook. 0.3 ms for 30 frames."""
        if isinstance(self.probes, Missing):
            return
        for each in self.processes.values():
            each.names.clear()
        for call in self.probes.value.drain():
            followed = self.processes.get(call.pid)
            if followed is None:  # a child of a process that is followed, or one that was not looked at yet
                followed = self._follow(call.pid, self.probes.value)
                if followed is not None:
                    followed.files = _files(call_libraries(call.pid, self._root)[0])
            if followed is None or followed.key[1] != call.start_ticks:
                continue
            if FUNCTIONS[call.function] == FREES:
                followed.ledger.freed(call.address)
            elif call.result:
                followed.ledger.refused(self._place(followed, call, self.probes.value))
            else:
                place = self._place(followed, call, self.probes.value)
                followed.ledger.allocated(call.address, Held(call.at_ns, call.bytes, place))

    def _place(self, followed: Followed, call: Call, probes: CallProbes) -> Place:
        if call.flags & (PYTHON_ERROR | PYTHON_UNKNOWN):
            followed.unread += 1
        mapping = mapping_at(followed.maps, call.caller)
        if mapping is None:
            found = mappings(call.pid, self._root)
            followed.maps = followed.maps if isinstance(found, Missing) else found.value
            mapping = mapping_at(followed.maps, call.caller)
        library, offset = ("", 0) if mapping is None else (mapping.path, call.caller - mapping.start + mapping.offset)
        seen = call.device < 0 or call.device_since_ns >= probes.choices_since_ns(followed.files)
        device = call.device if seen else UNSEEN
        return Place(call.function, library, offset, self._lines(followed, call.python), device)

    def _lines(self, followed: Followed, pairs: Sequence[tuple[int, int]]) -> tuple[Line, ...]:
        fresh = [pair for pair in pairs if pair not in followed.names]
        if fresh and followed.space is not None and followed.interpreter is not None:
            if len(followed.names) + len(fresh) > _MOST_CODES:
                followed.names.clear()
                fresh = list(pairs)
            try:
                _name(followed.names, followed.space, followed.interpreter, fresh)
            except ProcessLost:
                followed.unread += 1
        return tuple(followed.names.get(pair) or Line(f"[code {pair[0]:#x}]", "?", 0) for pair in pairs)

    # --- what it means ---

    def explain(self, sights: Items[int, Sight], grown_bytes: int, since_ns: int) -> list[dict[str, Any]]:
        """The chain of each of these processes (by pid), the one that allocated most first; one that is not followed
        says so. Only what lies on the GPU in sight, or may lie there."""
        self.take()
        told = [self._chain(pid, each, grown_bytes, since_ns) for pid, each in sights.items()]
        return sorted(told, key=lambda each: -each["seen_bytes"])

    def _chain(self, pid: int, sight: Sight, grown_bytes: int, since_ns: int) -> dict[str, Any]:
        followed = self.processes.get(pid)
        if followed is None:
            why = str(self.probes) if isinstance(self.probes, Missing) else "it maps no library that is probed"
            return {"pid": pid, **chain([], grown_bytes, {}, [why])}
        found, unknown = on_gpu(shares(followed.ledger, since_ns), sight)
        symbols = {share.place: self._symbol(followed, share.place) for share in found[:3]}
        boot_wall_ns = time.time_ns() - time.monotonic_ns()
        told = chain(found, grown_bytes, symbols, [*unknown, *self._gaps_of(followed)], boot_wall_ns)
        return {"pid": pid, "name": followed.name, **told}

    def _symbol(self, followed: Followed, place: Place) -> str:
        """The function that called, where the library's symbols tell it."""
        for mapping in followed.maps:
            if mapping.path == place.library:
                break
        else:
            return ""
        opened = elf.open_mapped(followed.key[0], mapping, self._root)
        if isinstance(opened, Missing):
            return ""
        try:
            parsed = elf.read_elf(opened.value, mapping.path)
            functions = parsed if isinstance(parsed, Missing) else read_functions(opened.value, parsed.value)
        finally:
            os.close(opened.value)
        # A return address may be the first byte of the next function.
        return "" if isinstance(functions, Missing) else functions.value.name(place.offset - 1)

    def _gaps_of(self, followed: Followed) -> list[str]:
        ledger, gaps = followed.ledger, [followed.gap] if followed.gap else []
        if self.step:
            gaps.append("the probes have stepped down: the host makes more calls than may be followed")
        if followed.missed:
            gaps.append("the probes had stepped down: what it allocated before they came back is not told")
        if followed.unread:
            gaps.append(f"{followed.unread} allocations have no Python lines, or not all of them")
        if ledger.unkept:
            gaps.append(f"{ledger.unkept} allocations were too many to be kept")
        if self.lost:
            gaps.append(f"{self.lost} calls of all processes had no room in the ring")
        return gaps

    def sums(self) -> dict[tuple[int, str], Sum]:
        """Of processes that are there."""
        if isinstance(self.probes, Missing):
            return {}
        found = self.probes.value.sums()
        ended = {pid for pid in {pid for pid, _ in found} if not os.path.exists(f"{self._root}/{pid}")}
        for pid in ended:
            self.probes.value.forget_sums(pid)
        return {key: each for key, each in found.items() if key[0] not in ended}

    def flights(self) -> list[Flight]:
        """Calls that have not returned, of threads that are alive."""
        found = [] if isinstance(self.probes, Missing) else self.probes.value.flights()
        return [each for each in found if os.path.exists(f"{self._root}/{each.pid}/task/{each.tid}")]

    def document(self) -> dict[str, Any]:
        """What the status file says of it."""
        if isinstance(self.probes, Missing):
            return self.probes.as_json()
        hits, lost = self.probes.value.tally()
        return {
            "calls": hits,
            "lost": lost,
            "stepped_down": self.step,
            "libraries": len(self.probes.value.attached),
            "gaps": sorted(self.gaps.values())[:20],
            "processes": [self._process(each) for each in self.processes.values()],
        }

    def _process(self, followed: Followed) -> dict[str, Any]:
        found = shares(followed.ledger)
        return {
            "pid": followed.key[0],
            "name": followed.name,
            "held_bytes": sum(each.bytes for each in found),
            "held_by_device": [
                {"device": reading_as_json(device_number(device)), "bytes": held}
                for device, held in sorted(by_device(found).items())
            ],
            "allocations": followed.ledger.seen,
            "refused": sum(followed.ledger.failed.values()),
            "places": [
                {**place_json(each.place), "bytes": each.bytes, "count": len(each.sizes), "released": each.released}
                for each in found[:5]
            ],
            "gaps": self._gaps_of(followed),
        }


def _files(libraries: Iterable[Mapping]) -> tuple[File, ...]:
    return tuple((each.device, each.inode) for each in libraries)


def _name(
    names: dict[tuple[int, int], Line], space: AddressSpace, interpreter: Interpreter, pairs: Sequence[tuple[int, int]]
) -> None:
    by_code: dict[int, list[int]] = {}
    for code, instruction in pairs:
        by_code.setdefault(code, []).append(instruction)
    layout = interpreter.layout
    for code, known in code_names(space, layout, list(by_code)).items():
        for each in by_code[code]:
            line = line_of(layout.version, known.table, known.first_line, layout.index(code, each))
            names[code, each] = Line(known.name, known.file, line)
