"""`osremed timeline trace | diff`: where a job's time went, by rank, kernel and host frame."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, OsremedError
from osremed.core.files import write_atomic
from osremed.core.language import filled
from osremed.core.phrase import Fill, plain
from osremed.core.units import parse_duration_s
from osremed.timeline.blame import Blame, Idle, Launched, flame, folded, idle_causes, launched
from osremed.timeline.ranktraces import slow_in_traces
from osremed.timeline.render import table
from osremed.timeline.slowrank import GroupVerdict
from osremed.timeline.split import KernelRow, Split, device_events, kernel_table, split_device
from osremed.timeline.trace import OPERATOR, Trace, load_trace
from osremed.timeline.tracediff import Change, compare

_MOST_ROWS = 1000
_LONGEST_TRACE_S = 60
_PLACE = "/tmp"  # noqa: S108  where any job may write
_SHARES = ("computing", "communication that nothing hides", "copies that nothing hides", "idle")
_KERNELS = ("  time", "calls", "median", "kernel")
_LAUNCHES = ("  time", "launched by", "in", "kernel")
_IDLE = ("  idle", "gaps", "because of", "where")
_OPERATORS = ("  time", "calls", "operator")
_CHANGES = ("change", "calls", "median", "p", "name")


def trace(
    *, paths: Sequence[str], top: int = 12, page: str | None = None, flame: str | None = None, export: str | None = None
) -> Answer:
    """Traces of one job, a file a rank. BadInput for what is no trace; what is damaged is a gap and named. Files that
    are asked for are written whole or not at all."""
    if not 1 <= top <= _MOST_ROWS:
        raise BadInput(f"top {top} is out of range", hint=f"give 1 to {_MOST_ROWS}")
    traces = _load(paths)
    told = [_rank(each, number, top) for number, each in enumerate(traces)]
    ranks = [rank for rank, _verdict in told]
    slow = slow_in_traces(traces) if len(traces) > 1 else []
    document: dict[str, Any] = {"ranks": ranks, "slow": [_slow(each) for each in slow], "written": []}
    lines = [line for each in told for line in _rank_text(*each)]
    for each in slow:
        found = f"{each.group}: {each.why}"
        lines.append(filled("SLOW {1}", found) if each.rank >= 0 else f"     {found}")
    for path, write in ((page, _write_page), (flame, _write_flame), (export, _write_export)):
        if path:
            lines.append(_written(path, write, traces))
            document["written"].append(path)
    return Answer(document, "\n".join(lines))


def ask(
    *, pid: int, duration: str = "500ms", directory: str | None = None, within: str = "60s", no_stack: bool = False
) -> Answer:
    """A trace of a job that runs, and what it says. Unavailable when the job does not let itself be asked, or nothing
    came in time."""
    from osremed.timeline import kineto  # noqa: PLC0415  the other verbs need no sockets

    seconds, wait_s = parse_duration_s(duration), parse_duration_s(within)
    if not 0 < seconds <= _LONGEST_TRACE_S:
        raise BadInput(f"a trace of {seconds:g} s is out of range", hint=f"at most {_LONGEST_TRACE_S} s")
    directory = directory or _PLACE
    if not os.path.isabs(directory) or not directory.isprintable():
        raise BadInput(f"not an absolute path: {directory!r}")
    path = kineto.ask(pid, kineto.Wish(seconds, directory, not no_stack, False), wait_s + seconds)
    answer = trace(paths=[path])
    return Answer({**answer.document, "path": path}, f"{path}\n{answer.text}")


def _load(paths: Sequence[str]) -> list[Trace]:
    files: list[str] = []
    for path in paths:
        inside = sorted(os.listdir(path)) if os.path.isdir(path) else []
        files += [os.path.join(path, name) for name in inside if name.endswith((".json", ".gz"))] or [path]
    return [load_trace(path) for path in files]


def _written(path: str, write: Any, traces: Sequence[Trace]) -> str:
    try:
        return filled("written: {1}, {2}", path, write(traces, path))
    except OSError as error:
        raise OsremedError(f"not written: {error.strerror}", where=path) from error


def _write_page(traces: Sequence[Trace], path: str) -> str:
    from osremed.timeline.tracepage import page  # noqa: PLC0415

    data = page(traces, " · ".join(os.path.basename(each.path) for each in traces)[:200])
    write_atomic(path, data)
    return filled("{1} MB, open it in a browser", f"{len(data) / 1e6:.1f}")


def _write_flame(traces: Sequence[Trace], path: str) -> str:
    if path.endswith(".html"):
        from osremed.timeline.gpuflame import flame_page  # noqa: PLC0415

        write_atomic(path, flame_page(traces).encode())
        return filled("GPU time by the code that asked for it, open it in a browser")
    lines = [line for each in traces for line in folded(flame(Blame(each)))]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
    return filled("{1} stacks with GPU time in ns", str(len(lines)))


def _write_export(traces: Sequence[Trace], path: str) -> str:
    from osremed.timeline.tracepage import export  # noqa: PLC0415

    return filled("{1} events for Perfetto or chrome://tracing", str(export(traces, path)))


def _rank(each: Trace, number: int, top: int) -> tuple[dict[str, Any], list[str]]:
    """The document, and its verdict in the language that is spoken."""
    blame = Blame(each)
    devices = device_events(each)
    splits = [split_device(each, device, events, blame.launches) for device, events in sorted(devices.items())]
    kernels = kernel_table(each)
    idle = idle_causes(blame)
    document = {
        "rank": each.rank if each.rank >= 0 else number,
        "path": each.path,
        "events": len(each),
        "gaps": each.gaps,
        "devices": [dataclasses.asdict(split) for split in splits],
        "verdict": [text for split in splits for text in verdict(split, idle)],
        "kernels": [dataclasses.asdict(row) for row in kernels[:top]],
        "launched": [dataclasses.asdict(row) for row in launched(blame)[:top]],
        "idle": [dataclasses.asdict(row) for row in idle[:top]],
        "operators": _operators(each, top),
    }
    return document, [text for split in splits for text in verdict(split, idle, filled)]


def _operators(each: Trace, top: int) -> list[dict[str, Any]]:
    """Host operators by time, children included; what a trace without a GPU has to say."""
    totals: dict[str, list[int]] = {}
    for event in each.by_kind(OPERATOR):
        row = totals.setdefault(each.name_of(event), [0, 0])
        row[0] += each.duration[event]
        row[1] += 1
    ordered = sorted(totals.items(), key=lambda row: -row[1][0])[:top]
    return [{"name": name, "total_ns": total, "count": count} for name, (total, count) in ordered]


def verdict(split: Split, idle: Sequence[Idle], fill: Fill = plain) -> list[str]:
    """What limits the device, most first, each with its share of the span."""
    if not split.span_ns:
        return []
    spent = (split.compute_ns, split.exposed_communication_ns, split.exposed_copy_ns, split.idle_ns)
    shares = dict(zip(_SHARES, spent))
    found = []
    for name, nanoseconds in sorted(shares.items(), key=lambda each: -each[1]):
        text = f"{100 * nanoseconds / split.span_ns:.1f} % {fill(name)}"
        if name == _SHARES[-1] and idle and nanoseconds:
            total = sum(each.idle_ns for each in idle)
            causes: dict[str, int] = {}
            for each in idle:
                causes[each.cause] = causes.get(each.cause, 0) + each.idle_ns
            worst = sorted(causes.items(), key=lambda each: -each[1])[:3]
            text += " (" + ", ".join(f"{fill(cause)} {100 * part / total:.0f} %" for cause, part in worst) + ")"
        if nanoseconds:
            found.append(text)
    return found


def _slow(each: GroupVerdict) -> dict[str, Any]:
    return {"group": each.group.name, "slow_rank": each.rank, "p_value": each.p_value, "why": each.why}


def _rank_text(rank: dict[str, Any], verdict: Sequence[str]) -> list[str]:
    lines = [filled("rank {1}: {2} events, {3}", str(rank["rank"]), str(rank["events"]), rank["path"])]
    lines += ["  " + filled("GAP {1}", gap) for gap in rank["gaps"]]
    for device in rank["devices"]:
        split = Split(**device)
        delay = filled("no launch is linked")
        if split.launch_delay_ns >= 0:
            delay = filled("launch delay {1}", _time(split.launch_delay_ns))
        seen = (str(split.device), _time(split.span_ns), str(split.kernels))
        lines.append(filled("  device {1}: {2}, {3} kernels and copies, {4}", *seen, delay))
        if split.unlinked:
            lines.append(filled("  {1} of them have no launch in this trace", str(split.unlinked)))
    lines += [f"    {text}" for text in verdict]
    if rank["kernels"]:
        lines += _told(_KERNELS, [_kernel_row(KernelRow(**each)) for each in rank["kernels"]])
        lines += _told(_LAUNCHES, [_launch_row(Launched(**each)) for each in rank["launched"]])
    if rank["idle"]:
        lines += _told(_IDLE, [_idle_row(Idle(**each)) for each in rank["idle"]])
    if not rank["devices"]:
        lines.append(filled("  no GPU activity in this trace; host operators:"))
        rows = [(f"  {_time(each['total_ns'])}", str(each["count"]), each["name"]) for each in rank["operators"]]
        lines += _told(_OPERATORS, rows)
    return lines


def _told(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table([filled(each) for each in header], rows)


def _kernel_row(row: KernelRow) -> tuple[str, ...]:
    return f"  {_time(row.total_ns)}", str(row.count), _time(row.median_ns), row.name[:90]


def _launch_row(row: Launched) -> tuple[str, ...]:
    return f"  {_time(row.total_ns)}", row.operator[:40] or "?", row.frame[-60:] or "?", row.kernel[:50]


def _idle_row(row: Idle) -> tuple[str, ...]:
    return f"  {_time(row.idle_ns)}", str(row.gaps), filled(row.cause), (row.frame or row.operator or "?")[-90:]


def _time(nanoseconds: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if abs(nanoseconds) >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds} ns"


def diff(*, before: str, after: str, top: int = 20) -> Answer:
    """Kernels (operators, without a GPU) by change of their total time; `p` tells whether single calls changed."""
    if not 1 <= top <= _MOST_ROWS:
        raise BadInput(f"top {top} is out of range", hint=f"give 1 to {_MOST_ROWS}")
    left, right = load_trace(before), load_trace(after)
    changes = compare(left, right)
    gaps = [f"{each.path}: {gap}" for each in (left, right) for gap in each.gaps]
    total = sum(each.total_ns for each in changes)
    rows = [_change_row(each) for each in changes[:top]]
    lines = [filled("GAP {1}", gap) for gap in gaps] + [filled("all together: {1}", _signed(total))]
    lines += _told(_CHANGES, rows)
    rows_document = [
        {**dataclasses.asdict(each), "p_value": None if each.p_value != each.p_value else each.p_value}
        for each in changes[:top]
    ]
    return Answer({"total_ns": total, "gaps": gaps, "changes": rows_document}, "\n".join(lines))


def _change_row(each: Change) -> tuple[str, ...]:
    known = each.p_value == each.p_value
    p_value = f"{each.p_value:.1g}" if known else filled("too few calls")
    return _signed(each.total_ns), f"{each.calls:+d}", _signed(each.median_ns), p_value, each.name[:90]


def _signed(nanoseconds: int) -> str:
    return ("+" if nanoseconds > 0 else "") + _time(nanoseconds)
