"""/proc: host memory, and processes one file at a time.

`parse_*` are pure functions on bytes and raise ValueError for anything the kernel would not write; the readers beside
them return a Reading and never raise: GONE when the process ended, DENIED, or MALFORMED. Sizes are bytes unless the
name says pages. `root` may be a captured tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record

PROC = "/proc"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PF_KTHREAD = 0x00200000  #: include/linux/sched.h; the only sure mark of a kernel thread (ppid 2 is not, in a namespace)
_LIMIT_BYTES = 1 << 20
#: For tables that grow with the host: mounts of 800 containers, or the zones of 576 CPUs, are more than 1 MiB.
LONG_BYTES = 64 << 20
_MEMINFO_LINE = re.compile(rb"^([!-9;-~]+): +([0-9]{1,19})( kB)?$", re.MULTILINE)
_STATE = re.compile(rb"[A-Za-z]")

T = TypeVar("T")


@record
class Stat:
    """/proc/<pid>/stat. `start_time_ticks` (clock ticks since boot) with `pid` is the identity of a process. `comm` is
    at most 15 bytes of the process's own choosing; bytes that are not UTF-8 appear as \\xNN."""

    pid: int
    comm: str
    state: str
    ppid: int
    flags: int
    num_threads: int
    start_time_ticks: int

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)


@record
class Statm:
    """/proc/<pid>/statm, the cheapest sizes. Resident minus shared is anonymous memory, RssAnon in pages."""

    size_pages: int
    resident_pages: int
    shared_pages: int

    @property
    def private_bytes(self) -> int:
        return max(0, self.resident_pages - self.shared_pages) * PAGE_BYTES


@record
class Status:
    """/proc/<pid>/status. Sizes are None for a task without an address space (kernel thread, zombie). RssAnon, RssFile
    and RssShmem exist since Linux 4.5."""

    uid: int
    rss_anon_bytes: int | None
    rss_file_bytes: int | None
    rss_shmem_bytes: int | None
    swap_bytes: int | None
    page_table_bytes: int | None = None


def text(data: bytes) -> str:
    """Text that any encoder accepts; bytes that are not UTF-8 become \\xNN."""
    return data.decode("utf-8", "backslashreplace")


def number(data: bytes) -> int:
    """A decimal counter as the kernel writes it. ValueError for signs, spaces, and what does not fit 64 bits."""
    if not data.isdigit() or len(data) > 20:
        raise ValueError(f"not a counter: {data[:40]!r}")
    value = int(data)
    if value >= 1 << 64:
        raise ValueError(f"does not fit 64 bits: {data!r}")
    return value


def read_file(path: str, *, limit_bytes: int = _LIMIT_BYTES, once: bool = False) -> bytes:
    """The whole file. `once` is for files of a single record, which the kernel gives in one read. OSError as the system
    gives it; ValueError above `limit_bytes`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 4096 if once else 65536)
        if once or not data:
            return data
        while chunk := os.read(fd, 65536):
            data += chunk
            if len(data) > limit_bytes:
                raise ValueError(f"longer than {limit_bytes} bytes")
        return data
    finally:
        os.close(fd)


def read_parsed(
    path: str,
    parse: Callable[[bytes], T],
    *,
    once: bool = False,
    absent: Reason = Reason.GONE,
    limit_bytes: int = _LIMIT_BYTES,
) -> Reading[T]:
    """Value(parse(content)), or the Missing that says why not. `absent` is what ENOENT means here."""
    try:
        return Value(parse(read_file(path, once=once, limit_bytes=limit_bytes)))
    except OSError as error:
        return missing_from_oserror(error, path, absent=absent)
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error)[:200])


# --- parsers -----------------------------------------------------------------------------------------------------


def parse_meminfo(data: bytes) -> dict[str, int]:
    """Key -> bytes for lines in kB, key -> count for lines without unit (HugePages_*). ValueError without MemTotal."""
    lines = _MEMINFO_LINE.findall(data)
    if len(lines) != data.count(b"\n"):
        raise ValueError("a line is not `Key: count` or `Key: size kB`")
    result = {key.decode("ascii"): int(count) << 10 if unit else int(count) for key, count, unit in lines}
    if "MemTotal" not in result:
        raise ValueError("no MemTotal")
    return result


def parse_zoneinfo_pcp_pages(data: bytes) -> int:
    """Free pages parked in per-CPU lists, summed over zones and CPUs. They are in neither MemFree nor MemAvailable and
    reach 1/8 of a zone since Linux 6.7. ValueError when the file has no pagesets."""
    if b"pagesets" not in data:
        raise ValueError("no pagesets")
    words = [
        rest[:24].split(None, 1) for rest in data.split(b" count:")[1:]
    ]  # a regular expression takes 20 times as long
    if not all(words):
        raise ValueError("a count without a number")
    return sum(number(count[0]) for count in words)


def parse_stat(data: bytes) -> Stat:
    """comm may hold any byte, parentheses and newlines included: fields count from the last `)`."""
    left, right = data.find(b"("), data.rfind(b")")
    if left < 1 or right < left:
        raise ValueError("no comm in parentheses")
    fields = data[right + 1 :].split()
    if len(fields) < 20 or not _STATE.fullmatch(fields[0]):
        raise ValueError("truncated")
    return Stat(
        pid=number(data[: left - 1]),
        comm=text(data[left + 1 : right]),
        state=text(fields[0]),
        ppid=number(fields[1]),
        flags=number(fields[6]),
        num_threads=number(fields[17]),
        start_time_ticks=number(fields[19]),
    )


def parse_statm(data: bytes) -> Statm:
    fields = data.split()
    if len(fields) < 3:
        raise ValueError("truncated")
    return Statm(number(fields[0]), number(fields[1]), number(fields[2]))


def parse_status(data: bytes) -> Status:
    """The last line of a key counts: the name comes first in the file and is the process's own choice."""
    lines = dict(line.split(b":", 1) for line in data.split(b"\n") if b":" in line)
    uids = lines.get(b"Uid", b"").split()
    if not uids:
        raise ValueError("no Uid")

    def size(key: bytes) -> int | None:
        words = lines.get(key, b"").split()
        if not words and key not in lines:
            return None
        if len(words) != 2 or words[1] != b"kB":
            raise ValueError(f"not a size: {key!r}")
        return number(words[0]) * 1024

    sizes = [size(key) for key in (b"RssAnon", b"RssFile", b"RssShmem", b"VmSwap", b"VmPTE")]
    return Status(number(uids[0]), *sizes)


