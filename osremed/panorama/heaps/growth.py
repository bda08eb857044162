"""Two snapshots -> what grew, and the sentence that says so. Pure."""

from __future__ import annotations

from osremed.core.phrase import Fill, plain
from osremed.core.units import format_bytes
from osremed.panorama.heaps.model import Growth, HolderGrowth, HolderRow, Recording, Snapshot, TypeGrowth, TypeRow

_ROWS = 10
#: Less than this share of the heap in the window is the coming and going of any program.
_NOISE_SHARE = 0.002
_NOISE_BYTES_PER_S = 4096
_WHOLE = 0.999
COMPARED_ROWS = 200  #: of types and of containers: what grows need not be among the largest


def compare(before: Snapshot, after: Snapshot, rows: int = COMPARED_ROWS) -> Growth:
    """What `after` has more of, per second. Types that are new count from 0, unless `before` has as many as `rows`:
    they may have been below the last one then, and are left out. Of two samples no growth by type is told, as chance
    would grow with it. Containers are counted whole in any case."""
    window_s = max(after.monotonic_s - before.monotonic_s, 1e-9)
    old_types = {row.name: row for row in before.types}
    whole = min(before.coverage, after.coverage) > _WHOLE
    types = [
        _type_growth(old_types.get(row.name, TypeRow(row.name, 0, 0, 0)), row, window_s)
        for row in (after.types if whole else ())
        if row.name in old_types or len(before.types) < rows
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


def sentence(name: str, pid: int, seen: Snapshot, growth: Growth | None, fill: Fill = plain) -> str:
    """One sentence: who grows, by how much per second, held where; without growth, what holds most."""
    who = f"{name} (pid {pid}, {seen.runtime})"
    if growth is None:
        return fill("{1} holds {2} of heap; {3}.", who, format_bytes(seen.resident_bytes), _largest(seen, fill))
    floor = max(_NOISE_BYTES_PER_S, _NOISE_SHARE * seen.resident_bytes / growth.window_s)
    holder = next((row for row in growth.holders if row.bytes_per_s > floor), None)
    kind = next((row for row in growth.types if row.bytes_per_s > floor), None)
    if holder is None and kind is None:
        return fill("{1} did not grow in {2} s; {3}.", who, f"{growth.window_s:.1f}", _largest(seen, fill))
    rate = max([growth.bytes_per_s] + [row.bytes_per_s for row in (holder or kind,) if row is not None])
    text = fill("{1} grows by {2}/s", who, format_bytes(rate))
    if holder is not None:
        where = holder.path or fill("a {1} that no module names (a local variable, a closure or C code)", holder.kind)
        kept = (kind_of(holder.kind, holder.element, fill), f"{holder.items:,}", f"{holder.items_per_s:,.0f}")
        return fill("{1}, held in {2}: {3}, {4} items, +{5}/s.", text, where, *kept)
    if kind is None:
        return f"{text}."
    if kind.count_per_s > 0:
        return fill("{1}, most in {2}: +{3} objects/s.", text, kind.name, f"{kind.count_per_s:,.0f}")
    return fill("{1}, most in {2}.", text, kind.name)


def kind_of(kind: str, element: str, fill: Fill = plain) -> str:
    """What a holder is: `dict of Session`."""
    return kind + fill(" of {1}", element) if element else kind


def recorded_sentence(recording: Recording, fill: Fill = plain) -> str:
    """What a recording adds: where what was made meanwhile hangs, and who made it. Empty when nothing was sampled."""
    if not recording.paths:
        return ""
    by_place = {path.held_in: 0 for path in recording.paths}
    for path in recording.paths:
        by_place[path.held_in] += path.samples
    place = max(by_place, key=lambda name: by_place[name])
    first = next(path for path in recording.paths if path.held_in == place)
    detail = f", {first.detail}" if first.detail else ""
    told = (str(recording.samples), str(by_place[place]), place, f"{first.container}{detail}")
    made = fill(", made in {1}", " < ".join(first.stack[:2])) if first.stack else ""
    return fill(" Of {1} objects sampled meanwhile, {2} hang on {3} ({4}){5}.", *told, made)


def _largest(seen: Snapshot, fill: Fill) -> str:
    if seen.holders:
        row = seen.holders[0]
        where = row.path or fill("a {1} that no module names", row.kind)
        kept = (kind_of(row.kind, row.element, fill), f"{row.items:,}", format_bytes(row.bytes))
        return fill("most of it in {1}, {2}, {3} items, {4}", where, *kept)
    if seen.types:
        top = seen.types[0]
        if top.count:
            return fill("most of it in {1}, {2} objects, {3}", top.name, f"{top.count:,}", format_bytes(top.bytes))
        return fill("most of it in {1}, {2}", top.name, format_bytes(top.bytes))
    return fill("no type is known")
