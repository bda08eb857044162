"""Two panoramas -> what grew, by line, kernel owner, process, group and file. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from osremed.core.reading import Missing, Value
from osremed.panorama.balance import RESTS
from osremed.panorama.model import MOST_GROUPS, ContainerRow, Grown, Growth, Panorama

_ROWS = 60
_LEAST_BYTES = 64 << 10
KEY_CHARACTERS = 96  #: of the history
#: kind -> the layers that read it
_LAYERS: Mapping[str, tuple[str, ...]] = {
    "line": ("balance", "invisible", "cached files"), "kernel": ("balance",), "process": ("processes",),
    "group": ("containers",), "vram": ("gpus",), "file": ("files", "cached files"),
}  # fmt: skip


def measured(before: Panorama, after: Panorama, seconds: float) -> Growth:
    """What is in both, or new since: what is only in the later one counts from 0 if the earlier table was complete, and
    is left out otherwise (it may have been below the row limit)."""
    first, second = dict(_sizes(before)), dict(_sizes(after))
    rows = []
    for (kind, key), (name, size) in second.items():
        known = first.get((kind, key))
        if known is None and not _absent(before, kind, key):
            continue
        earlier = 0 if known is None else known[1]
        if abs(size - earlier) >= _LEAST_BYTES:
            rows.append(Grown(kind, name, key, earlier, size, seconds))
    return ranked(rows, seconds, "two scans", frozenset(first.keys() & second.keys()))


def unreclaimable(group: ContainerRow) -> int:
    """Page cache grows with any reading and is given back: it is left out where the group tells it apart."""
    if isinstance(group.anon_bytes, Missing) or isinstance(group.shmem_bytes, Missing):
        return group.usage_bytes
    kernel = 0 if isinstance(group.kernel_bytes, Missing) else group.kernel_bytes.value
    return group.anon_bytes.value + group.shmem_bytes.value + kernel


def ranked(rows: list[Grown], seconds: float, source: str, watched: frozenset[tuple[str, str]]) -> Growth:
    """The most first; of many the middle is left out, and nothing is said of it."""
    rows.sort(key=lambda row: (-row.bytes, row.kind, row.name))
    kept, cut = (rows, []) if len(rows) <= _ROWS else ([*rows[: _ROWS - 10], *rows[-10:]], rows[_ROWS - 10 : -10])
    return Growth(seconds, source, tuple(kept), watched - {(row.kind, row.key) for row in cut})


def kept_key(key: str) -> str:
    """The key as the history keeps it: a long one by its end, which tells most, and a digest of all of it."""
    if len(key) <= KEY_CHARACTERS:
        return key
    digest = hashlib.blake2s(key.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{digest}~{key[len(digest) + 1 - KEY_CHARACTERS :]}"


def _absent(before: Panorama, kind: str, key: str) -> bool:
    """Whether it was not there, and not only unread or below the last row."""
    if any(layer.name in _LAYERS[kind] and not layer.finished for layer in before.layers):
        return False
    if kind in ("line", "kernel"):
        return _absent_line(before, kind, key.partition("/")[0])
    if kind == "vram":
        unread = any(gap.layer in _LAYERS[kind] for gap in before.gaps)
        return not unread and all(isinstance(held.bytes, Value) for held in before.vram)
    return {
        "process": len(before.processes) >= before.totals.processes,
        "file": len(before.files) >= before.totals.files,
        "group": len(before.containers) < MOST_GROUPS,
    }[kind]


def _absent_line(before: Panorama, kind: str, name: str) -> bool:
    """A line that is Missing was there; so may a part have been that is in the rest of its line."""
    lines = before.balance.value.lines if isinstance(before.balance, Value) else ()
    line = next((each for each in lines if each.name == name), None)
    if kind == "line":
        return bool(lines) and line is None
    return line is not None and bool(line.parts) and all(part.name != RESTS.get(name) for part in line.parts)


def _sizes(panorama: Panorama) -> Iterator[tuple[tuple[str, str], tuple[str, int]]]:
    """((kind, key), (name, bytes)) of everything that can grow. Free memory is not a holder."""
    lines = panorama.balance.value.lines if isinstance(panorama.balance, Value) else ()
    for line in lines:
        if isinstance(line.bytes, Value) and line.kind != "free":
            yield ("line", line.name), (line.name, line.bytes.value)
            if line.kind == "kernel":
                for part in line.parts:
                    if part.name != RESTS.get(line.name):
                        yield ("kernel", f"{line.name}/{part.name}"), (part.name, part.bytes)
    for row in panorama.processes:
        yield ("process", f"{row.pid}/{row.start_time_ticks}"), (f"{row.name} ({row.pid})", row.heap_bytes)
    for group in panorama.containers:
        yield ("group", group.cgroup), (group.name, unreclaimable(group))
    for held in panorama.vram:
        if isinstance(held.bytes, Value):
            name = f"{held.name or 'process'} ({held.pid}) on {held.gpu}"
            yield ("vram", f"{held.gpu}/{held.pid}/{held.start_time_ticks}"), (name, held.bytes.value)
    for file in panorama.files:
        yield ("file", f"{file.filesystem}:{file.path}"), (file.path, file.cached_bytes)
