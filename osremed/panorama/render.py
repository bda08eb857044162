"""Panorama -> a terminal view of 80 columns. Names from the host are printed without anything a terminal acts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.columns import at_right, padded, width
from osremed.core.language import filled
from osremed.core.reading import Missing, Reading, Value
from osremed.core.shown import printable
from osremed.core.units import format_bytes, format_duration
from osremed.panorama.cache_model import CachedFile
from osremed.panorama.document import coverage_statement
from osremed.panorama.model import (
    Balance,
    BalanceLine,
    ContainerRow,
    Diagnosis,
    DyingRow,
    FileRow,
    GpuRow,
    Growth,
    Panorama,
    ProcessRow,
    VramRow,
)

COLUMNS = 80
_BAR_CELLS = 20
_GROUPS = 12
_GROWN = 12
_PARTS = 3
_PAYERS = 2
_KEEPERS = 8
_LEAST_ERROR_BYTES = 1 << 20
_PART_SHARE = 0.005  #: of the total; smaller parts are in the JSON and on the page


def render(panorama: Panorama) -> str:
    """Balance, findings, growth, processes, control groups, files, coverage, gaps and cost."""
    parts = [_head(panorama)]
    balance = panorama.balance
    parts.append(
        filled("Balance: not collected: {1}", str(balance)) if isinstance(balance, Missing) else _balance(balance.value)
    )
    parts.append(_findings(panorama.findings))
    if panorama.growth is not None:
        parts.append(render_growth(panorama.growth))
    parts.append(_processes(panorama.processes))
    parts.append(_groups(panorama.containers))
    if panorama.dying:
        parts.append(_dying(panorama.dying))
    parts.append(_files(panorama.files))
    if panorama.gpus or panorama.vram:
        parts.append(_gpus(panorama.gpus, panorama.vram))
    if panorama.allocations:
        parts.append(_allocations(panorama.allocations))
    if panorama.heaps:
        parts.append(_heaps(panorama.heaps))
    parts.append(coverage_statement(panorama, filled))
    parts.append(_gaps(panorama))
    parts.append(_cost(panorama))
    return "\n\n".join(_folded(part) for part in parts)


def _folded(text: str) -> str:
    """No line longer than the width; what goes on is indented under its beginning."""
    return "\n".join(piece for line in text.split("\n") for piece in _pieces(line))


def _pieces(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    found = []
    while width(line) > COLUMNS:
        most = _fitting(line)
        cut = line.rfind(" ", len(indent), most)
        cut = most if cut <= len(indent) else cut
        found.append(line[:cut].rstrip())
        line = indent + line[cut:].lstrip()
    return [*found, line]


def _fitting(line: str) -> int:
    """How many of its characters have room."""
    most = min(len(line), COLUMNS)
    while width(line[:most]) > COLUMNS:
        most -= 1
    return most


def _head(panorama: Panorama) -> str:
    total, available = _bytes(panorama.total_bytes), _bytes(panorama.available_bytes)
    head = filled("Memory of {1}: {2}, available {3}", printable(panorama.scope), total, available)
    if isinstance(panorama.swap_used_bytes, Value) and panorama.swap_used_bytes.value:
        used, whole = _bytes(panorama.swap_used_bytes), _bytes(panorama.swap_total_bytes)
        return filled("{1}, swap used {2} of {3}", head, used, whole)
    return head


def _balance(balance: Balance) -> str:
    lines, empty = [], []
    for line in balance.lines:
        if line.bytes == Value(0):
            empty.append(filled(line.name))
        else:
            lines += _balance_line(line, balance.total_bytes)
    lines.append(f"  {padded(filled('total'), 25)} {format_bytes(balance.total_bytes):>10} 100.00 %")
    if empty:
        lines.append(filled("  nothing in: {1}", ", ".join(empty)))
    return "\n".join([filled("Balance"), *lines])


def _balance_line(line: BalanceLine, total_bytes: int) -> list[str]:
    if isinstance(line.bytes, Missing):
        unknown = filled("not known")
        space = " " * (10 - width(unknown))
        return [f"  {padded(filled(line.name), 25)} {space}{unknown}   {line.bytes.reason.value}: {line.bytes.detail}"]
    share = line.bytes.value / total_bytes if total_bytes else 0.0
    full = min(_BAR_CELLS, max(0, round(share * _BAR_CELLS)))
    bar = "█" * full + "·" * (_BAR_CELLS - full)
    moved = line.error_bytes.value if isinstance(line.error_bytes, Value) else 0
    error = f" ±{format_bytes(moved)}" if moved >= _LEAST_ERROR_BYTES else ""
    head = f"  {padded(filled(line.name), 25)} {format_bytes(line.bytes.value):>10} {share * 100:6.2f} %"
    rows = [f"{head}  {bar}{error}"]
    shown = [part for part in line.parts if part.bytes > _PART_SHARE * total_bytes] if line.kind != "free" else []
    rows += [
        f"    {_tail(part.name, 23):<23} {format_bytes(part.bytes):>10} {part.bytes / total_bytes * 100:6.2f} %"
        for part in shown[:_PARTS]
    ]
    return rows


def _findings(found: Sequence[Diagnosis]) -> str:
    if not found:
        return filled("Findings: none")
    lines = [filled("Findings")]
    for each in found:
        gain = f", {filled('gain {1}', each.finding.expected_gain)}" if each.finding.expected_gain else ""
        lines.append(f"  {each.finding.name} ({filled(each.kind)}, {each.finding.confidence:.0%}{gain})")
        lines.append(f"    {printable(each.finding.summary)}")
        action = f"{each.advice.action}: " if each.advice.action else ""
        if each.advice.how:
            lines.append(f"    -> {action}{printable(each.advice.how)}")
    return "\n".join(lines)


def render_growth(growth: Growth) -> str:
    """What grew, the most first, and what shrank most."""
    span = format_duration(growth.seconds)
    grown = [row for row in growth.rows if row.bytes > 0][:_GROWN]
    shrunk = [row for row in growth.rows if row.bytes < 0][-3:]
    if not grown and not shrunk:
        return filled("Growth in {1}: nothing moved", span)
    table = [(filled("  BY"), filled("PER SECOND"), filled("NOW"), filled("WHAT"), filled("NAME"))]
    table += [
        (
            f"  {_sign(row.bytes)}",
            _sign(round(row.bytes / max(row.seconds, 1e-3))),
            format_bytes(row.after_bytes),
            filled(row.kind),
            filled(row.name) if row.kind == "line" else _tail(printable(row.name), 33),
        )
        for row in (*grown, *shrunk)
    ]
    return filled("Growth in {1} ({2})", span, growth.source) + "\n" + _columns(table, "rrrll")


def _processes(rows: Sequence[ProcessRow]) -> str:
    if not rows:
        return filled("Processes by heap: none found")
    heads = (
        filled("HEAP"),
        filled("DIVIDED"),
        filled("PRIVATE"),
        filled("SHARED"),
        filled("NAME"),
        filled("COMMAND LINE"),
    )
    table = [("  PID", *heads)]
    table += [
        (
            f"  {row.pid}",
            format_bytes(row.heap_bytes),
            _bytes(row.pss_bytes),
            _bytes(row.private_bytes),
            _bytes(row.shmem_bytes),
            printable(row.name),
            _text(row.cmdline),
        )
        for row in rows
    ]
    title = filled("Processes by heap (anonymous memory and swap; DIVIDED shares shared pages out)")
    return f"{title}\n" + _fitted(table, "rrrrrll")


def _groups(rows: Sequence[ContainerRow]) -> str:
    if not rows:
        return filled("Containers, units and groups: none found")
    table = [(filled("  USAGE"), filled("ANON"), filled("FILES"), filled("SHARED"), filled("KIND"), filled("NAME"))]
    table += [
        (
            f"  {format_bytes(row.usage_bytes)}",
            _bytes(row.anon_bytes),
            _bytes(row.file_bytes),
            _bytes(row.shmem_bytes),
            row.runtime or row.kind,
            printable("/".join(filter(None, (row.namespace, row.pod, row.name)))),
        )
        for row in rows[:_GROUPS]
    ]
    more = "\n" + filled("  and {1} more", str(len(rows) - _GROUPS)) if len(rows) > _GROUPS else ""
    return filled("Containers, units and groups") + "\n" + _fitted(table, "rrrrll", tail=True) + more


def _dying(rows: Sequence[DyingRow]) -> str:
    lines = [filled("Removed groups that still hold memory")]
    for row in rows[:_GROUPS]:
        count = f", {filled('{1} of them', str(row.count.value))}" if isinstance(row.count, Value) else ""
        lines.append(f"  {format_bytes(row.held_bytes):>10}  {filled('below {1}', printable(row.parent))}{count}")
    return "\n".join(lines)


def _files(rows: Sequence[FileRow]) -> str:
    if not rows:
        return filled("Files by page cache: none found")
    table = [(filled("  CACHED"), filled("DIRTY"), filled("OPEN BY"), filled("FILE"))]
    for row in rows:
        holders = ", ".join(str(pid) for pid in row.open_by[:2]) + (" …" if len(row.open_by) > 2 else "")
        holders = holders or (filled("nobody") if row.open_by_whole else filled("not known"))
        name = printable(row.path) + (f" {filled('(deleted)')}" if row.deleted else "")
        table.append((f"  {format_bytes(row.cached_bytes)}", _bytes(row.dirty_bytes), holders, name))
    head, *lines = _fitted(table, "rrll", tail=True).split("\n")
    told = [piece for line, row in zip(lines, rows) for piece in (line, _explained(row)) if piece]
    return "\n".join([filled("Files by page cache"), head, *told])


def _explained(row: FileRow) -> str:
    """Who pays for a file and what frees it, where a look at all files told so."""
    if not isinstance(row, CachedFile):
        return ""
    told = [filled("frees it: {1}", printable(row.frees))] if row.frees else []
    if isinstance(row.charged_to, Value):
        several = len(row.charged_to.value) > 1
        payers = [
            _tail(printable(str(each["group"])) or filled("no group"), 34)
            + (f" {format_bytes(each['bytes'])}" if several else "")
            for each in row.charged_to.value[:_PAYERS]
        ]
        told.insert(0, filled("paid by {1}", ", ".join(payers) or filled("no group")))
    return " " * 6 + "; ".join(told) if told else ""


def _gpus(gpus: Sequence[GpuRow], rows: Sequence[VramRow]) -> str:
    lines = [filled("GPU memory (a pool of its own, in no line of the balance)")]
    lines += [
        f"  {printable(gpu.gpu)} {printable(gpu.name)}: "
        + filled(
            "{1} of {2} used, {3} by no process the driver names",
            *(_bytes(gpu.used_bytes), _bytes(gpu.total_bytes), _bytes(gpu.unnamed_bytes)),
        )
        for gpu in gpus
    ]
    table = [(filled("  HOLDS"), filled("PROCESS"), "GPU", filled("CONTAINER OR UNIT"))]
    table += [
        (
            f"  {_bytes(row.bytes)}",
            f"{printable(row.name) or filled('not seen here')} ({row.pid})",
            _tail(printable(row.gpu), 18),
            printable(row.container),
        )
        for row in rows[:_GROUPS]
    ]
    return (
        "\n".join([*lines, _fitted(table, "rlll", tail=True)])
        if rows
        else "\n".join([*lines, filled("  held by nobody")])
    )


def _allocations(traced: Mapping[str, Any]) -> str:
    """What the kernel kept, outside of what the balance counts; `counted_as` says which line has the others."""
    keepers = [each for each in traced["keepers"] if not each["counted_as"]][:_KEEPERS]
    lost = filled("; {1} had no room in the table", str(traced["dropped"])) if traced["dropped"] else ""
    seconds, seen = f"{traced['seconds']:.1f}", str(traced["seen"])
    lines = [filled("Kept by the kernel in {1} s ({2} allocations seen)", seconds, seen) + lost]
    lines += [
        f"  {format_bytes(each['bytes']):>10}  {printable(str(each['comm']))} ({each['pid']}): "
        f"{' < '.join(printable(str(name)) for name in each['functions'][:4]) or filled('stack lost')}"
        for each in keepers
    ]
    return "\n".join(lines if keepers else [*lines, filled("  nothing that no line of the balance counts")])


def _heaps(heaps: Sequence[Mapping[str, Any]]) -> str:
    """The sentence of each, or why there is none."""
    lines = [
        "  "
        + printable(str(heap.get("sentence") or f"{heap.get('name')} (pid {heap.get('pid')}): {heap.get('detail')}"))
        for heap in heaps
    ]
    return "\n".join([filled("Heaps"), *lines])


def _gaps(panorama: Panorama) -> str:
    if not panorama.gaps:
        return filled("gaps: none")
    lines = [
        f"  {gap.layer}: {printable(str(gap.missing))}"
        + (filled(", and {1} more", str(gap.count - 1)) if gap.count > 1 else "")
        for gap in panorama.gaps
    ]
    return "\n".join([filled("Gaps"), *lines])


def _cost(panorama: Panorama) -> str:
    layers = " · ".join(f"{layer.name} {format_duration(layer.duration_s)}" for layer in panorama.layers)
    parts = [filled("cost: {1}", layers)]
    if panorama.cost is not None:
        most = format_bytes(panorama.cost.peak_rss_bytes)
        parts.append(filled("{1} s of CPU, {2} at most", f"{panorama.cost.cpu_s:.2f}", most))
    return "; ".join([*parts, filled("usage moved by {1} meanwhile", _signed(panorama.drift_bytes))])


def _fitted(table: Sequence[Sequence[str]], alignment: str, *, tail: bool = False) -> str:
    """Columns with the last one cut to what is left of the width; `tail` keeps the end of it, as paths want."""
    widths = [max(width(row[index]) for row in table) for index in range(len(alignment) - 1)]
    left = max(12, COLUMNS - sum(widths) - 2 * len(widths))
    cut = _tail if tail else _beginning
    return _columns([(*row[:-1], cut(row[-1], left)) for row in table], alignment)


def _columns(table: Sequence[Sequence[str]], alignment: str) -> str:
    """Rows with columns as wide as their widest cell; `alignment` has l or r for each."""
    widths = [max(width(row[index]) for row in table) for index in range(len(alignment))]
    return "\n".join(
        "  ".join(
            at_right(cell, wide) if side == "r" else padded(cell, wide)
            for cell, wide, side in zip(row, widths, alignment)
        ).rstrip()
        for row in table
    )


def _tail(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _beginning(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _bytes(reading: Reading[int]) -> str:
    return "?" if isinstance(reading, Missing) else format_bytes(reading.value)


def _sign(count: int) -> str:
    return ("+" if count > 0 else "") + format_bytes(count)


def _signed(reading: Reading[int]) -> str:
    return f"? ({reading})" if isinstance(reading, Missing) else _sign(reading.value)


def _text(reading: Reading[str]) -> str:
    return f"? ({reading.reason.value})" if isinstance(reading, Missing) else printable(reading.value)
