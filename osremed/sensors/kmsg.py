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
    `malformed` those this parser does not understand; `last_seq` is the last one read or skipped, -1 if none;
    `catching_up`: what the last call gave was there before."""

    def __init__(self, fd: int, after_seq: int = -1) -> None:
        """Records up to `after_seq` are skipped."""
        self.fd = fd
        self.lost = 0
        self.malformed = 0
        self.last_seq = after_seq
        self.catching_up = True
        self._reached_end = False

    def drain(self, most: int = 1000) -> list[KernelLine]:
        """The records that are there now, at most so many. OSError when the device itself fails."""
        lines: list[KernelLine] = []
        self.catching_up = not self._reached_end
        while len(lines) < most:
            try:
                data = os.read(self.fd, _RECORD_BYTES)
            except BlockingIOError:
                self._reached_end = True
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
            if line.seq <= self.last_seq:
                continue
            if self.last_seq >= 0:
                self.lost += line.seq - self.last_seq - 1
            self.last_seq = line.seq
            lines.append(line)
        return lines

    def close(self) -> None:
        os.close(self.fd)


def open_kmsg(path: str = KMSG, *, after_seq: int | None = None) -> Reading[KmsgReader]:
    """A reader of what comes after that record of this boot; None: of what comes from now on. DENIED without the right
    to read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        reader = KmsgReader(fd, -1 if after_seq is None else after_seq)
        while after_seq is None and reader.drain():
            pass
    except OSError as error:
        return missing_from_oserror(error, path)
    return Value(reader)
