"""perf-PID.map: names of code that was made at run time (Java with jcmd Compiler.perfmap, Node, others).

The file lies in the process's own /tmp and is written by it: hostile input. Lines are `start size name`, in hex.
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from typing import NamedTuple

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors.procfs import PROC, text

_LINE = re.compile(rb"(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (.{1,1024})")
_LIMIT_BYTES = 64 << 20


class Code(NamedTuple):
    start: int
    end: int
    name: str


class PerfMap:
    """Code by address; a later line replaces what it overlaps at its start, as the run time does."""

    def __init__(self, codes: list[Code]) -> None:
        last = {code.start: code for code in codes}
        self._codes = [last[start] for start in sorted(last)]
        self._starts = [code.start for code in self._codes]

    def __len__(self) -> int:
        return len(self._codes)

    def name(self, address: int) -> str:
        """ "" where no code is."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._codes[at].end:
            return ""
        return self._codes[at].name


def parse(data: bytes) -> PerfMap:
    """What can be read of it; lines that are not of the format are left out (the writer may be in the middle of one).
    ValueError when there are lines and none can be read."""
    codes = []
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match:
            start, size = int(match[1], 16), int(match[2], 16)
            codes.append(Code(start, start + size, text(match[3])))
    if data.strip() and not codes:
        raise ValueError("no line is `start size name`")
    return PerfMap(codes)


def read(pid: int, pid_inside: int, root: str = PROC) -> Reading[PerfMap]:
    """The map as the process `pid` sees it; `pid_inside` is its number in its own namespace. NO_DATA when it has none.
    Of a process of this namespace that has ended, what it left in /tmp here (Java writes its map at its end).
    Opened without following a link at its end and without waiting, and only if it is a regular file."""
    path = f"{root}/{pid}/root/tmp/perf-{pid_inside}.map"
    if pid == pid_inside and not os.path.exists(f"{root}/{pid}"):
        path = f"{root}/self/root/tmp/perf-{pid}.map"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return missing_from_oserror(error, path, absent=Reason.NO_DATA)
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return Missing(Reason.MALFORMED, path, "not a regular file")
        data = stream.read(_LIMIT_BYTES)
    try:
        return Value(parse(data))
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error))
