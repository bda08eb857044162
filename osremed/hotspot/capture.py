"""What a number will mean later: mappings, build ids, containers and code names, taken while the process is alive."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from osremed.core.reading import Missing, Value
from osremed.hotspot.containers import container_of
from osremed.sensors import elf, procfs
from osremed.sensors.address_space import AddressSpace, Mapping, ProcessLost, parse_maps
from osremed.sensors.pyframes import (
    CodeName,
    Interpreter,
    Layout,
    code_marks,
    code_names,
    find_interpreter,
    line_of,
)

_MOST_MAPS = 512
_MOST_CODES = 3000
_SURE_NAMES = 8
_SETTLED_S = 60.0  #: modules are imported before; what is freed later is rarely code
_MOST_NAMED = 4096
_MOST_BUILD_IDS = 4096
#: Libraries and an interpreter come with time: maps are read again after so many samples (when the sampler wakes the
#: recorder, hotspot.bpf.c: wake_for), later each time after twice as long.
_SAMPLES = (3, 10, 40)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 30.0, 480.0
_TICK_NS = 10_000_000
_CODE_LINE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ [r-][w-]x.*$", re.MULTILINE)

Key = tuple[int, int, int]  #: pid, start in clock ticks, which of the programs it became (exec)


class Walks:
    """How many lines may still be looked up: each takes 50 us, and a host where programs come and go would never be
    done. What is left without a line gets one when it is seen again."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


class Named:
    """A code object of CPython; the same for all processes that have it."""

    __slots__ = ("_code", "_lines", "_version", "file", "name")

    def __init__(self, code: CodeName, version: tuple[int, int]) -> None:
        self.name, self.file = code.name, sys.intern(code.file)
        self._code, self._version = code, version
        self._lines: dict[int, int] = {}

    def line(self, index: int, walks: Walks) -> int:
        """Of an instruction; 0: it has none, or is not to be looked for now."""
        if index not in self._lines:
            if not walks.take():
                return 0
            self._lines[index] = line_of(self._version, self._code.table, self._code.first_line, index)
        return self._lines[index]


class Captured:
    """One program of a process. `row` is what a segment holds of it."""

    def __init__(self, key: Key, row: dict[str, Any], now_s: float) -> None:
        self.key, self.row = key, row
        self.space: AddressSpace | None = None
        self.interpreter: Interpreter | None = None
        self.codes: dict[int, tuple[bytes, Named]] = {}  #: by address: what tells it from another one there
        self.samples = 0
        self.told = False  #: its frames are walked by the sampler
        self.replaced = False  #: it is another program by now
        self.changed = True  #: the mappings, since whoever looks at them has last set it to False
        self.first_s = self.read_s = now_s
        self.read_at, self.wait_s = 0, _FIRST_WAIT_S
        self.code_maps = b""

    def stale(self, now_s: float) -> bool:
        """Whether its mappings should be read again."""
        limit = next((each for each in _SAMPLES if each > self.read_at), None)
        return self.samples >= limit if limit is not None else now_s - self.read_s >= self.wait_s


