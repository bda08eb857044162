"""Readings -> Panorama, layer by layer, each within its share of the time."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import field, record
from osremed.panorama.balance import with_lines
from osremed.panorama.containers import GroupTable, group_table
from osremed.panorama.detect import detect
from osremed.panorama.files import Census
from osremed.panorama.growth import measured
from osremed.panorama.kernel import roots_of
from osremed.panorama.layers import Progress, run_layer
from osremed.panorama.model import (
    MOST_GROUPS,
    OPEN_FILES,
    BalanceLine,
    Cost,
    FileRow,
    Gap,
    GpuRow,
    Layer,
    Panorama,
    ProcessRow,
    Totals,
    VramRow,
)
from osremed.panorama.processes import ProcessTable, command_lines, process_table, shares, with_shares
from osremed.panorama.scope import (
    ScopeFigures,
    figures,
    find_group,
    pids_of,
    root_group,
    scope_name,
    used_bytes,
)
from osremed.sensors import kernelmem
from osremed.sensors.cgroup import Group
from osremed.sensors.procfs import PROC
from osremed.sensors.smaps import Rollup

T = TypeVar("T")
#: Share of the whole time that one layer may use at most; the last gets what is left.
_SHARES = {
    "balance": 0.2, "processes": 0.3, "command lines": 0.1, "shared pages": 0.15, "containers": 0.2, "gpus": 0.2,
    "files": 1.0,
}  # fmt: skip
_MOST_ROLLUPS = 200
_GROWTH_ROWS = 200
_LONGEST_TRACE_S = 70.0


@record
class FoundFiles:
    """`files` and `cached_bytes` count also what has no row; `looked_at` says which files that were. `lines`: what the
    look found besides for the balance. `details` go into the document as they are."""

    rows: Sequence[FileRow]
    files: int
    cached_bytes: int
    looked_at: str
    lines: Sequence[BalanceLine] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@record
class FoundLines:
    """Lines to take out of the residual; `details` go into the document as they are."""

    lines: Sequence[BalanceLine]
    details: Mapping[str, Any] = field(default_factory=dict)


@record
class FoundGpus:
    """The GPUs whose driver tells their size, and who holds memory of any, the most first."""

    gpus: tuple[GpuRow, ...]
    vram: tuple[VramRow, ...]


@record
class Sources:
    """Deeper looks, each a layer of its own that reports what it cannot read as gaps of its Progress.

    `files`: all cached files, the largest first, given the processes; None from it falls back to the open and mapped
    ones. `lines`: lines to take out of the residual. `heaps`: documents for processes out of those given, largest
    first. `gpus`: given the processes. `allocations`: who keeps the pages the kernel allocates, given what was found;
    empty when that gives no reason to look."""

    files: Callable[[Progress, Sequence[int]], FoundFiles | None] | None = None
    lines: Callable[[Progress], FoundLines] | None = None
    heaps: Callable[[Progress, Sequence[ProcessRow]], Sequence[Mapping[str, Any]]] | None = None
    gpus: Callable[[Progress, Sequence[int]], FoundGpus] | None = None
    allocations: Callable[[Progress, Panorama], Mapping[str, Any]] | None = None


@record
class _Wanted:
    """What to look at, and how far."""

    target: Group | None
    files: int
    processes: int
    root: str
    timeout_s: float
    sources: Sources


class _Scan:
    """Layers run so far, with their gaps, against one deadline."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self.layers: list[Layer] = []
        self.gaps: list[Gap] = []

    def run(self, name: str, work: Callable[[Progress], T], partial: T) -> T:
        left_s = max(0.05, self._deadline_s - time.monotonic())
        result, layer, gaps = run_layer(name, work, partial, min(left_s, _SHARES.get(name, 1.0) * self._timeout_s))
        self.layers.append(layer)
        self.gaps.extend(gaps)
        return result

    def note(self, layer: str, missing: Missing) -> None:
        self.gaps.append(Gap(layer, missing, 1))


