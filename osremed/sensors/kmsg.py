"""/dev/kmsg: kernel log records as they come, and who wrote each: the kernel, or somebody through the device.

The format is Documentation/ABI/testing/dev-kmsg (Linux 3.5): `prio,seq,usec,flags[,...];text`. Reading needs
CAP_SYSLOG where kernel.dmesg_restrict is 1. A record is visible 0.1 ms after it was written.
"""

from __future__ import annotations

import errno
import os
import re

from osremed.core.reading import Reading, Value, missing_from_oserror
from osremed.core.record import record

KMSG = "/dev/kmsg"
FACILITY_KERNEL = 0
_RECORD_BYTES = 8192  #: PRINTKRB_RECORD_MAX is 1 kB of text; each byte may be escaped to four
_HEAD = re.compile(rb"([0-9]{1,10}),([0-9]{1,20}),([0-9]{1,20}),[^;\n]{0,200};")
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")


@record
class KernelLine:
    """`facility` 0 is the kernel and its drivers; a write to /dev/kmsg cannot claim it and gets 1 (user) or what it
    asks for. `usec` is microseconds of the boot clock. `text` may hold line breaks; bytes that are not UTF-8 appear
    as \\xNN. It is untrusted: processes choose their names, and anybody with the right may write here."""

    seq: int
    usec: int
    facility: int
    level: int
    text: str

    @property
    def injected(self) -> bool:
        return self.facility != FACILITY_KERNEL


def parse(data: bytes) -> KernelLine:
    """One record as read(2) gives it; its dictionary lines (` KEY=value`) are left out. ValueError otherwise."""
    head = _HEAD.match(data)
    if head is None:
        raise ValueError(f"not a kernel log record: {data[:60]!r}")
    priority, seq, usec = (int(part) for part in head.groups())
    body = data[head.end() :].split(b"\n", 1)[0]
    body = _ESCAPE.sub(lambda found: bytes([int(found.group(1), 16)]), body)
    return KernelLine(seq, usec, priority >> 3, priority & 7, body.decode("utf-8", "backslashreplace"))


class KmsgReader:
    """Follows the log without blocking. `lost` counts records that were overwritten before they were read;
    `malformed` those this parser does not understand."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lost = 0
        self.malformed = 0
        self._next_seq = -1

    def drain(self, most: int = 1000) -> list[KernelLine]:
        """The records that are there now, at most so many. OSError when the device itself fails."""
        lines: list[KernelLine] = []
        while len(lines) < most:
            try:
                data = os.read(self.fd, _RECORD_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:  # EPIPE: overwritten; the next read gives the oldest that is left
                    raise
                continue
            if not data:
                break
            try:
                line = parse(data)
            except ValueError:
                self.malformed += 1
                continue
            if self._next_seq >= 0:
                self.lost += max(0, line.seq - self._next_seq)
            self._next_seq = line.seq + 1
            lines.append(line)
        return lines

    def close(self) -> None:
        os.close(self.fd)


def open_kmsg(path: str = KMSG, *, from_end: bool = True) -> Reading[KmsgReader]:
    """A reader at the end of the log, or at its oldest record. DENIED without the right to read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if from_end:
            os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        return missing_from_oserror(error, path)
    return Value(KmsgReader(fd))