class Capture:
    """All processes that were seen lately. Kernel threads have neither maps nor address space."""

    def __init__(self, proc_root: str = procfs.PROC) -> None:
        self._root = proc_root
        self._build_ids: dict[tuple[str, int], str] = {}
        self._symbols: dict[str, dict[str, tuple[int, int]]] = {}
        self._named: dict[tuple[bytes, str, str], Named] = {}
        self._programs: dict[tuple[int, int], int] = {}
        self.processes: dict[Key, Captured] = {}
        self.denied = 0

    def see(self, key: Key, samples: int, now_s: float) -> Captured | None:
        """The facts of a program that has been sampled so often; None when it has ended already or the number is
        another's now."""
        known = self.processes.get(key)
        if known is not None:
            known.samples = max(known.samples, samples)
            if known.stale(now_s):
                self._read_maps(known, now_s)
            return known
        pid = key[0]
        stat = procfs.stat(pid, self._root)
        if isinstance(stat, Missing) or stat.value.start_time_ticks != key[1]:
            return None
        cgroup = procfs.read_parsed(f"{self._root}/{pid}/cgroup", procfs.text)
        row = {
            "pid": pid,
            "start_ticks": key[1],
            "exec": key[2],
            "name": stat.value.comm,
            "container": container_of(cgroup.value) if isinstance(cgroup, Value) else "",
            "cgroup": cgroup.value[:1024] if isinstance(cgroup, Value) else "",
            "inside": self._pid_inside(pid),
            "language": "",
            "maps": [],
        }
        before = self.processes.get((pid, key[1], self._programs.get(key[:2], -1)))
        if before is not None:
            before.replaced = True
        self._programs[key[:2]] = key[2]
        captured = self.processes[key] = Captured(key, row, now_s)
        captured.samples = samples
        if not stat.value.kernel_thread:
            self._read_maps(captured, now_s)
        return captured

    def _pid_inside(self, pid: int) -> int:
        """Its number in its own PID namespace: what names its perf map."""
        status = procfs.read_parsed(f"{self._root}/{pid}/status", _last_nspid)
        return status.value if isinstance(status, Value) and status.value else pid

    def _read_maps(self, captured: Captured, now_s: float) -> None:
        pid = captured.key[0]
        captured.wait_s = (
            min(_LONGEST_WAIT_S, captured.wait_s * 2) if captured.read_at > _SAMPLES[-1] else _FIRST_WAIT_S
        )
        captured.read_s, captured.read_at = now_s, captured.samples
        lines = procfs.read_parsed(f"{self._root}/{pid}/maps", _code_lines)
        if isinstance(lines, Missing):
            return
        if lines.value != captured.code_maps:
            captured.code_maps, captured.changed = lines.value, True
            code = list(parse_maps(lines.value))[:_MOST_MAPS]
            captured.row["maps"] = [
                [mapping.start, mapping.end, mapping.offset, mapping.path, self._build_id(pid, mapping)]
                for mapping in code
            ]
            captured.row["language"] = _language(code)
        if captured.interpreter is None and captured.row["language"] == "python":
            self._find_python(captured, tuple(parse_maps(lines.value)))

    def _find_python(self, captured: Captured, maps: tuple[Mapping, ...]) -> None:
        space = AddressSpace(captured.key[0], maps, (captured.key[1], b""), self._root)
        try:
            found = find_interpreter(space, self._symbols)
        except ProcessLost:
            self.denied += 1
            return
        if isinstance(found, Value):
            captured.space, captured.interpreter = space, found.value
            runtime = found.value.runtime
            captured.row["runtime"] = [runtime, runtime + found.value.runtime_bytes]

    def _build_id(self, pid: int, mapping: Mapping) -> str:
        if not mapping.path.startswith("/"):
            return ""
        key = (mapping.device, mapping.inode)
        if key not in self._build_ids:
            if len(self._build_ids) >= _MOST_BUILD_IDS:
                self._build_ids.clear()
            self._build_ids[key] = self._read_build_id(pid, mapping)
        return self._build_ids[key]

    def _read_build_id(self, pid: int, mapping: Mapping) -> str:
        opened = elf.open_mapped(pid, mapping, self._root)
        if isinstance(opened, Missing):
            return ""
        with open(opened.value, "rb", buffering=0) as stream:
            parsed = elf.read_elf(stream.fileno(), mapping.path)
        if isinstance(parsed, Missing) or isinstance(parsed.value.build_id, Missing):
            return ""
        return parsed.value.build_id.value

    def name_codes(self, captured: Captured, addresses: Iterable[int], most: int) -> int:
        """Reads names of code objects not known yet, at most `most` (or a few); how many. What cannot be read is
        tried again, and so is what lies now where another one was: a module's own code is freed after its import, and
        functions follow it."""
        if captured.space is None or captured.interpreter is None:
            return 0
        layout, wanted = captured.interpreter.layout, list(addresses)
        try:
            fresh = [each for each in wanted if each not in captured.codes]
            if captured.read_s - captured.first_s < _SETTLED_S:
                marks = code_marks(captured.space, layout, [each for each in wanted if each in captured.codes])
                fresh += [each for each, mark in marks.items() if captured.codes[each][0] != mark]
            del fresh[max(most, _SURE_NAMES) :]
            if len(captured.codes) + len(fresh) > _MOST_CODES:
                captured.codes.clear()
            found = code_names(captured.space, layout, fresh) if fresh else {}
        except ProcessLost:
            return 0
        for address, code in found.items():
            captured.codes[address] = (code.mark, self._name(layout, code))
        return len(fresh)

    def _name(self, layout: Layout, code: CodeName) -> Named:
        key = (code.table, code.name, code.file)
        if key not in self._named:
            if len(self._named) >= _MOST_NAMED:
                self._named.clear()
            self._named[key] = Named(code, layout.version)
        return self._named[key]

    def forget_ended(self) -> list[Captured]:
        """Drops what has ended or became another program, and tells it."""
        ended = [each for each in self.processes.values() if each.replaced or not self._alive(each.key)]
        for each in ended:
            del self.processes[each.key]
            if not each.replaced:
                self._programs.pop(each.key[:2], None)
        return ended

    def _alive(self, key: Key) -> bool:
        stat = procfs.stat(key[0], self._root)
        return not isinstance(stat, Missing) and stat.value.start_time_ticks == key[1]


def _code_lines(data: bytes) -> bytes:
    """The executable mappings alone: large programs have a thousand mappings and thirty of code."""
    return b"\n".join(_CODE_LINE.findall(data))


def _last_nspid(data: bytes) -> int:
    """The innermost number of `NSpid:`; 0 where the kernel has no such line (before 4.1)."""
    for line in data.splitlines():
        if line.startswith(b"NSpid:"):
            return procfs.number(line.split()[-1])
    return 0


def _language(maps: list[Mapping]) -> str:
    """By the names of what is mapped."""
    for mapping in maps:
        base = mapping.path.rpartition("/")[2]
        for prefix, language in _PREFIXES:
            if base.startswith(prefix):
                return language
    return ""


_PREFIXES = (("libpython", "python"), ("python", "python"), ("libjvm", "java"), ("node", "node"))


def code_rows(captured: Captured, pairs: Iterable[tuple[int, int]], walks: Walks) -> list[dict[str, Any]]:
    """What a segment holds of the code objects it has frames of: name, file, and the lines of the instructions seen."""
    if captured.interpreter is None:
        return []
    wanted: dict[int, list[int]] = {}
    for code, instruction in pairs:
        if code in captured.codes:
            wanted.setdefault(code, []).append(instruction)
    return [_code_row(captured, captured.interpreter.layout, *each, walks) for each in wanted.items()]


def _code_row(captured: Captured, layout: Layout, code: int, instructions: list[int], walks: Walks) -> dict[str, Any]:
    known = captured.codes[code][1]
    pid, start_ticks, program = captured.key
    lines = ((each, known.line(layout.index(code, each), walks)) for each in instructions)
    return {
        "pid": pid,
        "start_ticks": start_ticks,
        "exec": program,
        "code": code,
        "name": known.name,
        "file": known.file,
        "lines": [[each - code, line] for each, line in lines if line],
    }
