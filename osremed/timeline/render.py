"""Documents of the timeline -> tables for terminals. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from osremed.core.units import format_bytes


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; text left, cells that begin with a digit right."""
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    return ["  ".join(_cell(cell, width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]


def _cell(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)


def gpus_text(document: dict[str, Any]) -> str:
    inventory = document["inventory"]
    if "gpus" not in inventory:
        return f"no GPU can be read: {inventory['missing']}: {inventory['source']} ({inventory['detail']})"
    lines = [f"driver {inventory['driver_version']}, {inventory['gpus']} GPUs"]
    rows = [_gpu_row(each) for each in document["gpus"]]
    header = ("gpu", "name", "address", "memory", "of", "SM", "temp", "power", "asks for", "processes")
    lines += table(header, rows) if rows else []
    for index, gap in document["unreadable"].items():
        lines.append(f"GPU {index} UNREADABLE: {gap['missing']}: {gap['detail']}")
    for index, hang in document["hung"].items():
        what = "the inventory" if index == "-1" else f"GPU {index}"
        lines.append(f"{what} HANGS: process {hang['pid']} in state {hang['process_state']}, waits in {hang['wchan']}")
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

    return "nothing" if number == 0 else recovery_action(number)


def _process_line(index: int, process: dict[str, Any]) -> str:
    name = process.get("name", "?")
    where = f", container {process['container'][:12]}" if process.get("container") else ""
    where += f", pod {process['pod']}" if process.get("pod") else ""
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
        return [f"CALLS NOT FOLLOWED: {calls['missing']} ({calls['detail']}): growth of memory has no lines"]
    lines = [f"GAP {gap}" for gap in calls["gaps"]]
    if calls["stepped_down"]:
        lines.append("GAP calls of CUDA are too many to follow them all")
    for process in calls["processes"]:
        held = format_bytes(process["held_bytes"])
        seen = f"{process['allocations']} allocations seen" + (
            f", {process['refused']} refused" * bool(process["refused"])
        )
        lines.append(f"{process['name']}[{process['pid']}] holds {held} of device memory; {seen}")
        for place in process["places"][:3]:
            where = place["python"][0] if place["python"] else "no Python line"
            on = "" if isinstance(place["device"], dict) else f" on device {place['device']}"
            library = place["library"].rpartition("/")[2] or "unknown code"
            held = f"{format_bytes(place['bytes'])}{on} in {place['count']}"
            lines.append(f"  {held}: {where}, {place['function']} by {library}")
        lines += [f"  GAP {gap}" for gap in process["gaps"]]
    return lines


def trace_lines(traces: Any) -> list[str]:
    """What became of the latest trace that an alert asked for. None: a watch of before they were."""
    last = traces and traces["last"]
    if not last:
        return []
    if "missing" in last:
        return [f"no trace for {last['alert']}: {last['missing']} ({last['detail']})"]
    return [f"trace for {last['alert']}, of process {last['pid']}: {last['path']}"]


def incidents_text(incidents: Sequence[dict[str, Any]], lines_read: int) -> str:
    if not incidents:
        return f"no GPU error in {lines_read} lines"
    header = ("code", "address", "count", "severity", "asks for", "by", "what")
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
    return "\n".join(table(header, rows))


def _what(each: dict[str, Any]) -> str:
    words = str(each.get("label") or each.get("text", ""))
    if each.get("root_code"):
        words += f"; caused by {each['root_code']}"
    if each.get("followers"):
        words += "; followed by " + ", ".join(f"{code} x{count}" for code, count in each["followers"].items())
    if each.get("injected"):
        words += "; WRITTEN BY A PROCESS, not by the driver"
    return words
