"""Two snapshots -> what grew, and the sentence that says so. Pure."""

from __future__ import annotations

from osremed.core.units import format_bytes
from osremed.panorama.heaps.model import Growth, HolderGrowth, HolderRow, Recording, Snapshot, TypeGrowth, TypeRow

_ROWS = 10
#: Less than this share of the heap in the window is the coming and going of any program.
_NOISE_SHARE = 0.002
_NOISE_BYTES_PER_S = 4096
_WHOLE = 0.999


def compare(before: Snapshot, after: Snapshot) -> Growth:
    """What `after` has more of, per second. Types that are new count from 0; of two samples no growth by type is told,
    as chance would grow with it. Containers are counted whole in any case."""
    window_s = max(after.monotonic_s - before.monotonic_s, 1e-9)
    old_types = {row.name: row for row in before.types}
    whole = min(before.coverage, after.coverage) > _WHOLE
    types = [
        _type_growth(old_types.get(row.name, TypeRow(row.name, 0, 0, 0)), row, window_s)
        for row in (after.types if whole else ())
    ]
    old_holders = {row.path or str(row.address): row for row in before.holders}
    holders = []
    for holder in after.holders:
        held = old_holders.get(holder.path or str(holder.address))
        if held is not None:
            holders.append(_holder_growth(held, holder, window_s))
    bytes_per_s = (after.resident_bytes - before.resident_bytes) / window_s
    return Growth(
        window_s,
        bytes_per_s,
        tuple(sorted((row for row in types if row.bytes_per_s > 0), key=lambda row: -row.bytes_per_s)[:_ROWS]),
        tuple(sorted((row for row in holders if row.items_per_s > 0), key=lambda row: -row.bytes_per_s)[:_ROWS]),
    )


def _type_growth(old: TypeRow, new: TypeRow, window_s: float) -> TypeGrowth:
    """By count, which is exact, times the mean size, and by the large objects, which are measured one by one: the means
    of two samples differ by chance."""
    mean = (new.bytes - new.large_bytes) / new.count if new.count else 0.0
    count = new.count - old.count
    grown_bytes = count * mean + new.large_bytes - old.large_bytes
    return TypeGrowth(new.name, count / window_s, grown_bytes / window_s)


def _holder_growth(old: HolderRow, new: HolderRow, window_s: float) -> HolderGrowth:
    """By items, which are exact, times the mean size of one: the sampled bytes of two looks differ by chance."""
    items_per_s = (new.items - old.items) / window_s
    mean = new.bytes / new.items if new.items else 0.0
    return HolderGrowth(new.path, new.kind, new.element, new.items, items_per_s, items_per_s * mean)


def sentence(name: str, pid: int, seen: Snapshot, growth: Growth | None) -> str:
    """One sentence: who grows, by how much per second, held where; without growth, what holds most."""
    who = f"{name} (pid {pid}, {seen.runtime})"
    if growth is None:
        return f"{who} holds {format_bytes(seen.resident_bytes)} of heap; {_largest(seen)}."
    floor = max(_NOISE_BYTES_PER_S, _NOISE_SHARE * seen.resident_bytes / growth.window_s)
    holder = next((row for row in growth.holders if row.bytes_per_s > floor), None)
    kind = next((row for row in growth.types if row.bytes_per_s > floor), None)
    if holder is None and kind is None:
        return f"{who} did not grow in {growth.window_s:.1f} s; {_largest(seen)}."
    rate = max([growth.bytes_per_s] + [row.bytes_per_s for row in (holder or kind,) if row is not None])
    text = f"{who} grows by {format_bytes(rate)}/s"
    if holder is not None:
        where = holder.path or f"a {holder.kind} that no module names (a local variable, a closure or C code)"
        element = f" of {holder.element}" if holder.element else ""
        return f"{text}, held in {where}: {holder.kind}{element}, {holder.items:,} items, +{holder.items_per_s:,.0f}/s."
    if kind is None:
        return f"{text}."
    objects = f": +{kind.count_per_s:,.0f} objects/s" if kind.count_per_s > 0 else ""
    return f"{text}, most in {kind.name}{objects}."


def recorded_sentence(recording: Recording) -> str:
    """What a recording adds: where what was made meanwhile hangs, and who made it. Empty when nothing was sampled."""
    if not recording.paths:
        return ""
    by_place = {path.held_in: 0 for path in recording.paths}
    for path in recording.paths:
        by_place[path.held_in] += path.samples
    place = max(by_place, key=lambda name: by_place[name])
    first = next(path for path in recording.paths if path.held_in == place)
    detail = f", {first.detail}" if first.detail else ""
    made = f", made in {' < '.join(first.stack[:2])}" if first.stack else ""
    return (
        f" Of {recording.samples} objects sampled meanwhile, {by_place[place]} hang on {place} "
        f"({first.container}{detail}){made}."
    )


def _largest(seen: Snapshot) -> str:
    if seen.holders:
        row = seen.holders[0]
        where = row.path or f"a {row.kind} that no module names"
        element = f" of {row.element}" if row.element else ""
        return f"most of it in {where}, {row.kind}{element}, {row.items:,} items, {format_bytes(row.bytes)}"
    if seen.types:
        top = seen.types[0]
        objects = f"{top.count:,} objects, " if top.count else ""
        return f"most of it in {top.name}, {objects}{format_bytes(top.bytes)}"
    return "no type is known"