def parse_cmdline(data: bytes) -> tuple[str, ...]:
    """argv. A process can overwrite it; () for kernel threads and zombies."""
    if not data:
        return ()
    return tuple(text(part) for part in (data[:-1] if data.endswith(b"\0") else data).split(b"\0"))


def parse_oom_score_adj(data: bytes) -> int:
    digits = data.strip()
    value = -number(digits[1:]) if digits.startswith(b"-") else number(digits)
    if not -1000 <= value <= 1000:
        raise ValueError(f"out of range: {value}")
    return value


def parse_cgroup(data: bytes) -> dict[str, str]:
    """Controller (`memory`, `name=systemd`; `` for the unified hierarchy) -> path of the group, as seen from the
    reader's cgroup namespace."""
    result = {}
    for line in data.split(b"\n"):
        if not line:
            continue
        parts = line.split(b":", 2)
        if len(parts) != 3 or not parts[0].isdigit() or not parts[2].startswith(b"/"):
            raise ValueError(f"not a cgroup line: {line[:60]!r}")
        for controller in parts[1].split(b","):
            result[text(controller)] = text(parts[2])
    return result


def parse_boot_id(data: bytes) -> str:
    boot_id = data.strip()
    if not re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", boot_id):
        raise ValueError("not a UUID")
    return boot_id.decode("ascii")


# --- readers -----------------------------------------------------------------------------------------------------


def meminfo(root: str = PROC) -> Reading[dict[str, int]]:
    return read_parsed(f"{root}/meminfo", parse_meminfo, absent=Reason.UNSUPPORTED)


def pcp_pages(root: str = PROC) -> Reading[int]:
    return read_parsed(f"{root}/zoneinfo", parse_zoneinfo_pcp_pages, absent=Reason.UNSUPPORTED, limit_bytes=LONG_BYTES)


def boot_id(root: str = PROC) -> Reading[str]:
    return read_parsed(f"{root}/sys/kernel/random/boot_id", parse_boot_id, absent=Reason.UNSUPPORTED)


def pids(root: str = PROC) -> Reading[list[int]]:
    """Every visible process, ascending. `hidepid` mounts and PID namespaces hide others."""
    try:
        return Value(sorted(int(name) for name in os.listdir(root) if name.isascii() and name.isdigit()))
    except OSError as error:
        return missing_from_oserror(error, root)


def stat(pid: int, root: str = PROC) -> Reading[Stat]:
    return read_parsed(f"{root}/{pid}/stat", parse_stat, once=True)


def statm(pid: int, root: str = PROC) -> Reading[Statm]:
    return read_parsed(f"{root}/{pid}/statm", parse_statm, once=True)


def status(pid: int, root: str = PROC) -> Reading[Status]:
    return read_parsed(f"{root}/{pid}/status", parse_status)


def cmdline(pid: int, root: str = PROC) -> Reading[tuple[str, ...]]:
    """MALFORMED above 1 MiB. Reading takes the process's mmap lock and may swap its argv in."""
    return read_parsed(f"{root}/{pid}/cmdline", parse_cmdline)


def oom_score_adj(pid: int, root: str = PROC) -> Reading[int]:
    return read_parsed(f"{root}/{pid}/oom_score_adj", parse_oom_score_adj, once=True)


def cgroup(pid: int, root: str = PROC) -> Reading[dict[str, str]]:
    return read_parsed(f"{root}/{pid}/cgroup", parse_cgroup)
