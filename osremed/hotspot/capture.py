"""What a number will mean later: mappings, build ids and containers, taken while the process is alive. The names of
Python's code objects are read by the sampler itself (sensors/bpf/python_text.h)."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from osremed.core.reading import Missing, Value
from osremed.hotspot.containers import container_of
from osremed.hotspot.kernelsymbols import VDSO
from osremed.sensors import elf, procfs
from osremed.sensors.address_space import AddressSpace, Mapping, ProcessLost, parse_maps
from osremed.sensors.pyframes import Interpreter, Known, find_interpreter

_MOST_MAPS = 512
_MOST_FILES = 4096
_MAPS_LIMIT_BYTES = 64 << 20
_SETTLED_SAMPLES = 10  #: once the interpreter is found its libraries can wait for so many

Key = tuple[int, int, int]  #: pid, start in clock ticks, which of the programs it became (exec)
_Version = tuple[int, int]  #: bytes and ctime of a file: a deployment may keep the inode, or get it again


class _Part(NamedTuple):
    """What a line of maps says beside the addresses, the same for all processes that map it."""

    offset: int
    path: str
    build_id: str


class Captured:
    """One program of a process. `row` is what a book holds of it."""

    def __init__(self, key: Key, row: dict[str, Any]) -> None:
        self.key, self.row = key, row
        self.interpreter: Interpreter | None = None
        self.samples = 0
        self.told = False  #: its frames are walked by the sampler
        self.unwritten = True  #: `row`, since whoever writes it has last set it to False
        self.groups: dict[str, str] = {}  #: directory of its CPU control group -> path
        self.replaced = False  #: it is another program by now
        self.changed = True  #: the mappings, since whoever looks at them has last set it to False


class Capture:
    """All processes that were seen lately. Kernel threads have neither maps nor address space."""

    def __init__(self, vdso_build_id: str = "", proc_root: str = procfs.PROC) -> None:
        self._root, self._vdso_build_id = proc_root, vdso_build_id
        self._parts: dict[tuple[bytes, _Version | None], _Part] = {}
        self._images: Known = {}
        self._programs: dict[tuple[int, int], int] = {}
        self.processes: dict[Key, Captured] = {}
        self.gaps: set[str] = set()  #: whose mappings could not be read, since whoever tells it has last emptied it

    def see(self, key: Key, samples: int, inside: int = 0, name: str = "") -> Captured | None:
        """The facts of a program that has been sampled so often, its mappings as they are now; None when it has ended
        already or the number is another's. `inside` is its number in its own PID namespace: what names its perf map.
        `name` is the one it had then: services of one interpreter give themselves names."""
        known = self.processes.get(key)
        if known is not None:
            if name and name != known.row["name"]:
                known.row["name"], known.unwritten = name, True
            known.samples = max(known.samples, samples)
            if known.replaced:
                return known  # its mappings are another program's
            if known.interpreter is None or samples >= _SETTLED_SAMPLES:
                self._read_maps(known)
            return known
        pid, latest = key[0], self._programs.get(key[:2], -1)
        if latest > key[2]:  # met late: it is another program by now
            return None
        stat = procfs.stat(pid, self._root)
        if isinstance(stat, Missing) or stat.value.start_time_ticks != key[1]:
            return None
        cgroup = procfs.read_parsed(f"{self._root}/{pid}/cgroup", procfs.text)
        groups = cgroup.value[:1024] if isinstance(cgroup, Value) else ""
        row = {
            "pid": pid,
            "start_ticks": key[1],
            "exec": key[2],
            "name": name or stat.value.comm,
            "container": container_of(groups),
            "inside": inside or pid,
            "language": "",
            "maps": [],
        }
        before = self.processes.get((pid, key[1], latest))
        if before is not None:
            before.replaced = True
        self._programs[key[:2]] = key[2]
        captured = self.processes[key] = Captured(key, row)
        captured.samples, captured.groups = samples, _group_directories(groups)
        if not stat.value.kernel_thread:
            self._read_maps(captured)
        return captured

    def _read_maps(self, captured: Captured) -> None:
        """Only lines of code are looked at: large programs have a thousand mappings and thirty of code."""
        pid = captured.key[0]
        try:
            lines = _code_lines(procfs.read_file(f"{self._root}/{pid}/maps", limit_bytes=_MAPS_LIMIT_BYTES))
        except OSError:  # it has ended
            return
        except ValueError as error:
            self.gaps.add(f"the mappings of {captured.row['name']}[{pid}] are {error}: its addresses have no names")
            return
        maps = [self._mapped(pid, line) for line in lines]
        if maps != captured.row["maps"]:
            captured.changed = captured.unwritten = True
            captured.row["maps"], captured.row["language"] = maps, _language(maps)
        if captured.interpreter is None and captured.row["language"] == "python":
            self._find_python(captured, [line for line in lines if b"python" in line.rpartition(b"/")[2]])

    def _mapped(self, pid: int, line: bytes) -> list[Any]:
        addresses, _, rest = line.partition(b" ")
        start, end = (int(each, 16) for each in addresses.split(b"-"))
        version = self._version(pid, start, end, rest) if b"/" in rest else None
        part = self._parts.get((rest, version))
        if part is None:
            (mapping,) = parse_maps(line)
            self._images.pop((mapping.device, mapping.inode), None)  # the number may have been another file's
            build_id = self._read_build_id(pid, mapping)
            part = _Part(mapping.offset, mapping.path, build_id)
            if build_id or not mapping.path.startswith("/"):  # else it may only have been gone for this process
                if len(self._parts) >= _MOST_FILES:
                    self._parts.clear()
                self._parts[rest, version] = part
        return [start, end, *part]

    def _version(self, pid: int, start: int, end: int, rest: bytes) -> _Version | None:
        """Of the file behind a mapping, as it is now; None when it cannot be asked."""
        try:
            found = os.stat(f"{self._root}/{pid}/map_files/{start:x}-{end:x}")
        except OSError:
            path, inode = rest[rest.index(b"/") :], rest.split(None, 4)[3]
            try:
                found = os.stat(os.fsencode(f"{self._root}/{pid}/root") + path)
            except (OSError, ValueError):
                return None
            if inode != b"%d" % found.st_ino:
                return None
        return found.st_size, found.st_ctime_ns

    def _find_python(self, captured: Captured, lines: list[bytes]) -> None:
        mappings = parse_maps(b"\n".join(lines))
        space = AddressSpace(captured.key[0], mappings, (captured.key[1], b""), self._root)
        try:
            found = find_interpreter(space, self._images)
        except ProcessLost:
            return
        if isinstance(found, Value):
            captured.interpreter = found.value
            runtime = found.value.runtime
            captured.unwritten = True
            captured.row["runtime"] = [runtime, runtime + found.value.runtime_bytes]

    def _read_build_id(self, pid: int, mapping: Mapping) -> str:
        if not mapping.path.startswith("/"):
            return self._vdso_build_id if mapping.path == VDSO else ""
        opened = elf.open_mapped(pid, mapping, self._root)
        if isinstance(opened, Missing):
            return ""
        with open(opened.value, "rb", buffering=0) as stream:
            parsed = elf.read_elf(stream.fileno(), mapping.path)
            return "" if isinstance(parsed, Missing) else elf.identity(stream.fileno(), parsed.value)

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


def _code_lines(maps: bytes) -> list[bytes]:
    """Lines of mappings that are executable: `start-end r-xp ...`."""
    return [line for line in maps.split(b"\n") if line[line.find(b" ") + 3 :][:1] == b"x"][:_MOST_MAPS]


def _group_directories(cgroup: str) -> dict[str, str]:
    """Where the CPU control group of /proc/PID/cgroup says its throttling, in either hierarchy -> its path;
    none for the root."""
    found = {}
    for line in cgroup.splitlines():
        controllers, path = line.split(":", 2)[1:] if line.count(":") >= 2 else ("", "")
        if path not in ("", "/") and ("cpu" in controllers.split(",") or controllers == ""):
            found[f"/sys/fs/cgroup/cpu{path}" if controllers else f"/sys/fs/cgroup{path}"] = path
    return found


def _language(maps: list[list[Any]]) -> str:
    """By the names of what is mapped."""
    for mapping in maps:
        base = mapping[3].rpartition("/")[2]
        for prefix, language in _PREFIXES:
            if base.startswith(prefix):
                return language
    return ""


_PREFIXES = (("libpython", "python"), ("python", "python"), ("libjvm", "java"), ("node", "node"))