def collect_panorama(
    *,
    cgroup: str | None = None,
    files: int = 20,
    processes: int = 20,
    growth_s: float = 0.0,
    proc_root: str = PROC,
    timeout_s: float = 10.0,
    sources: Sources | None = None,
) -> Panorama:
    """Who holds the memory of the host, or of the control group `cgroup` and those below it, in about `timeout_s`.

    `files` and `processes` limit the rows, not what is counted. `growth_s` > 0 looks twice, so far apart, and adds what
    grew. Needs CAP_SYS_PTRACE for other users' files, else they are gaps. Costs 10 to 30 ms, and 0.7 ms a process,
    15 us a file, 0.15 ms a control group. BadInput, NotFound or Unavailable for `cgroup`."""
    target = None if cgroup is None else find_group(cgroup, proc_root)
    started_s, cpu_before_s = time.monotonic(), time.process_time()
    wanted = _Wanted(target, files, processes, proc_root, timeout_s, sources or Sources())
    if growth_s <= 0:
        found = _look(wanted)
    else:
        wide = dataclasses.replace(wanted, files=max(files, _GROWTH_ROWS), processes=max(processes, _GROWTH_ROWS))
        without_heaps = dataclasses.replace(wide.sources, heaps=None)  # they look twice by themselves
        before_s = time.monotonic()
        before = _look(dataclasses.replace(wide, sources=without_heaps))
        time.sleep(growth_s)
        after_s = time.monotonic()
        after = _look(wide)
        growth = measured(before, after, after_s - before_s)  # a look reads what grows at its beginning
        found = dataclasses.replace(
            after, growth=growth, files=after.files[:files], processes=after.processes[:processes]
        )
    found = _with_allocations(found, wanted)
    cost = Cost(
        pid=os.getpid(),
        cpu_s=round(time.process_time() - cpu_before_s, 4),
        wall_s=round(time.monotonic() - started_s, 4),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    found = dataclasses.replace(found, cost=cost)
    return dataclasses.replace(found, findings=detect(found))


def _with_allocations(found: Panorama, wanted: _Wanted) -> Panorama:
    """Last, since what was found decides whether to look; it has a time of its own."""
    source = wanted.sources.allocations
    if source is None or wanted.target is not None:
        return found
    nothing: Mapping[str, Any] = {}
    traced, layer, gaps = run_layer("allocations", lambda progress: source(progress, found), nothing, _LONGEST_TRACE_S)
    if not traced and not gaps:
        return found
    layers = (*found.layers, layer)
    return dataclasses.replace(found, allocations=traced, layers=layers, gaps=(*found.gaps, *gaps))


def _look(wanted: _Wanted) -> Panorama:
    target, root = wanted.target, wanted.root
    scan = _Scan(wanted.timeout_s)
    taken_ns = time.time_ns()
    used_before = used_bytes(target, root)
    scope = scan.run("balance", lambda progress: _figures(progress, target, root), _nothing())
    pids = pids_of(target, root)
    if isinstance(pids, Missing):
        scan.note("processes", pids)
    members = pids.value if isinstance(pids, Value) else ()
    invisible = _invisible(scan, wanted)
    table = scan.run(
        "processes",
        lambda progress: process_table(members, wanted.processes, progress, root),
        ProcessTable((), members, Missing(Reason.TIMED_OUT, "processes", "the layer did not come back")),
    )
    groups = _groups(scan, wanted)
    rows = _with_shares(scan, _with_command_lines(scan, table, root), table.pids_by_heap, root)
    files = _files(scan, table.pids_by_heap if isinstance(table.heap_bytes, Value) else members, wanted)
    scope = _with_lines(scope, (*invisible.lines, *files.lines))
    _note_gaps(scan, scope)
    gpus = _gpus(scan, members, wanted)
    heaps = wanted.sources.heaps
    segments, sockets = kernelmem.sysv_segments(root), kernelmem.socket_memory(root)
    return Panorama(
        scope=scope_name(target),
        total_bytes=scope.total_bytes,
        available_bytes=scope.available_bytes,
        drift_bytes=_drift(used_before, used_bytes(target, root)),
        swap_total_bytes=scope.swap_total_bytes,
        swap_used_bytes=scope.swap_used_bytes,
        balance=scope.balance,
        page_cache_bytes=scope.page_cache_bytes,
        processes=rows,
        files=tuple(files.rows[: wanted.files]),
        totals=Totals(
            processes=len(table.pids_by_heap),
            heap_bytes=table.heap_bytes,
            files=files.files,
            cached_bytes=files.cached_bytes,
            groups=groups.seen,
            files_looked_at=files.looked_at,
        ),
        containers=groups.rows,
        dying=groups.dying,
        gpus=gpus.gpus,
        vram=gpus.vram,
        segments=segments.value if isinstance(segments, Value) and target is None else (),
        sockets=sockets.value if isinstance(sockets, Value) and target is None else {},
        heaps=() if heaps is None else tuple(scan.run("heaps", lambda progress: heaps(progress, rows), ())),
        page_cache=files.details,
        invisible=invisible.details,
        gaps=tuple(scan.gaps),
        layers=tuple(scan.layers),
        taken_ns=taken_ns,
    )


def _figures(progress: Progress, target: Group | None, root: str) -> ScopeFigures:
    scope = figures(target, root)
    progress.rows = len(scope.balance.value.lines) if isinstance(scope.balance, Value) else 0
    return scope


def _nothing() -> ScopeFigures:
    absent = Missing(Reason.TIMED_OUT, "balance", "the layer did not come back")
    return ScopeFigures(absent, absent, absent, absent, absent, absent)


def _invisible(scan: _Scan, wanted: _Wanted) -> FoundLines:
    lines = wanted.sources.lines
    nothing = FoundLines(())
    if lines is None or wanted.target is not None:
        return nothing
    return scan.run("invisible", lines, nothing)


def _gpus(scan: _Scan, pids: Sequence[int], wanted: _Wanted) -> FoundGpus:
    look, nothing = wanted.sources.gpus, FoundGpus((), ())
    if look is None or wanted.target is not None:
        return nothing
    return scan.run("gpus", lambda progress: look(progress, pids), nothing)


def _with_lines(scope: ScopeFigures, lines: Sequence[BalanceLine]) -> ScopeFigures:
    if isinstance(scope.balance, Missing) or not lines:
        return scope
    return dataclasses.replace(scope, balance=Value(with_lines(scope.balance.value, lines)))


def _note_gaps(scan: _Scan, scope: ScopeFigures) -> None:
    """Every figure and line of the balance that is not known, once."""
    lines = scope.balance.value.lines if isinstance(scope.balance, Value) else ()
    readings: list[Reading[Any]] = [scope.total_bytes, scope.available_bytes, scope.balance, scope.page_cache_bytes]
    readings += [line.bytes for line in lines]
    for missing in dict.fromkeys(reading for reading in readings if isinstance(reading, Missing)):
        scan.note("balance", missing)


def _groups(scan: _Scan, wanted: _Wanted) -> GroupTable:
    top = wanted.target or root_group(wanted.root)
    nothing = GroupTable((), (), 0)
    if isinstance(top, Missing):
        scan.note("containers", top)
        return nothing
    roots = roots_of(wanted.root)
    return scan.run("containers", lambda progress: group_table(top, MOST_GROUPS, progress, roots), nothing)


def _with_command_lines(scan: _Scan, table: ProcessTable, root: str) -> tuple[ProcessRow, ...]:
    found: dict[int, Reading[str]] = {}
    scan.run("command lines", lambda progress: command_lines(table.rows, found, progress, root), None)
    known = dict(found)
    return tuple(dataclasses.replace(row, cmdline=known.get(row.pid, row.cmdline)) for row in table.rows)


def _with_shares(scan: _Scan, rows: tuple[ProcessRow, ...], pids: Sequence[int], root: str) -> tuple[ProcessRow, ...]:
    found: dict[int, Reading[Rollup]] = {}
    first = [row.pid for row in rows] or pids
    scan.run("shared pages", lambda progress: shares(first[:_MOST_ROLLUPS], found, progress, root), None)
    known = dict(found)
    return tuple(with_shares(row, known.get(row.pid)) for row in rows)


def _files(scan: _Scan, pids: Sequence[int], wanted: _Wanted) -> FoundFiles:
    source = wanted.sources.files
    if source is not None and wanted.target is None:
        found = scan.run("cached files", lambda progress: source(progress, pids), None)
        if found is not None:
            return found
    begun: list[Census] = []

    def work(progress: Progress) -> None:
        census = Census(progress, wanted.root)
        begun.append(census)
        census.count(pids)

    scan.run("files", work, None)
    rows = begun[0].rows() if begun else []
    return FoundFiles(rows, begun[0].files if begun else 0, sum(row.cached_bytes for row in rows), OPEN_FILES)


def _drift(before: Reading[int], after: Reading[int]) -> Reading[int]:
    if isinstance(before, Missing):
        return before
    return after if isinstance(after, Missing) else Value(after.value - before.value)
