"""glibc's malloc from outside: every chunk of [heap] and of the threads' arenas, walked from the first to the top.

A chunk is [size of the one before][size | flags][user data]; bit 0 of the next chunk's size says whether this one is
in use. Chunks kept for the next malloc (tcache, fast bins) look in use; they are counted apart."""

from __future__ import annotations

import time
from collections import Counter
from itertools import compress

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors.address_space import AddressSpace, Mapping

HEAP = "[heap]"
ARENA_BYTES = 64 << 20  # HEAP_MAX_SIZE on 64-bit
_PIECE_BYTES = 1 << 20
_SMALLEST = 32
_TCACHE_CHUNK = 0x290  # glibc 2.30 and later
_TCACHE_BINS = 64
_BEFORE_MALLOC_BYTES = 1 << 16
_FAST_BINS = 10
_TOP_AT, _FAST_AT, _STATE_BYTES = 96, 16, 104  # malloc_state since glibc 2.26
_INFO_BYTES = (48, 32)  # struct _heap_info since glibc 2.35, and before
_FIRST_CHUNKS = (0x8D0, 0x8C0, 0x8B0)
_MOST_FAST = 20_000
_SIZE_MASK = ~7 & (1 << 64) - 1


@record
class Arena:
    """`bytes` = in use + free + top; `tcache_bytes` (of the thread that made the arena) and `fast_bytes` are part of
    what looks in use. `whole` is false when the walk met something that is no chunk, or ran out of time."""

    name: str
    bytes: int
    chunks: int
    in_use_bytes: int
    free_bytes: int
    top_bytes: int
    tcache_bytes: Reading[int]
    fast_bytes: Reading[int]
    whole: bool


class InUse:
    """Chunks in use: objects by vtable (count and bytes), others by size."""

    def __init__(self, known: frozenset[int]) -> None:
        self._known = known
        self.objects: Counter[int] = Counter()
        self.object_bytes: Counter[int] = Counter()
        self.others: Counter[int] = Counter()

    def add(self, sizes: list[int], first_words: list[int]) -> None:
        is_object = list(map(self._known.__contains__, first_words))
        self.others.update(sizes)
        for size, vtable in zip(compress(sizes, is_object), compress(first_words, is_object)):
            self.objects[vtable] += 1
            self.object_bytes[vtable] += size
            self.others[size] -= 1


@record
class Walk:
    """What a walk over one span saw."""

    used: InUse
    chunks: int
    in_use_bytes: int
    free_bytes: int
    top: int
    top_bytes: int
    whole: bool


def arenas(space: AddressSpace, known: frozenset[int], deadline_s: float) -> tuple[list[Arena], list[Walk]]:
    """Of [heap] and of every 64 MiB-aligned thread heap. `known` are vtables to count objects of."""
    found, walks = [], []
    for name, first, end, state in _spans(space):
        walk = _walk(space, first, end, known, deadline_s)
        if walk.chunks == 0:
            continue
        tcache = _tcache_bytes(space, first)
        head = _main_state(space, walk.top) if name == HEAP else state
        fast = _fast_bytes(space, head, deadline_s)
        total = walk.in_use_bytes + walk.free_bytes + walk.top_bytes
        found.append(
            Arena(
                name,
                total,
                walk.chunks,
                walk.in_use_bytes,
                walk.free_bytes,
                walk.top_bytes,
                tcache,
                fast,
                walk.whole,
            )
        )
        walks.append(walk)
    return found, walks


