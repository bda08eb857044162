"""Processes by heap. Nothing here takes a process's mmap lock but `command_lines`, which is a layer of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.panorama.layers import Progress
from osremed.panorama.model import ProcessRow
from osremed.sensors import procfs
from osremed.sensors.containers import owner_of
from osremed.sensors.smaps import Rollup, rollup

_CMDLINE_CHARACTERS = 300


@record
class ProcessTable:
    """`rows`: the largest by heap, without command lines. `pids_by_heap` and `heap_bytes` are over all processes;
    `heap_bytes` is Missing when not all were read in time."""

    rows: tuple[ProcessRow, ...]
    pids_by_heap: tuple[int, ...]
    heap_bytes: Reading[int]


def process_table(pids: Sequence[int], limit: int, progress: Progress, root: str) -> ProcessTable:
    """Reads the status of every process, and who it is for the `limit` largest. Ended ones are not there any more."""
    found: list[tuple[int, int, procfs.Status]] = []
    unsized = 0
    for pid in pids:
        if progress.expired(f"{root}/{pid}/status"):
            break
        status = procfs.status(pid, root)
        if isinstance(status, Missing):
            if status.reason is not Reason.GONE:
                progress.gap(status)
            continue
        anon, swap = status.value.rss_anon_bytes, status.value.swap_bytes
        if anon is None or swap is None:  # kernel threads and zombies have no memory of their own
            unsized += 1
            continue
        found.append((anon + swap, pid, status.value))
        progress.rows = len(found)
    if unsized and not found:
        progress.gap(Missing(Reason.UNSUPPORTED, f"{root}/*/status", "no process tells RssAnon and VmSwap"))
    heap: Reading[int] = Value(sum(entry[0] for entry in found))
    if progress.out_of_time:
        heap = Missing(Reason.TIMED_OUT, progress.at, f"{len(found)} of {len(pids)} processes were read")
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    rows: list[ProcessRow] = []
    for _, pid, sizes in found:
        if len(rows) >= limit or progress.expired(f"{root}/{pid}/stat"):
            break
        row = _row(pid, sizes, progress, root)
        if row is not None:
            rows.append(row)
    return ProcessTable(tuple(rows), tuple(pid for _, pid, _ in found), heap)


def _row(pid: int, sizes: procfs.Status, progress: Progress, root: str) -> ProcessRow | None:
    identity = procfs.stat(pid, root)
    if isinstance(identity, Missing):
        if identity.reason is not Reason.GONE:
            progress.gap(identity)
        return None
    anon, swap = sizes.rss_anon_bytes or 0, sizes.swap_bytes or 0  # `process_table` passes only known ones
    source = f"{root}/{pid}/status"
    group = memory_group(pid, root)
    return ProcessRow(
        pid=pid,
        start_time_ticks=identity.value.start_time_ticks,
        name=identity.value.comm,
        heap_bytes=anon + swap,
        anon_bytes=anon,
        swap_bytes=swap,
        file_bytes=_size(sizes.rss_file_bytes, source),
        shmem_bytes=_size(sizes.rss_shmem_bytes, source),
        cmdline=Missing(Reason.TIMED_OUT, f"{root}/{pid}/cmdline", "not reached"),
        oom_score_adj=procfs.oom_score_adj(pid, root),
        cgroup=group,
        page_table_bytes=_size(sizes.page_table_bytes, source),
        container=container_of(group),
    )


def container_of(group: Reading[str]) -> str:
    """The path of the container, machine or unit that the process is in; empty without one."""
    owner = None if isinstance(group, Missing) else owner_of(group.value)
    return "" if owner is None or owner.kind == "slice" else owner.path


def _size(count: int | None, source: str) -> Reading[int]:
    return Missing(Reason.UNSUPPORTED, source, "not told by this kernel") if count is None else Value(count)


def memory_group(pid: int, root: str) -> Reading[str]:
    """The process's path in the hierarchy that accounts memory: v1's memory controller, else the unified one."""
    groups = procfs.cgroup(pid, root)
    if isinstance(groups, Missing):
        return groups
    path = groups.value.get("memory", groups.value.get(""))
    return (
        Missing(Reason.NO_DATA, f"{root}/{pid}/cgroup", "in no memory control group") if path is None else Value(path)
    )


def command_lines(rows: Sequence[ProcessRow], found: dict[int, Reading[str]], progress: Progress, root: str) -> None:
    """Fills `found` with pid -> argv joined with spaces, cut at 300 characters. `found` keeps what was read before one
    process did not answer."""
    for row in rows:
        if progress.expired(f"{root}/{row.pid}/cmdline"):
            return
        argv = procfs.cmdline(row.pid, root)
        found[row.pid] = argv if isinstance(argv, Missing) else Value(" ".join(argv.value)[:_CMDLINE_CHARACTERS])
        progress.rows = len(found)
        if isinstance(argv, Missing) and argv.reason is not Reason.GONE:
            progress.gap(argv)


def shares(pids: Sequence[int], found: dict[int, Reading[Rollup]], progress: Progress, root: str) -> None:
    """Fills `found` with what each process holds once shared pages are divided, in the given order."""
    for pid in pids:
        if progress.expired(f"{root}/{pid}/smaps_rollup"):
            return
        reading = rollup(pid, root)
        found[pid] = reading
        progress.rows = len(found)
        if isinstance(reading, Missing) and reading.reason is not Reason.GONE:
            progress.gap(reading)


def with_shares(row: ProcessRow, told: Reading[Rollup] | None) -> ProcessRow:
    if told is None:
        return row
    if isinstance(told, Missing):
        return dataclasses.replace(row, pss_bytes=told, pss_anon_bytes=told, private_bytes=told, swap_pss_bytes=told)
    sizes = told.value
    return dataclasses.replace(
        row,
        pss_bytes=Value(sizes.pss_bytes),
        pss_anon_bytes=_size(sizes.pss_anon_bytes, "smaps_rollup"),
        private_bytes=Value(sizes.private_bytes),
        swap_pss_bytes=Value(sizes.swap_pss_bytes),
    )
