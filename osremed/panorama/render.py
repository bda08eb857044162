"""Panorama -> a terminal table. Names from processes are printed without anything a terminal could act on."""

from __future__ import annotations

from collections.abc import Sequence

from osremed.core.reading import Missing, Reading, Value
from osremed.core.units import format_bytes, format_duration
from osremed.panorama.document import coverage_statement
from osremed.panorama.model import Balance, FileRow, Panorama, ProcessRow

_BAR_CELLS = 24
_PATH_CHARACTERS = 64
_CMDLINE_CHARACTERS = 60


def render(panorama: Panorama) -> str:
    """Balance, processes, files, coverage, gaps and cost, in 120 columns."""
    parts = [_head(panorama)]
    balance = panorama.balance
    parts.append(f"Balance: not collected: {balance}" if isinstance(balance, Missing) else _balance(balance.value))
    parts.append(_processes(panorama.processes))
    parts.append(_files(panorama.files))
    parts.append(coverage_statement(panorama))
    parts.append(_gaps(panorama))
    cost = " · ".join(f"{layer.name} {format_duration(layer.duration_s)}" for layer in panorama.layers)
    parts.append(f"cost: {cost}; usage moved by {_signed(panorama.drift_bytes)} meanwhile")
    return "\n\n".join(parts)


def printable(text: str) -> str:
    """`text` with control characters, escapes and bidirectional marks spelled out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _head(panorama: Panorama) -> str:
    total, available = _bytes(panorama.total_bytes), _bytes(panorama.available_bytes)
    head = f"Memory of {printable(panorama.scope)}: {total}, available {available}"
    if isinstance(panorama.swap_used_bytes, Value) and panorama.swap_used_bytes.value:
        head += f", swap used {_bytes(panorama.swap_used_bytes)} of {_bytes(panorama.swap_total_bytes)}"
    return head


def _balance(balance: Balance) -> str:
    lines = []
    for line in balance.lines:
        if isinstance(line.bytes, Missing):
            lines.append(f"  {line.name:<26} {'not known':>12}   {line.bytes.reason.value}: {line.bytes.detail}")
            continue
        share = line.bytes.value / balance.total_bytes if balance.total_bytes else 0.0
        filled = min(_BAR_CELLS, max(0, round(share * _BAR_CELLS)))
        bar = "█" * filled + "·" * (_BAR_CELLS - filled)
        lines.append(f"  {line.name:<26} {format_bytes(line.bytes.value):>12} {share * 100:6.2f} %  {bar}")
    lines.append(f"  {'total':<26} {format_bytes(balance.total_bytes):>12} 100.00 %")
    return "\n".join(["Balance", *lines])


def _processes(rows: Sequence[ProcessRow]) -> str:
    if not rows:
        return "Processes by heap: none found"
    table = [("  PID", "HEAP", "FILES", "SHARED", "ADJ", "NAME", "COMMAND LINE")]
    table += [
        (
            f"  {row.pid}",
            format_bytes(row.heap_bytes),
            _bytes(row.file_bytes),
            _bytes(row.shmem_bytes),
            str(row.oom_score_adj.value) if isinstance(row.oom_score_adj, Value) else "?",
            printable(row.name),
            _text(row.cmdline, _CMDLINE_CHARACTERS),
        )
        for row in rows
    ]
    return "Processes by heap (anonymous memory and swap)\n" + _columns(table, "rrrrrll")


def _files(rows: Sequence[FileRow]) -> str:
    if not rows:
        return "Files by page cache: none found"
    table = [("  CACHED", "DIRTY", "FILE", "OPEN BY")]
    for row in rows:
        path = printable(row.path)
        shown = path if len(path) <= _PATH_CHARACTERS else "…" + path[1 - _PATH_CHARACTERS :]
        holders = ", ".join(str(pid) for pid in row.open_by[:4]) + (" …" if len(row.open_by) > 4 else "")
        name = shown + (" (deleted)" if row.deleted else "")
        table.append((f"  {format_bytes(row.cached_bytes)}", _bytes(row.dirty_bytes), name, holders))
    return "Files by page cache\n" + _columns(table, "rrll")


def _gaps(panorama: Panorama) -> str:
    if not panorama.gaps:
        return "gaps: none"
    lines = [
        f"  {gap.layer}: {printable(str(gap.missing))}" + (f", and {gap.count - 1} more" if gap.count > 1 else "")
        for gap in panorama.gaps
    ]
    return "\n".join(["Gaps", *lines])


def _columns(table: Sequence[Sequence[str]], alignment: str) -> str:
    """Rows with columns as wide as their widest cell; `alignment` has l or r for each."""
    widths = [max(len(row[index]) for row in table) for index in range(len(alignment))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width) for cell, width, side in zip(row, widths, alignment)
        ).rstrip()
        for row in table
    )


def _bytes(reading: Reading[int]) -> str:
    return "?" if isinstance(reading, Missing) else format_bytes(reading.value)


def _signed(reading: Reading[int]) -> str:
    return (
        f"? ({reading})"
        if isinstance(reading, Missing)
        else ("+" if reading.value >= 0 else "") + format_bytes(reading.value)
    )


def _text(reading: Reading[str], limit: int) -> str:
    if isinstance(reading, Missing):
        return f"? ({reading.reason.value})"
    text = printable(reading.value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
