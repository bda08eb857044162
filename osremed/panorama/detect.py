"""A panorama -> findings: what grows, what is large but stable, what can be had back; and what would help. Pure.

Thresholds are shares of the scope's memory, so that a 512 MiB container and a 2 TiB host are judged alike. A rate is
called growth when it would fill 1 % of the total within an hour and is beyond the noise of its measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from osremed.core.finding import Finding
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.units import format_bytes
from osremed.panorama.growth import kept_key
from osremed.panorama.model import NODE, Advice, Diagnosis, FileRow, Grown, Panorama, ProcessRow
from osremed.sensors.containers import unit_of

_LARGE_SHARE = 0.10  #: of the total: large enough to be named
_HUGE_SHARE = 0.25
_KERNEL_SHARE = 0.05
_RESIDUAL_SHARE = 0.02
_LEFT_BEHIND_SHARE = 0.005
_SOCKET_SHARE = 0.01
_FILL_S = 3600.0
_NOISE_BYTES = 4 << 20
_VRAM_NOISE_BYTES = 64 << 20  #: drivers give it out in blocks of 2 to 32 MiB
_LONG_S = 600.0  #: growth over a longer span is more than a warm-up
_RAM_FILE_SYSTEMS = ("tmpfs", "ramfs", "hugetlbfs")
_NO_FILES_TO_DROP = (*_RAM_FILE_SYSTEMS, "bdev")  # a block device's cache has no file of its own
_NOBODY = Advice("", {}, "")


def detect(panorama: Panorama) -> tuple[Diagnosis, ...]:
    """Findings, the most bytes first. Without a known total there are none: nothing can be called large."""
    if isinstance(panorama.total_bytes, Missing) or panorama.total_bytes.value <= 0:
        return ()
    total = panorama.total_bytes.value
    found = [each for rule in _RULES for each in rule(panorama, total)]
    return tuple(sorted(found, key=lambda each: (-each.held_bytes, each.finding.name)))


def _diagnosis(
    name: str, summary: str, held_bytes: int, *, kind: str, confidence: float, evidence: tuple[str, ...],
    advice: Advice = _NOBODY, gain: Reading[int] | None = None, promise: str = "",
) -> Diagnosis:  # fmt: skip
    gain = Missing(Reason.NO_DATA, name, "nobody can tell beforehand") if gain is None else gain
    if not promise and isinstance(gain, Value):
        promise = f"up to {format_bytes(gain.value)}"
    return Diagnosis(Finding(name, summary, confidence, evidence, promise), kind, held_bytes, gain, advice)


def _line_bytes(panorama: Panorama, name: str) -> int:
    """0 also when the line is not known: no finding rests on what was not read."""
    lines = panorama.balance.value.lines if isinstance(panorama.balance, Value) else ()
    return next((each.bytes.value for each in lines if each.name == name and isinstance(each.bytes, Value)), 0)


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


# --- growth ------------------------------------------------------------------------------------------------------


def _growing(panorama: Panorama, total: int) -> dict[tuple[str, str], tuple[Grown, float]]:
    """(kind, key) -> row and bytes a second, of what grew beyond noise and was there before."""
    rows = panorama.growth.rows if panorama.growth is not None else ()
    return {
        (row.kind, row.key): (row, row.bytes / row.seconds)
        for row in rows
        if row.before_bytes > 0
        and row.seconds > 0
        and row.bytes >= max(_NOISE_BYTES, _LARGE_SHARE / 10 * total * row.seconds / _FILL_S)
    }


def _trend(panorama: Panorama, total: int, kind: str, key: str) -> str:
    if (kind, key) in _growing(panorama, total):
        return "growing"
    return "stable" if panorama.growth is not None and (kind, key) in panorama.growth.watched else "unknown"


def _grows(row: Grown, rate: float) -> str:
    span = f"{row.seconds:.0f} s" if row.seconds < 7200 else f"{row.seconds / 3600:.0f} h"
    return f"{row.name} grew by {format_bytes(row.bytes)} in {span} ({format_bytes(rate)}/s)"


# --- rules -------------------------------------------------------------------------------------------------------


def _processes(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    """A leak is what grows; a large heap that does not grow is named as what it is."""
    growing = _growing(panorama, total)
    ourselves = panorama.cost.pid if panorama.cost else 0  # it grows while it looks, and ends
    for index, row in enumerate(panorama.processes):
        if row.pid == ourselves:
            continue
        key = ("process", f"{row.pid}/{row.start_time_ticks}")
        evidence: tuple[str, ...] = (f"panorama.processes[{index}]",)
        private = row.private_bytes if isinstance(row.private_bytes, Value) else Value(row.heap_bytes)
        if key in growing:
            grown, rate = growing[key]
            long = grown.seconds > _LONG_S
            yield _diagnosis(
                "process-leak", _grows(grown, rate) + f"; it holds "
                f"{format_bytes(row.heap_bytes)}, {_percent(row.heap_bytes, total)}", row.heap_bytes,
                kind="growing", confidence=0.85 if long else 0.5, evidence=(*evidence, "panorama.growth"),
                advice=_end_or_restart(row.pid, row.start_time_ticks, row.container), gain=private,
            )  # fmt: skip
        elif row.heap_bytes > _HUGE_SHARE * total:
            kind = _trend(panorama, total, *key)
            known = "and did not grow" if kind == "stable" else "and whether it grows was not measured"
            yield _diagnosis(
                "process-large", f"{row.name} (pid {row.pid}) holds {format_bytes(row.heap_bytes)}, "
                f"{_percent(row.heap_bytes, total)}, {known}", row.heap_bytes,
                kind=kind, confidence=0.9, evidence=evidence, advice=_cap(panorama, row), gain=private,
            )  # fmt: skip


def _end_or_restart(pid: int, start_time_ticks: int, container: str) -> Advice:
    """A unit of the host is restarted; what belongs to none gets a signal. Both end the process: somebody agrees."""
    unit = unit_of(container)
    if unit.endswith(".service"):
        return Advice("service_restart", {"name": unit}, f"restart {unit}")
    arguments = {"pid": pid, "start_time_ticks": start_time_ticks, "signal": "TERM"}
    return Advice("proc_signal", arguments, f"end pid {pid}, or have its owner restart it")


def _cap(panorama: Panorama, row: ProcessRow) -> Advice:
    """A group of its own can be limited a little above what it uses now, so that it cannot take more."""
    group = next((each for each in panorama.containers if row.container and each.cgroup == row.container), None)
    if group is None or isinstance(group.limit_bytes, Value):
        return Advice("", {}, "nothing to do while it does not grow; a limit on a group of its own keeps it so")
    limit = group.usage_bytes + group.usage_bytes // 10
    return Advice("cgroup_limits", {"cgroup": group.cgroup, "memory_max": f"{limit}B"}, f"limit {group.name}")


def _groups(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    """The innermost groups that grow in what cannot be reclaimed; a parent grows with them."""
    growing = {key: grown for (kind, key), grown in _growing(panorama, total).items() if kind == "group"}
    found = {
        path: growing.get(path, growing.get(kept_key(path))) for path in (row.cgroup for row in panorama.containers)
    }
    paths = [path for path, grown in found.items() if grown is not None]
    for index, group in enumerate(panorama.containers):
        of_group = found[group.cgroup]
        if of_group is None or any(path.startswith(f"{group.cgroup}/") for path in paths):
            continue
        grown, rate = of_group
        limit = group.usage_bytes + max(group.usage_bytes // 10, 64 << 20)
        yield _diagnosis(
            "group-leak", _grows(grown, rate), group.usage_bytes,
            kind="growing", confidence=0.6, evidence=(f"panorama.containers[{index}]", "panorama.growth"),
            advice=Advice("cgroup_limits", {"cgroup": group.cgroup, "memory_max": f"{limit}B"},
                          "a limit keeps the others safe; the leak itself stays"),
            promise="the rest of the host keeps its memory",
        )  # fmt: skip


def _page_cache(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    for index, row in enumerate(panorama.files):
        if row.filesystem in _NO_FILES_TO_DROP or row.deleted or row.cached_bytes <= _LARGE_SHARE * total:
            continue
        dirty = row.dirty_bytes.value if isinstance(row.dirty_bytes, Value) else 0
        yield _diagnosis(
            "page-cache-hog", f"{row.path} has {format_bytes(row.cached_bytes)} in page cache, "
            f"{_percent(row.cached_bytes, total)}, {_held_by(row)}", row.cached_bytes,
            kind="reclaimable", confidence=0.9, evidence=(f"panorama.files[{index}]",),
            advice=_drop(row), gain=Value(max(0, row.cached_bytes - dirty)),
        )  # fmt: skip


def _drop(row: FileRow) -> Advice:
    if row.leads_there:
        return Advice("page_cache", {"paths": [row.path]}, "drop it; it comes back when it is read again")
    where = f"only pid {row.path_of_pid} sees it there" if row.path_of_pid else "it is not mounted here"
    return Advice("", {}, f"no path of this host leads to it ({where}): the kernel takes it back under pressure")


def _held_by(row: FileRow) -> str:
    if not row.open_by:
        return "open by nobody" if row.open_by_whole else "by whom it is open is not known"
    rest = f" and {len(row.open_by) - 3} more" if len(row.open_by) > 3 else ""
    return f"open by {', '.join(str(pid) for pid in row.open_by[:3])}{rest}"


def _tmpfs(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    for index, row in enumerate(panorama.files):
        left = not row.open_by and row.open_by_whole
        large = row.cached_bytes > (_LEFT_BEHIND_SHARE if left else _LARGE_SHARE) * total
        if row.filesystem not in _RAM_FILE_SYSTEMS or not large:
            continue
        name = "shared-memory-left-behind" if left else "shared-memory-hog"
        yield _diagnosis(
            name, f"{row.path} ({row.filesystem}) holds {format_bytes(row.cached_bytes)}, "
            f"{_percent(row.cached_bytes, total)}, {_held_by(row)}; no process's end frees it", row.cached_bytes,
            kind="stable", confidence=0.7 if left else 0.9, evidence=(f"panorama.files[{index}]",),
            advice=Advice("", {}, f"remove {row.path} once nobody needs it" if left else "ask its owner"),
            gain=Value(row.cached_bytes) if left else None,
        )  # fmt: skip


def _segments(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    left = [each for each in panorama.segments if not each.attached]
    held = sum(each.resident_bytes + each.swap_bytes for each in left)
    if held > _LEFT_BEHIND_SHARE * total:
        ids = ", ".join(str(each.segment_id) for each in left[:5])
        creators = ", ".join(sorted({str(each.creator_pid) for each in left[:5]}))
        yield _diagnosis(
            "shared-memory-left-behind", f"{len(left)} System V segments hold {format_bytes(held)} and nobody is "
            f"attached (ids {ids}; made by pid {creators})", held,
            kind="stable", confidence=0.8, evidence=("panorama.shared_segments",),
            advice=Advice("", {}, "ipcrm -m ID, once their owner agrees: it may want to attach again"),
            gain=Value(held),
        )  # fmt: skip


def _slab(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    lines = panorama.balance.value.lines if isinstance(panorama.balance, Value) else ()
    growing = _growing(panorama, total)
    for line in lines:
        if line.name not in ("slab, reclaimable", "slab, unreclaimable", "vmalloc") or isinstance(line.bytes, Missing):
            continue
        source = f"panorama.balance.lines ({line.name})"
        for part in line.parts:
            key = ("kernel", f"{line.name}/{part.name}")
            if key in growing and line.name != "slab, reclaimable":
                grown, rate = growing[key]
                yield _diagnosis(
                    "kernel-leak", _grows(grown, rate) + f", kernel memory ({line.name}) that "
                    "cannot be reclaimed", part.bytes, kind="growing", confidence=0.6,
                    evidence=(source, "panorama.growth"),
                    advice=Advice("", {}, "find who allocates it: trace page allocations, or restart what uses it"),
                )  # fmt: skip
        if line.name == "slab, reclaimable" and line.bytes.value > _LARGE_SHARE * total:
            top = line.parts[0].name if line.parts else "not told by cache"
            yield _diagnosis(
                "dentry-hog", f"dentries, inodes and the like hold {format_bytes(line.bytes.value)}, "
                f"{_percent(line.bytes.value, total)}; most in {top}", line.bytes.value,
                kind="reclaimable", confidence=0.8, evidence=(source,), gain=Value(line.bytes.value),
                advice=Advice("sysctl", {"settings": {"vm.vfs_cache_pressure": "200"}},
                              "the kernel gives them back under pressure; earlier with a higher vfs_cache_pressure"),
            )  # fmt: skip
        elif line.name != "slab, reclaimable" and line.bytes.value > _KERNEL_SHARE * total:
            top = line.parts[0].name if line.parts else "not told by owner"
            yield _diagnosis(
                "kernel-hog", f"{line.name} holds {format_bytes(line.bytes.value)}, "
                f"{_percent(line.bytes.value, total)}; most in {top}", line.bytes.value,
                kind=_trend(panorama, total, "line", line.name), confidence=0.8, evidence=(source,),
                advice=Advice("", {}, "it cannot be reclaimed; see whether it grows"),
            )  # fmt: skip


def _dying(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    for index, row in enumerate(panorama.dying):
        if row.held_bytes > _LEFT_BEHIND_SHARE * total:
            many = f"{row.count.value} removed groups" if isinstance(row.count, Value) else "removed groups"
            root = row.parent == "/"
            how = "reading or removing the files they cached ends them" if root else f"reclaim from {row.parent}"
            arguments: Mapping[str, Any] = {} if root else {"cgroup": row.parent, "bytes": str(row.held_bytes)}
            yield _diagnosis(
                "dying-groups", f"{many} below {row.parent} still hold {format_bytes(row.held_bytes)}", row.held_bytes,
                kind="reclaimable", confidence=0.7, evidence=(f"panorama.dying_groups[{index}]",),
                advice=Advice("" if root else "cgroup_reclaim", arguments, how), gain=Value(row.held_bytes),
            )  # fmt: skip


def _sockets(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    for protocol, held in panorama.sockets.items():
        if held > _SOCKET_SHARE * total:
            yield _diagnosis(
                "socket-queue", f"{protocol} sockets queue {format_bytes(held)}: somebody sends and nobody reads", held,
                kind=_trend(panorama, total, "line", "unaccounted"), confidence=0.7, gain=Value(held),
                evidence=(f"panorama.socket_queues.{protocol}",),
                advice=Advice("", {}, "find the reader: ss -tmp sorts by queue; ending it frees the queue"),
            )  # fmt: skip


def residual_is_large(panorama: Panorama) -> bool:
    """More is unaccounted for than a healthy host shows, so that it is worth a look at who allocates."""
    if panorama.scope != NODE or isinstance(panorama.balance, Missing) or isinstance(panorama.total_bytes, Missing):
        return False
    return panorama.balance.value.residual_bytes > _RESIDUAL_SHARE * panorama.total_bytes.value


def _residual(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    if residual_is_large(panorama) and isinstance(panorama.balance, Value):
        residual = panorama.balance.value.residual_bytes
        unread = [line.name for line in panorama.balance.value.lines if isinstance(line.bytes, Missing)]
        kind = _trend(panorama, total, "line", "unaccounted")
        also = f"; not readable here: {', '.join(unread)}" if unread else ""
        yield _diagnosis(
            "kernel-unaccounted", f"{format_bytes(residual)}, {_percent(residual, total)}, is in no counter: packet "
            f"rings, page pools, pipes, drivers{also}{_kept_by(panorama)}", residual,
            kind=kind, confidence=0.8, evidence=("panorama.balance.residual_bytes",),
            advice=Advice("", {}, "look for rings, pools and pinned pages; trace page allocations while it grows"),
        )  # fmt: skip


def _kept_by(panorama: Panorama) -> str:
    """Who keeps pages now, where allocations were traced; what other lines count is left out."""
    keepers = [each for each in panorama.allocations.get("keepers", ()) if not each["counted_as"] and each["functions"]]
    if not keepers:
        return ""
    first = keepers[0]
    return (
        f"; in {panorama.allocations['seconds']:.1f} s {first['functions'][0]} kept {format_bytes(first['bytes'])} "
        f"for {first['comm']} (pid {first['pid']})"
    )


def _vram(panorama: Panorama, _: int) -> Iterator[Diagnosis]:
    """GPU memory fills up like RAM does, and nothing reclaims it. What grows by itself at first, as caching allocators
    do, looks the same in a short look."""
    growth = panorama.growth
    totals = {row.gpu: row.total_bytes.value for row in panorama.gpus if isinstance(row.total_bytes, Value)}
    grown = {row.key: row for row in growth.rows if row.kind == "vram" and row.before_bytes} if growth else {}
    for index, row in enumerate(panorama.vram):
        grew = grown.get(f"{row.gpu}/{row.pid}/{row.start_time_ticks}")
        whole = totals.get(row.gpu.partition(" MIG ")[0], 0)
        if grew is None or grew.seconds <= 0 or not isinstance(row.bytes, Value):
            continue
        if grew.bytes < max(_VRAM_NOISE_BYTES, _LARGE_SHARE / 10 * whole * grew.seconds / _FILL_S):
            continue
        held = f"; it holds {format_bytes(row.bytes.value)}" + (
            f", {_percent(row.bytes.value, whole)}" if whole else ""
        )
        advice = _end_or_restart(row.pid, row.start_time_ticks, row.container)
        yield _diagnosis(
            "vram-growth", _grows(grew, grew.bytes / grew.seconds) + f"{held} of that GPU",
            row.bytes.value, kind="growing", confidence=0.85 if grew.seconds > _LONG_S else 0.5,
            evidence=(f"panorama.vram[{index}]", "panorama.growth"), advice=advice, gain=row.bytes,
            promise=f"up to {format_bytes(row.bytes.value)} of GPU memory",
        )  # fmt: skip


def _huge_pages(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    lines = panorama.balance.value.lines if isinstance(panorama.balance, Value) else ()
    idle = sum(part.bytes for line in lines if line.name == "huge pages" for part in line.parts if part.name == "idle")
    if idle > _KERNEL_SHARE * total:
        yield _diagnosis(
            "huge-pages-idle", f"{format_bytes(idle)} of huge pages are reserved and not used", idle,
            kind="reclaimable", confidence=0.7, evidence=("panorama.balance.lines (huge pages)",), gain=Value(idle),
            advice=Advice("sysctl", {"settings": {"vm.nr_hugepages": "0"}},
                          "a smaller pool; pages in use stay until they are given back"),
        )  # fmt: skip


def _page_tables(panorama: Panorama, total: int) -> Iterator[Diagnosis]:
    held = _line_bytes(panorama, "page tables")
    if held > _KERNEL_SHARE * total:
        top = max(panorama.processes, key=_page_table_bytes, default=None)
        who = f"; most for {top.name} (pid {top.pid})" if top and _page_table_bytes(top) else ""
        yield _diagnosis(
            "page-table-hog", f"page tables hold {format_bytes(held)}, {_percent(held, total)}{who}", held,
            kind=_trend(panorama, total, "line", "page tables"), confidence=0.8,
            evidence=("panorama.balance.lines (page tables)",),
            advice=Advice("", {}, "many processes map much shared memory in small pages: huge pages need fewer tables"),
        )  # fmt: skip


def _page_table_bytes(row: ProcessRow) -> int:
    return row.page_table_bytes.value if isinstance(row.page_table_bytes, Value) else 0


_RULES: tuple[Callable[[Panorama, int], Iterator[Diagnosis]], ...] = (
    _processes, _groups, _page_cache, _tmpfs, _segments, _slab, _dying, _sockets, _residual, _huge_pages, _page_tables,
    _vram,
)  # fmt: skip
