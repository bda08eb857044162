"""What the agent tells of the memory before it is short: `memory.growth`, `memory.page_cache`, `memory.dying_groups`.

Judged on the wide look that the history takes every two minutes. Each condition must stand for some looks in a row, is
told once (`state` raised) and once more when it is over (cleared, with the figures as they were told). Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.reading import Missing, Reading, Value
from osremed.core.record import field, record
from osremed.panorama.growth import unreclaimable
from osremed.panorama.model import ContainerRow, DyingRow, ProcessRow
from osremed.sensors.containers import unit_of

GROWTH, PAGE_CACHE, DYING = "memory.growth", "memory.page_cache", "memory.dying_groups"
NODE = "node"
_GROWTH_LOOKS = 6
_NOISE_BYTES = 4 << 20
_GROWTH_SHARE = 0.01  #: of the memory it may use, grown within the looks
_FULL_WITHIN_S = 24 * 3600.0
_LEVELLING = 1 / 3  #: growth of the later half over that of the earlier one, below which it is a warm-up
_STANDS_LOOKS = 2
_CACHE_SHARE = 0.5  #: of the limit
_AT_LIMIT_SHARE = 0.95
_GIVEN_BACK_S = 50.0  #: pages or folios a second, of a group at its limit
_NODE_STALL_RATIO = 0.02  #: of the time some task of the host waited for memory
_DYING_SHARE = 0.005


@record
class Look:
    """One wide look, whole: what is not in it is not there. `monotonic_ns`: by a clock that nobody sets. `groups` in
    their own figures; `given_back`: path -> what was taken from the group since it was made, for those near their
    limit; `stalled_us`: some task of the host waited for memory, since boot."""

    monotonic_ns: int
    total_bytes: int
    available_bytes: int
    cache_bytes: int
    free_bytes: int
    processes: tuple[ProcessRow, ...] = ()
    groups: tuple[ContainerRow, ...] = ()
    dying: tuple[DyingRow, ...] = ()
    given_back: Mapping[str, int] = field(default_factory=dict)
    stalled_us: int | None = None


@record
class Told:
    """An event to be: its name and attributes."""

    name: str
    attributes: Mapping[str, Any]


_Key = tuple[str, str]  # event, who
_Facts = dict[str, Any]


class Alarms:
    """Fed one look at a time."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque(maxlen=_GROWTH_LOOKS)
        self._in_a_row: dict[_Key, int] = {}
        self._told: dict[_Key, _Facts] = {}

    def note(self, look: Look) -> Iterator[Told]:
        """What is to be told now."""
        self._looks.append(look)
        now = dict(_conditions(tuple(self._looks)))
        self._in_a_row = {key: self._in_a_row.get(key, 0) + 1 for key in now}
        for key, facts in now.items():
            needed = 1 if key[0] == GROWTH else _STANDS_LOOKS  # growth has been looked at for long already
            if key not in self._told and self._in_a_row[key] >= needed:
                self._told[key] = facts
                yield Told(key[0], {**facts, "state": "raised"})
        for key in [key for key in self._told if key not in now]:
            yield Told(key[0], {**self._told.pop(key), "state": "cleared"})


def _conditions(looks: tuple[Look, ...]) -> Iterator[tuple[_Key, _Facts]]:
    for rule in (_growth, _group_cache, _node_cache, _dying):
        yield from rule(looks)


# --- growth ------------------------------------------------------------------------------------------------------


def _growth(looks: tuple[Look, ...]) -> Iterator[tuple[_Key, _Facts]]:
    """Processes whose heap rose in every look but one, does not level off, and fills what they may use within a day."""
    if len(looks) < _GROWTH_LOOKS:
        return
    last = looks[-1]
    seconds = (last.monotonic_ns - looks[0].monotonic_ns) / 1e9
    if seconds <= 0:
        return
    sizes = [{(row.pid, row.start_time_ticks): row.heap_bytes for row in look.processes} for look in looks]
    groups = {group.cgroup: group for group in last.groups}
    for row in last.processes:
        series = [each.get((row.pid, row.start_time_ticks)) for each in sizes]
        heaps = [size for size in series if size is not None]
        if len(heaps) < _GROWTH_LOOKS or not _keeps_growing(heaps):
            continue
        scope = row.container or _or(row.cgroup, "")
        group = groups.get(scope)
        limit = last.total_bytes if group is None else _or(group.limit_bytes, last.total_bytes)
        room = last.available_bytes if group is None else min(last.available_bytes, limit - unreclaimable(group))
        if heaps[-1] - heaps[0] < max(_NOISE_BYTES, _GROWTH_SHARE * limit):
            continue
        rate = (heaps[-1] - heaps[0]) / seconds
        fills_in_s = max(0, room) / rate
        if fills_in_s > _FULL_WITHIN_S:
            continue
        yield (
            (GROWTH, f"{row.pid}/{row.start_time_ticks}"),
            {
                "pid": row.pid,
                "start_time_ticks": row.start_time_ticks,
                "process": row.name,
                "scope": scope,
                "unit": unit_of(row.container),
                "held_bytes": heaps[-1],
                "before_bytes": heaps[0],
                "scope_bytes": row.heap_bytes if group is None else unreclaimable(group),
                "seconds": round(seconds, 1),
                "rate_bytes_s": round(rate, 1),
                "fills_in_s": round(fills_in_s),
                "limit_bytes": limit,
            },
        )