def _spans(space: AddressSpace) -> list[tuple[str, int, int, int]]:
    """(name, first chunk, end, malloc_state or 0). The main arena's state lies in libc and is looked for later."""
    spans = []
    heaps = [one for one in space.maps if one.path == HEAP]
    if heaps:
        spans.append((HEAP, _first_chunk(space, heaps[0].start), heaps[-1].end, 0))
    for mapping in space.maps:
        if mapping.path or not mapping.private_writable:
            continue
        for start in range(-(-mapping.start // ARENA_BYTES) * ARENA_BYTES, mapping.end, ARENA_BYTES):
            span = _thread_heap(space, mapping, start)
            if span is not None:
                spans.append(span)
    return spans


def _first_chunk(space: AddressSpace, start: int) -> int:
    """Where [heap] begins, or behind what a static program took of it before malloc: at the first tcache."""
    data = space.read_prefix(start, _BEFORE_MALLOC_BYTES)
    words = memoryview(data).cast("Q")[1::2].tolist()
    place = words.index(_TCACHE_CHUNK | 1) if _TCACHE_CHUNK | 1 in words else 0
    return start + 16 * place


def _thread_heap(space: AddressSpace, mapping: Mapping, start: int) -> tuple[str, int, int, int] | None:
    """A heap_info [arena][previous heap][size][writable size] at a multiple of 64 MiB."""
    body = space.read(start, 32)
    if body is None:
        return None
    state, _previous, size, writable = memoryview(body).cast("Q")
    if not (state and size % 4096 == 0 and 0 < size <= writable <= ARENA_BYTES and start + size <= mapping.end):
        return None
    own_state = start < state < start + 64
    offsets = _FIRST_CHUNKS if own_state else _INFO_BYTES
    for offset in offsets:
        word = space.read(start + offset + 8, 8)
        value = int.from_bytes(word or b"", "little")
        length = value & _SIZE_MASK
        if value & 1 and _SMALLEST <= length <= size and (not own_state or length == _TCACHE_CHUNK):
            return f"arena {start:x}", start + offset, start + size, state if own_state else 0
    return None


def _walk(space: AddressSpace, first: int, end: int, known: frozenset[int], deadline_s: float) -> Walk:
    """From chunk to chunk until one ends where the span ends: the top."""
    seen = InUse(known)
    at, chunks, in_use, free, top = first, 0, 0, 0, 0
    while at < end and time.monotonic() < deadline_s:
        sizes, firsts, moved = _chunks_of(space.read_prefix(at, min(_PIECE_BYTES, end - at)), end - at)
        if not sizes:
            break
        chunks += len(sizes)
        at += moved
        if at == end:
            top = at - (sizes.pop() & _SIZE_MASK)
        behind = int.from_bytes(space.read(at + 8, 8) or b"", "little") if at < end else 1
        flags = [word & 1 for word in sizes[1:]] + [behind & 1]
        used = [size & _SIZE_MASK for size in compress(sizes, flags)]
        in_use += sum(used)
        free += sum(size & _SIZE_MASK for size in sizes) - sum(used)
        seen.add(used, list(compress(firsts, flags)))
    return Walk(seen, chunks, in_use, free, top, end - top if top else 0, at == end)


def _chunks_of(data: bytes, room: int) -> tuple[list[int], list[int], int]:
    """Size words and first user words of the chunks that begin in `data`, and how far they reach. Stops at a size that
    is none or reaches beyond `room`."""
    words = memoryview(data).cast("Q")
    limit, count = len(words) - 2, room >> 3
    sizes, firsts = [], []
    i = 0
    while i < limit:
        word = words[i + 1]
        length = word >> 3
        if not 4 <= length <= count - i or word & 8:
            break
        sizes.append(word)
        firsts.append(words[i + 2])
        i += length
    return sizes, firsts, i * 8


def _tcache_bytes(space: AddressSpace, first: int) -> Reading[int]:
    """The first chunk of a heap is the tcache of the thread that made it: 64 counts of 16 bits, then 64 lists. It is
    freed with its thread; then counts and lists do not fit each other."""
    source = f"{space.root}/{space.pid}/mem"
    body = space.read(first + 8, 8 + (2 + 8) * _TCACHE_BINS)
    if body is None or int.from_bytes(body[:8], "little") & _SIZE_MASK != _TCACHE_CHUNK:
        return Missing(Reason.NO_DATA, source, "no tcache")
    counts = memoryview(body)[8 : 8 + 2 * _TCACHE_BINS].cast("H").tolist()
    lists = memoryview(body)[8 + 2 * _TCACHE_BINS :].cast("Q").tolist()
    if any(bool(count) != bool(head) for count, head in zip(counts, lists)):
        return Missing(Reason.NO_DATA, source, "its thread ended")
    return Value(sum(count * (_SMALLEST + 16 * place) for place, count in enumerate(counts)))


def _main_state(space: AddressSpace, top: int) -> int:
    """malloc_state of the main arena: in writable file data (libc's, or a static program's) the one word that is the
    address of the top chunk, with ten plausible fast bins before it."""
    if not top:
        return 0
    needle = top.to_bytes(8, "little")
    for mapping in space.maps:
        if not (mapping.private_writable and (mapping.inode or not mapping.path) and mapping.bytes <= 16 << 20):
            continue
        data = space.read_prefix(mapping.start, mapping.bytes)
        at = data.find(needle)
        while at >= 0:
            if at % 8 == 0 and at >= _TOP_AT and not int.from_bytes(data[at - 92 : at - 88], "little") & ~3:
                return mapping.start + at - _TOP_AT
            at = data.find(needle, at + 1)
    return 0


def _fast_bytes(space: AddressSpace, state: int, deadline_s: float) -> Reading[int]:
    """Bytes in fast bins: lists of freed chunks whose links are stored xor-ed with their place (glibc 2.32+)."""
    source = f"{space.root}/{space.pid}/mem"
    body = space.read(state, _STATE_BYTES) if state else None
    if body is None:
        return Missing(Reason.NO_DATA, source, "the arena's head was not found")
    total = met = 0
    for place in range(_FAST_BINS):
        size = _SMALLEST + 16 * place
        chunk = int.from_bytes(body[_FAST_AT + 8 * place :][:8], "little")
        while chunk:
            met += 1
            if met > _MOST_FAST or time.monotonic() > deadline_s:
                return Missing(Reason.TIMED_OUT, source, f"more than {met - 1:,} chunks in fast bins")
            head = space.read(chunk, 24)
            if head is None or int.from_bytes(head[8:16], "little") & _SIZE_MASK != size:
                return Missing(Reason.MALFORMED, source, "a fast bin changed while it was read")
            total += size
            link = int.from_bytes(head[16:24], "little")
            plain = link ^ (chunk + 16 >> 12)
            chunk = plain if plain % 16 == 0 else link
    return Value(total)
