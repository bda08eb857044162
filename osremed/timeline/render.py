"""Documents of the timeline -> tables for terminals. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from osremed.core.columns import at_right, padded, width
from osremed.core.language import filled
from osremed.core.units import format_bytes

_GPU_HEADER = ("gpu", "name", "address", "memory", "of", "SM", "temp", "power", "asks for", "processes")
_INCIDENT_HEADER = ("code", "address", "count", "severity", "asks for", "by", "what")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; text left, cells that begin with a digit right."""
    widths = [max(width(row[at]) for row in [header, *rows]) for at in range(len(header))]
    return ["  ".join(_cell(cell, wide) for cell, wide in zip(row, widths)).rstrip() for row in [header, *rows]]


def _cell(cell: str, wide: int) -> str:
    return at_right(cell, wide) if cell[:1].isdigit() else padded(cell, wide)


def gpus_text(document: dict[str, Any]) -> str:
    inventory = document["inventory"]
    if "gpus" not in inventory:
        gap = f"{inventory['missing']}: {inventory['source']} ({inventory['detail']})"
        return filled("no GPU can be read: {1}", gap)
    lines = [filled("driver {1}, {2} GPUs", str(inventory["driver_version"]), str(inventory["gpus"]))]
    rows = [_gpu_row(each) for each in document["gpus"]]
    lines += table([filled(each) for each in _GPU_HEADER], rows) if rows else []
    for index, gap in document["unreadable"].items():
        lines.append(filled("GPU {1} UNREADABLE: {2}: {3}", str(index), gap["missing"], gap["detail"]))
    for index, hang in document["hung"].items():
        what = filled("the inventory") if index == "-1" else f"GPU {index}"
        where = (str(hang["pid"]), str(hang["process_state"]), str(hang["wchan"]))
        lines.append(filled("{1} HANGS: process {2} in state {3}, waits in {4}", what, *where))
    for each in document["gpus"]:
        if isinstance(each["processes"], list):
            lines += [_process_line(each["index"], process) for process in each["processes"]]
    return "\n".join(lines)


def _gpu_row(gpu: dict[str, Any]) -> tuple[str, ...]:
    metrics = gpu["metrics"]
    recovery = metrics["recovery_action"]
    processes = gpu["processes"]
    return (
        str(gpu["index"]),
        gpu["name"],
        gpu["bdf"],
        _bytes(metrics["vram_used_bytes"]),
        _bytes(metrics["vram_total_bytes"]),
        _number(metrics["sm_util_percent"], " %"),
        _number(metrics["temperature_celsius"], " C"),
        "?" if isinstance(metrics["power_milliwatts"], dict) else f"{metrics['power_milliwatts'] / 1000:.0f} W",
        "?" if isinstance(recovery, dict) else _recovery(recovery),
        str(len(processes)) if isinstance(processes, list) else "?",
    )


def _recovery(number: int) -> str:
    from osremed.timeline.catalogue import recovery_action  # noqa: PLC0415  the tables are read only when asked for

    return filled("nothing") if number == 0 else recovery_action(number)


def _process_line(index: int, process: dict[str, Any]) -> str:
    name = process.get("name", "?")
    where = filled(", container {1}", process["container"][:12]) if process.get("container") else ""
    where += filled(", pod {1}", process["pod"]) if process.get("pod") else ""
    shown = name if isinstance(name, str) else "?"
    return f"  GPU {index}: {shown}[{process['pid']}] {_bytes(process['used_bytes'])}{where}"


def _bytes(told: Any) -> str:
    return "?" if isinstance(told, dict) else format_bytes(told)


def _number(told: Any, unit: str) -> str:
    return "?" if isinstance(told, dict) else f"{told}{unit}"


def calls_lines(calls: Any) -> list[str]:
    """What processes hold of device memory, by the lines that asked for it. None: nobody follows the calls."""
    if calls is None:
        return []
    if "missing" in calls:
        why = f"{calls['missing']} ({calls['detail']})"
        return [filled("CALLS NOT FOLLOWED: {1}: growth of memory has no lines", why)]
    lines = [filled("GAP {1}", gap) for gap in calls["gaps"]]
    if calls["stepped_down"]:
        lines.append(filled("GAP {1}", filled("calls of CUDA are too many to follow them all")))
    for process in calls["processes"]:
        held, seen = format_bytes(process["held_bytes"]), str(process["allocations"])
        who = f"{process['name']}[{process['pid']}]"
        line = filled("{1} holds {2} of device memory; {3} allocations seen", who, held, seen)
        lines.append(line + (filled(", {1} refused", str(process["refused"])) if process["refused"] else ""))
        for place in process["places"][:3]:
            where = place["python"][0] if place["python"] else filled("no Python line")
            on = "" if isinstance(place["device"], dict) else filled(" on device {1}", str(place["device"]))
            library = place["library"].rpartition("/")[2] or filled("unknown code")
            held = f"{format_bytes(place['bytes'])}{on}"
            told = (str(place["count"]), where, place["function"], library)
            lines.append(filled("  {1} in {2}: {3}, {4} by {5}", held, *told))
        lines += ["  " + filled("GAP {1}", gap) for gap in process["gaps"]]
    return lines


def trace_lines(traces: Any) -> list[str]:
    """What became of the latest trace that an alert asked for. None: a watch of before they were."""
    last = traces and traces["last"]
    if not last:
        return []
    if "missing" in last:
        return [filled("no trace for {1}: {2}", last["alert"], f"{last['missing']} ({last['detail']})")]
    return [filled("trace for {1}, of process {2}: {3}", last["alert"], str(last["pid"]), last["path"])]


def incidents_text(incidents: Sequence[dict[str, Any]], lines_read: int) -> str:
    if not incidents:
        return filled("no GPU error in {1} lines", str(lines_read))
    rows = [
        (
            str(each.get("code", "-")),
            each["bdf"],
            str(each["count"]),
            str(each.get("severity", "?")),
            str(each.get("action", "-")),
            str(each.get("action_source", "-")),
            _what(each),
        )
        for each in incidents
    ]
    return "\n".join(table([filled(each) for each in _INCIDENT_HEADER], rows))


def _what(each: dict[str, Any]) -> str:
    words = str(each.get("label") or each.get("text", ""))
    if each.get("root_code"):
        words += filled("; caused by {1}", str(each["root_code"]))
    if each.get("followers"):
        followers = ", ".join(f"{code} x{count}" for code, count in each["followers"].items())
        words += filled("; followed by {1}", followers)
    if each.get("injected"):
        words += filled("; WRITTEN BY A PROCESS, not by the driver")
    return words
