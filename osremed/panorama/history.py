"""A light balance every ten seconds, kept on disk: what grew since yesterday, and how full the host was.

A moment is one entry of a core Journal: whole once appended, checked by a checksum, torn tails cut and said. Sizes are
KiB under short names, so that a day takes less than 5 MB; every twelfth moment also has the largest processes, groups
and kernel owners."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.journal import read_journal
from osremed.core.paths import HostPaths
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.panorama.growth import KEY_CHARACTERS, kept_key, ranked
from osremed.panorama.model import Balance, Grown, Growth

EVERY_S = 10.0
WIDE_EVERY = 12  #: moments
SEGMENT_BYTES = 1 << 20
SEGMENTS = 36  #: of 1 MiB: more than a week
ROWS = {"process": 10, "group": 10, "kernel": 6}
_STALE_S = 3 * WIDE_EVERY * EVERY_S
_EDGE = 6  #: moments whose median stands for an end of the span: one short spike is not growth
_LEAST_BYTES = 1 << 20
_POINTS = 240
_LONGEST_BYTES = 2200  #: of an entry: with 405 of a narrow one at its longest, 4.9 MB a day
#: short name on disk -> line of the balance. Lines without a short name go under `other`.
_LINES = {
    "an": "anonymous memory", "pc": "page cache of files", "sh": "shared memory and tmpfs", "bu": "buffers",
    "sc": "swap cache", "sr": "slab, reclaimable", "su": "slab, unreclaimable", "pt": "page tables",
    "st": "secondary page tables", "pe": "per-CPU data", "zs": "compressed swap", "vm": "vmalloc", "hu": "huge pages",
    "ba": "balloon", "zr": "compressed swap devices", "un": "unaccounted", "fr": "free", "fp": "free, in per-CPU lists",
    "ot": "other",
}  # fmt: skip
_CODES = {name: code for code, name in _LINES.items()}
_KINDS = {"p": "process", "g": "group", "k": "kernel"}
_Sizes = Mapping[str, "tuple[str, int]"]  # key -> (name, bytes)


@record
class Moment:
    """`lines`: name -> bytes; those that were Missing are not in it. `wide`: kind -> key -> (name, bytes), empty for a
    narrow moment."""

    at_ns: int
    total_bytes: int
    lines: Mapping[str, int]
    wide: Mapping[str, _Sizes]


@record
class Past:
    """`damaged` names entries that could not be read; `holes` counts spans of more than 3 periods without a moment."""

    moments: tuple[Moment, ...]
    damaged: tuple[str, ...]
    holes: int


def history_directory(paths: HostPaths) -> str:
    return os.path.join(os.path.dirname(paths.events), "history")


# --- moments <-> entries -----------------------------------------------------------------------------------------


def moment_of(balance: Balance, wide: Mapping[str, _Sizes], at_ns: int) -> Moment:
    lines: dict[str, int] = {}
    for line in balance.lines:
        if isinstance(line.bytes, Value):
            name = line.name if line.name in _CODES else "other"
            lines[name] = lines.get(name, 0) + line.bytes.value
    return Moment(at_ns, balance.total_bytes, lines, wide)


def encode(moment: Moment) -> dict[str, Any]:
    """Lines of 0 KiB are kept: a line that is not there was not known."""
    entry: dict[str, Any] = {
        "t": moment.at_ns // 1_000_000,
        "m": moment.total_bytes >> 10,
        "l": {_CODES[name]: count >> 10 for name, count in moment.lines.items()},
    }
    for code, kind in _KINDS.items():
        rows = sorted(moment.wide.get(kind, {}).items(), key=lambda row: -row[1][1])[: ROWS[kind]]
        if rows:
            entry[code] = [
                [kept_key(key), "" if name == _named(kind, key) else name[-KEY_CHARACTERS:], count >> 10]
                for key, (name, count) in rows
            ]
    while len(canonical_json(entry)) > _LONGEST_BYTES and any(entry.get(code) for code in _KINDS):
        max((entry[code] for code in _KINDS if entry.get(code)), key=len).pop()  # long names cost rows, not days
    return entry


def _named(kind: str, key: str) -> str:
    """The name of a row that is kept without one: its key, of a part of a line (`line/part`) the part."""
    return key.partition("/")[2] or key if kind == "kernel" else key


def decode(entry: Mapping[str, Any]) -> Moment:
    """ValueError for an entry that `encode` would not have made."""
    try:
        lines = {_LINES[code]: _kib(count) for code, count in entry["l"].items()}
        wide = {
            kind: {
                _text(key): (_text(name) or _named(kind, key), _kib(count)) for key, name, count in entry.get(code, ())
            }
            for code, kind in _KINDS.items()
        }
        return Moment(_whole(entry["t"]) * 1_000_000, _kib(entry["m"]), lines, wide if any(wide.values()) else {})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a moment: {error!r}") from None


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 1 << 60:
        raise ValueError(f"not a size: {str(value)[:40]}")
    return value


def _kib(value: Any) -> int:
    return _whole(value) << 10


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a name")
    return value


# --- reading -----------------------------------------------------------------------------------------------------


def read_history(directory: str, since_s: float, now_ns: int) -> Reading[Past]:
    """The moments of the last `since_s`, oldest first. NO_DATA when there are none: the agent has not run here."""
    try:
        newest = read_journal(directory, after_seq=1 << 62).next_seq
        # At one moment a period there cannot be more; after a pause of the agent some are older and are left out.
        contents = read_journal(directory, after_seq=newest - int(since_s / EVERY_S) - _EDGE)
    except OSError as error:
        return missing_from_oserror(error, directory, absent=Reason.NO_DATA)
    moments, damaged = [], list(contents.damaged)
    for entry in contents.entries:
        try:
            moment = decode(entry.record)
        except ValueError as error:
            damaged.append(f"entry {entry.seq}: {error}")
            continue
        if now_ns - since_s * 1e9 <= moment.at_ns <= now_ns + 60e9:
            moments.append(moment)
    moments.sort(key=lambda each: each.at_ns)  # a clock that was set back
    if not moments:
        return Missing(Reason.NO_DATA, directory, "no moments in this span; osremed agent run keeps them")
    steps = [after.at_ns - before.at_ns for before, after in zip(moments, moments[1:])]
    return Value(Past(tuple(moments), tuple(damaged), sum(step > 3 * EVERY_S * 1e9 for step in steps)))


def grew(past: Past) -> Growth:
    """From the beginning of the span to its end: lines by the median of some moments at each end; a process, group or
    kernel owner from when it was first among the largest to the last time, in the seconds between."""
    moments = past.moments
    rows = (*_grown_lines(moments), *_grown_rows(moments))
    seconds = _seconds(moments[0], moments[-1])
    moved = [row for row in rows if abs(row.bytes) >= _LEAST_BYTES]
    return ranked(moved, seconds, "history", _watched(moments, rows))


def _seconds(first: Moment, last: Moment) -> float:
    return (last.at_ns - first.at_ns) / 1e9


def _watched(moments: Sequence[Moment], rows: Sequence[Grown]) -> frozenset[tuple[str, str]]:
    """What was known at the beginning of the span and at its end."""
    first = next((each.wide for each in moments if each.wide), {})
    return frozenset((row.kind, row.key) for row in rows if row.kind == "line" or row.key in first.get(row.kind, {}))


def _grown_lines(moments: Sequence[Moment]) -> Iterator[Grown]:
    edge = max(1, min(_EDGE, len(moments) // 3))
    span = _seconds(moments[0], moments[-1])
    for name in _CODES:
        if name.startswith("free"):
            continue
        first = [each.lines[name] for each in moments[:edge] if name in each.lines]
        last = [each.lines[name] for each in moments[-edge:] if name in each.lines]
        if first and last:
            yield Grown("line", name, name, round(statistics.median(first)), round(statistics.median(last)), span)


def _grown_rows(moments: Sequence[Moment]) -> Iterator[Grown]:
    wide = [each for each in moments if each.wide]
    if len(wide) < 2 or _seconds(wide[-1], moments[-1]) > _STALE_S:
        return
    for kind in ROWS:
        for key, (name, after) in wide[-1].wide.get(kind, {}).items():
            first = next(each for each in wide if key in each.wide.get(kind, {}))
            yield Grown(kind, name, key, first.wide[kind][key][1], after, _seconds(first, wide[-1]))


def series(past: Past) -> dict[str, Any]:
    """For plots: times and, for each line, bytes at each time (null: not known), at most 240 points."""
    step = max(1, -(-len(past.moments) // _POINTS))
    picked = past.moments[::-1][::step][::-1]  # the newest is always among them
    names = [name for name in _CODES if any(name in each.lines for each in picked)]
    return {
        "times_ns": [each.at_ns for each in picked],
        "total_bytes": picked[-1].total_bytes,
        "lines": {name: [each.lines.get(name) for each in picked] for name in names},
    }
