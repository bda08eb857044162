"""Where symbols come from at query time: this host's files, if they are still the ones that ran."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.files import read_bytes
from osremed.core.reading import Missing, Value
from osremed.hotspot.kernelsymbols import VDSO, any_kernel_symbols, kernel_symbols_path, vdso_path
from osremed.hotspot.symbols import Kernel, ProcessFacts, Symbols
from osremed.sensors import elf, kallsyms, perfmap, procfs
from osremed.sensors.compress import decompress
from osremed.sensors.functions import Functions, read_functions

_SYMBOLS_LIMIT_BYTES = 64 << 20
_GAP_MODULES = "kernel modules came or went: for a part of this time frames of modules have no names"


def open_symbols(directory: str, processes: Iterable[Mapping[str, Any]]) -> tuple[Symbols, list[str]]:
    """Symbols for records and their rows of processes, and what is missing."""
    gaps: list[str] = []
    latest: dict[int, Mapping[str, Any]] = {}
    for row in processes:
        before = latest.get(row["pid"], row)
        if _program(before)[0] != _program(row)[0] or _program(before) <= _program(row):
            latest[row["pid"]] = row

    def open_kernel(kernel: Kernel) -> kallsyms.KernelSymbols | None:
        """As they were with those modules; else the kernel's own alone, which stay where they are for a boot."""
        boot, modules = kernel
        path = kernel_symbols_path(directory, boot, modules)
        same = bool(modules) and os.path.exists(path)
        try:
            held = read_bytes(path if same else any_kernel_symbols(directory, boot))
            found = kallsyms.parse(decompress(held, limit_bytes=_SYMBOLS_LIMIT_BYTES), modules=same)
        except (OSError, ValueError) as error:
            gaps.append(f"kernel symbols of boot {boot}: {error}")
            return None
        if not same and _GAP_MODULES not in gaps:
            gaps.append(_GAP_MODULES)
        return found

    def open_object(pid: int, path: str, build_id: str) -> Functions | None:
        places = [vdso_path(directory, build_id)] if path == VDSO else [f"/proc/{pid}/root{path}", path]
        return _functions(places, path, build_id, gaps)

    def open_perf_map(process: ProcessFacts) -> perfmap.PerfMap | None:
        """Its file is named by a number alone: it is of the last program that had the number, and of nobody we know
        where the number is another's by now."""
        row, now = latest.get(process.pid), procfs.stat(process.pid)
        if row is None or _program(row) != (process.start_ticks, process.program):
            return None
        if isinstance(now, Value) and now.value.start_time_ticks != process.start_ticks:
            return None
        found = perfmap.read(process.pid, row["inside"])
        return found.value if isinstance(found, Value) else None

    return Symbols(open_kernel, open_object, open_perf_map), gaps


def _program(row: Mapping[str, Any]) -> tuple[int, int]:
    """Start, and which of the programs it became."""
    return int(row["start_ticks"]), int(row.get("exec", 0))


def _functions(places: Sequence[str], path: str, build_id: str, gaps: list[str]) -> Functions | None:
    """Of the first of these files that is the one that ran; never of a file with another build id, or where none is
    known."""
    if not build_id:
        gaps.append(f"{path} could not be looked at while its process was there: no names for it")
        return None
    for place in places:
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            continue
        with open(fd, "rb", buffering=0) as stream:
            parsed = elf.read_elf(stream.fileno(), path)
            if isinstance(parsed, Missing):
                continue
            if elf.identity(stream.fileno(), parsed.value) != build_id:
                continue
            functions = read_functions(stream.fileno(), parsed.value)
            return functions.value if isinstance(functions, Value) else None
    gaps.append(f"{path} (build id {build_id[:12]}) is not here any more: no names for it")
    return None
