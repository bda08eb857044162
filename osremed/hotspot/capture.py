"""What a number will mean later: mappings, build ids, containers and code names, taken while the process is alive."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from osremed.core.reading import Missing, Value
from osremed.hotspot.containers import container_of
from osremed.sensors import elf, procfs
from osremed.sensors.address_space import AddressSpace, Mapping, ProcessLost, open_address_space, parse_maps
from osremed.sensors.pyframes import (
    CodeName,
    Interpreter,
    Layout,
    code_names,
    find_interpreter,
    instruction_lines,
    thread_states,
)

_MOST_MAPS = 512
_MOST_CODES = 3000
_SURE_WALKS = 6
_MOST_BUILD_IDS = 4096
_AGES_S = (
    0.5,
    5.0,
    30.0,
)  #: libraries are loaded in the first seconds: maps are read again at these ages, then at 30 s
_TICK_NS = 10_000_000
_CODE_LINE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ [r-][w-]x.*$", re.MULTILINE)

Key = tuple[int, int]  #: pid, start in clock ticks


class Captured:
    """One process. `row` is what a segment holds of it."""

    def __init__(self, key: Key, row: dict[str, Any], now_s: float) -> None:
        self.key, self.row = key, row
        self.first_s = self.read_s = now_s
        self.space: AddressSpace | None = None
        self.interpreter: Interpreter | None = None
        self.codes: dict[int, CodeName] = {}
        self.lines: dict[int, dict[int, int]] = {}
        self.threads: tuple[int, ...] = ()

    def stale(self, now_s: float) -> bool:
        age_s = self.read_s - self.first_s
        wait_s = next((limit for limit in _AGES_S if age_s < limit), _AGES_S[-1])
        return now_s - self.read_s >= wait_s


class Capture:
    """All processes that were seen lately. Kernel threads have neither maps nor address space."""

    def __init__(self, proc_root: str = procfs.PROC) -> None:
        self._root = proc_root
        self._build_ids: dict[tuple[str, int], str] = {}
        self._symbols: dict[str, dict[str, tuple[int, int]]] = {}
        self.processes: dict[Key, Captured] = {}
        self.denied = 0

    def see(self, pid: int, start_ns: int, now_s: float) -> Captured | None:
        """The facts of a process a record named; None when it has ended already or the number is another's now."""
        key = (pid, start_ns // _TICK_NS)
        known = self.processes.get(key)
        if known is not None:
            if known.stale(now_s):
                self._became(known)
                self._read_maps(known, now_s)
            return known
        stat = procfs.stat(pid, self._root)
        if isinstance(stat, Missing) or stat.value.start_time_ticks != key[1]:
            return None
        cgroup = procfs.read_parsed(f"{self._root}/{pid}/cgroup", procfs.text)
        row = {
            "pid": pid,
            "start_ticks": key[1],
            "name": stat.value.comm,
            "container": container_of(cgroup.value) if isinstance(cgroup, Value) else "",
            "cgroup": cgroup.value[:1024] if isinstance(cgroup, Value) else "",
            "inside": self._pid_inside(pid),
            "language": "",
            "maps": [],
        }
        captured = self.processes[key] = Captured(key, row, now_s)
        if not stat.value.kernel_thread:
            self._read_maps(captured, now_s)
        return captured

    def _became(self, known: Captured) -> None:
        """A process that was seen between its fork and its exec is another program now, under the same key."""
        stat = procfs.stat(known.key[0], self._root)
        if isinstance(stat, Missing) or stat.value.comm == known.row["name"]:
            return
        known.row["name"] = stat.value.comm
        known.space = known.interpreter = None
        known.codes.clear()
        known.lines.clear()
        known.row.pop("runtime", None)

    def _pid_inside(self, pid: int) -> int:
        """Its number in its own PID namespace: what names its perf map and its threads."""
        status = procfs.read_parsed(f"{self._root}/{pid}/status", _last_nspid)
        return status.value if isinstance(status, Value) and status.value else pid

    def _read_maps(self, captured: Captured, now_s: float) -> None:
        pid = captured.key[0]
        captured.read_s = now_s
        found = procfs.read_parsed(f"{self._root}/{pid}/maps", _code_mappings)
        if isinstance(found, Missing):
            return
        code = found.value
        captured.row["maps"] = [
            [mapping.start, mapping.end, mapping.offset, mapping.path, self._build_id(pid, mapping)] for mapping in code
        ]
        captured.row["language"] = _language(code)
        if captured.interpreter is None and captured.row["language"] == "python":
            self._find_python(captured)

    def _find_python(self, captured: Captured) -> None:
        opened = open_address_space(captured.key[0], self._root)
        if isinstance(opened, Missing):
            self.denied += 1
            return
        try:
            found = find_interpreter(opened.value, self._symbols)
        except ProcessLost:
            return
        if isinstance(found, Value):
            captured.space, captured.interpreter = opened.value, found.value
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

    def python_threads(self, captured: Captured) -> dict[int, int]:
        """Thread id of this host -> PyThreadState; {} when it cannot be read."""
        if captured.space is None or captured.interpreter is None:
            return {}
        try:
            inside = thread_states(captured.space, captured.interpreter)
        except ProcessLost:
            return {}
        if captured.row["inside"] == captured.key[0]:
            return inside
        return self._from_inside(captured.key[0], inside)

    def _from_inside(self, pid: int, inside: dict[int, int]) -> dict[int, int]:
        """Threads of a process in another PID namespace, by their numbers here."""
        found = {}
        for name in _listing(f"{self._root}/{pid}/task"):
            status = procfs.read_parsed(f"{self._root}/{pid}/task/{name}/status", _last_nspid)
            if isinstance(status, Value) and status.value in inside:
                found[int(name)] = inside[status.value]
        return found

    def name_codes(self, captured: Captured, addresses: Iterable[int]) -> None:
        """Reads the names of code objects that are not known yet; those that cannot be read are tried again."""
        fresh = [address for address in addresses if address not in captured.codes]
        if not fresh or captured.space is None or captured.interpreter is None:
            return
        if len(captured.codes) + len(fresh) > _MOST_CODES:
            captured.codes.clear()
            captured.lines.clear()
        try:
            captured.codes.update(code_names(captured.space, captured.interpreter.layout, fresh))
        except ProcessLost:
            return

    def forget_ended(self) -> list[Captured]:
        """Drops what has ended and tells it."""
        ended = [each for each in self.processes.values() if not self._alive(each.key)]
        for each in ended:
            del self.processes[each.key]
        return ended

    def _alive(self, key: Key) -> bool:
        stat = procfs.stat(key[0], self._root)
        return not isinstance(stat, Missing) and stat.value.start_time_ticks == key[1]


def _code_mappings(data: bytes) -> list[Mapping]:
    """The executable ones alone: large programs have a thousand mappings and thirty of code."""
    return list(parse_maps(b"\n".join(_CODE_LINE.findall(data))))[:_MOST_MAPS]


def _listing(path: str) -> list[str]:
    try:
        return [name for name in os.listdir(path) if name.isdigit()]
    except OSError:
        return []


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


class Walks:
    """How many line tables may still be walked: each takes 0.1 ms, and a host where processes come and go by the
    second would never be done. What is left without a line gets one when it is seen again."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, taken: int) -> bool:
        """Whether a process that has had so many may have one more; its first few are never refused."""
        self.left -= 1
        return taken < _SURE_WALKS or self.left >= 0


def code_rows(captured: Captured, pairs: Iterable[tuple[int, int]], walks: Walks) -> list[dict[str, Any]]:
    """What a segment holds of the code objects it has frames of: name, file, and the lines of the instructions seen."""
    if captured.interpreter is None:
        return []
    wanted: dict[int, list[int]] = {}
    for code, instruction in pairs:
        if code in captured.codes:
            wanted.setdefault(code, []).append(instruction)
    layout, taken = captured.interpreter.layout, 0
    rows = []
    for code, instructions in wanted.items():
        known = captured.lines.get(code, {})
        if any(each not in known for each in instructions) and walks.take(taken):
            _walk(captured, layout, code, instructions)
            taken += 1
        rows.append(_code_row(captured, code, instructions))
    return rows


def _walk(captured: Captured, layout: Layout, code: int, instructions: list[int]) -> None:
    found = instruction_lines(layout, code, captured.codes[code], instructions)
    captured.lines.setdefault(code, {}).update(found)


def _code_row(captured: Captured, code: int, instructions: list[int]) -> dict[str, Any]:
    known, lines = captured.codes[code], captured.lines.get(code, {})
    pid, start_ticks = captured.key
    return {
        "pid": pid,
        "start_ticks": start_ticks,
        "code": code,
        "name": known.name,
        "file": known.file,
        "lines": [[each, lines[each]] for each in instructions if each in lines],
    }
