"""A BPF ring buffer, drained through its own memory: one copy for all records there are, no call for each.

Layout (kernel/bpf/ringbuf.c): the consumer's page, the producer's page, then the data twice in a row, so that what is
between the two positions is always contiguous. A record is 8 bytes of header (length, with bit 31 while it is being
written and bit 30 when it is to be skipped, and a page offset) and its data, padded to 8 bytes."""

from __future__ import annotations

import mmap
import select
import struct
import threading
from collections.abc import Iterator

from osremed.core.record import record
from osremed.sensors.bpf.maps import Map

_KIND = 27  # BPF_MAP_TYPE_RINGBUF
_HEADER_BYTES = 8
_BUSY, _DISCARD = 1 << 31, 1 << 30
#: Native, so that one is read or written in one piece: the standard sizes of `=` go byte by byte.
_POSITION = struct.Struct("Q")
_LENGTH = struct.Struct("I")


@record
class Batch:
    """Records copied out of a ring: `data` holds them, `spans` says where each begins and ends."""

    data: bytes
    spans: tuple[tuple[int, int], ...]

    def __iter__(self) -> Iterator[bytes]:
        return (self.data[begin:end] for begin, end in self.spans)

    def __len__(self) -> int:
        return len(self.spans)


class Ring:
    """One reader for one ring buffer map. A record that is still being written stops a drain before it."""

    def __init__(self, target: Map) -> None:
        """ValueError for a map that is no ring buffer; OSError when it cannot be mapped."""
        if target.kind != _KIND:
            raise ValueError(f"map {target.name} is no ring buffer")
        self._bytes, page = target.max_entries, mmap.PAGESIZE
        self._consumer = mmap.mmap(target.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(target.fd, page + 2 * self._bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._poll = select.epoll(1)
        self._poll.register(target.fd, select.EPOLLIN)
        self._order = threading.Lock()

    def wait(self, timeout_s: float) -> bool:
        """True as soon as the kernel woke the reader; programs that write with BPF_RB_NO_WAKEUP never do."""
        return bool(self._poll.poll(timeout_s))

    def fileno(self) -> int:
        """To wait for it together with others."""
        return self._poll.fileno()

    def waiting_bytes(self) -> int:
        return self._end() - self._begin()

    def drain(self) -> Batch:
        """All records that are complete, and room for as many new ones."""
        begin, end = self._begin(), self._end()
        self._fence()
        base, mask = mmap.PAGESIZE, self._bytes - 1
        at, spans = begin, []
        unpack, memory = _LENGTH.unpack_from, self._producer
        while at < end:
            (length,) = unpack(memory, base + (at & mask))
            if length & _BUSY:
                break
            offset = at - begin + _HEADER_BYTES
            size = length & ~_DISCARD
            if not length & _DISCARD:
                spans.append((offset, offset + size))
            at += (size + _HEADER_BYTES + 7) & ~7
        return Batch(self._copy(begin, at), tuple(spans))

    def take(self) -> bytes:
        """What `drain` gives, without telling where each begins: half the work. Records that are to be skipped are in
        it; their header says so."""
        begin, end = self._begin(), self._end()
        self._fence()
        with memoryview(self._producer) as whole, whole[mmap.PAGESIZE :] as part, part.cast("I") as words:
            at, mask = begin, self._bytes - 1
            while at < end:
                length = words[(at & mask) >> 2]
                if length & _BUSY:
                    break
                at += ((length & ~_DISCARD) + _HEADER_BYTES + 7) & ~7
        return self._copy(begin, at)

    def _copy(self, begin: int, end: int) -> bytes:
        """The bytes between two positions, and room for as many new ones."""
        start = mmap.PAGESIZE + (begin & self._bytes - 1)
        self._fence()
        data = self._producer[start : start + end - begin]
        self._fence()
        _POSITION.pack_into(self._consumer, 0, end)
        return data

    def close(self) -> None:
        self._poll.close()
        self._consumer.close()
        self._producer.close()

    def _begin(self) -> int:
        position: int = _POSITION.unpack_from(self._consumer, 0)[0]
        return position

    def _end(self) -> int:
        position: int = _POSITION.unpack_from(self._producer, 0)[0]
        return position

    def _fence(self) -> None:
        """Reads before stay before reads after on CPUs that would swap them: between two rounds of a lock is a release
        followed by an acquire."""
        for _ in range(2):
            self._order.acquire()
            self._order.release()