def _keeps_growing(heaps: list[int]) -> bool:
    steps = [after - before for before, after in zip(heaps, heaps[1:])]
    half = len(heaps) // 2
    earlier, later = heaps[half] - heaps[0], heaps[-1] - heaps[-1 - half]
    return sum(step > 0 for step in steps) >= len(steps) - 1 and later > 0 and later >= _LEVELLING * earlier


def _or(reading: Reading[Any], otherwise: Any) -> Any:
    return otherwise if isinstance(reading, Missing) else reading.value


# --- page cache --------------------------------------------------------------------------------------------------


def _group_cache(looks: tuple[Look, ...]) -> Iterator[tuple[_Key, _Facts]]:
    """Groups at their limit whose memory is page cache for the most: each allocation waits for a reclaim."""
    if len(looks) < 2:
        return
    before, last = looks[-2:]
    seconds = (last.monotonic_ns - before.monotonic_ns) / 1e9
    for group in last.groups:
        limit, cache = group.limit_bytes, group.file_bytes
        if isinstance(limit, Missing) or isinstance(cache, Missing):
            continue
        if group.usage_bytes < _AT_LIMIT_SHARE * limit.value or cache.value < _CACHE_SHARE * limit.value:
            continue
        if group.cgroup not in before.given_back or group.cgroup not in last.given_back or seconds <= 0:
            continue
        rate = (last.given_back[group.cgroup] - before.given_back[group.cgroup]) / seconds
        if rate >= _GIVEN_BACK_S:
            yield (
                (PAGE_CACHE, group.cgroup),
                {
                    "scope": group.cgroup,
                    "unit": unit_of(group.cgroup),
                    "limit_bytes": limit.value,
                    "used_bytes": group.usage_bytes,
                    "cache_bytes": cache.value,
                    "cache_ratio": round(cache.value / limit.value, 4),
                    "given_back_per_s": round(rate, 2),
                },
            )


def _node_cache(looks: tuple[Look, ...]) -> Iterator[tuple[_Key, _Facts]]:
    """A host that is full of page cache is as it should be, unless tasks wait for memory meanwhile."""
    if len(looks) < 2 or looks[-1].stalled_us is None or looks[-2].stalled_us is None:
        return
    before, last = looks[-2:]
    seconds = (last.monotonic_ns - before.monotonic_ns) / 1e9
    stalled = (looks[-1].stalled_us - looks[-2].stalled_us) / 1e6 / seconds if seconds > 0 else 0.0
    if last.cache_bytes < _CACHE_SHARE * last.total_bytes or stalled < _NODE_STALL_RATIO:
        return
    if last.free_bytes > (1 - _AT_LIMIT_SHARE) * last.total_bytes:
        return
    yield (
        (PAGE_CACHE, NODE),
        {
            "scope": NODE,
            "unit": "",
            "limit_bytes": last.total_bytes,
            "used_bytes": last.total_bytes - last.free_bytes,
            "cache_bytes": last.cache_bytes,
            "cache_ratio": round(last.cache_bytes / last.total_bytes, 4),
            "stalled_ratio": round(stalled, 4),
        },
    )


# --- removed groups ----------------------------------------------------------------------------------------------


def _dying(looks: tuple[Look, ...]) -> Iterator[tuple[_Key, _Facts]]:
    """Removed groups that still hold memory of the host."""
    last = looks[-1]
    for row in last.dying:
        if row.held_bytes >= _DYING_SHARE * last.total_bytes:
            yield (
                (DYING, row.parent),
                {
                    "scope": row.parent,
                    "held_bytes": row.held_bytes,
                    "held_ratio": round(row.held_bytes / last.total_bytes, 4),
                    "groups": row.count.value if isinstance(row.count, Value) else None,
                    "total_bytes": last.total_bytes,
                },
            )
