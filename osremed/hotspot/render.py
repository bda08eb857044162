"""Profile, diff and heat map -> terminal text. Names from processes cannot act on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable

from osremed.core.clock import rfc3339
from osremed.core.language import filled
from osremed.core.reading import Missing
from osremed.core.shown import printable
from osremed.hotspot.diff import Change, Diff
from osremed.hotspot.model import Profile, Sample, call_text, frame_text, kernel_thread, of_state, weight_s
from osremed.hotspot.tree import by, functions, heaviest_stack

_ROWS = 8
_STACK_CHARACTERS = 400
_HEAT = " .:-=+*#%@"
COLUMN_NS = 20_000_000


def render_profile(profile: Profile) -> str:
    """Who was hot, on and off the CPU; exact waits; stacks; heat map; gaps and cost."""
    parts = [_head(profile)]
    for state, title in (
        ("cpu", filled("On CPU")),
        ("off", filled("Off CPU (without kernel threads; waits are sampled and scaled to exact totals)")),
    ):
        samples = of_state(profile, state)
        if state == "off":
            samples = tuple(sample for sample in samples if not kernel_thread(sample))
        if samples:
            parts.append(_state(title, samples, profile.duration_s))
    if profile.blocked:
        parts.append(_blocked(profile))
    heat = heat_map(profile)
    if heat:
        parts.append(heat)
    parts.append("\n".join(filled("gap: {1}", printable(gap)) for gap in profile.gaps) or filled("gaps: none"))
    parts.append(_cost(profile))
    return "\n\n".join(parts)


def _head(profile: Profile) -> str:
    mode = profile.mode
    where = f"{printable(profile.host) or filled('no host')}, {rfc3339(profile.start_ns)}, {profile.duration_s:.2f} s"
    samples, hz = str(len(profile.samples)), str(mode.hz or filled("changing"))
    return filled("{1}: {2} samples, clock {3}, {4} Hz, {5} CPUs", where, samples, mode.clock, hz, str(mode.cpus))


def _state(title: str, samples: tuple[Sample, ...], duration_s: float) -> str:
    total_s = weight_s(samples)
    lines = [filled("{1}: {2} s in {3} s", title, f"{total_s:.2f}", f"{duration_s:.2f}")]
    for heading, key in (
        (filled("  by process"), call_text),
        (filled("  by container"), lambda sample: sample.container or "(host)"),
        (filled("  by thread"), lambda sample: f"{sample.thread}[{sample.tid}]"),
    ):
        rows = by(samples, key)[:_ROWS]
        if rows[0][0] == "(host)" and len(rows) == 1:
            continue
        lines += [heading] + [_row(seconds, total_s, name) for name, seconds in rows]
    places = [_place(sample) for sample in samples]
    lines.append(filled("  by function (own time)"))
    lines += [_row(row.own_s, total_s, frame_text(row.frame)) for row in functions(places)[:_ROWS] if row.own_s]
    lines.append(filled("  most common stack: {1}", _cut(printable(heaviest_stack(samples)))))
    return "\n".join(lines)


def _place(sample: Sample) -> Sample:
    """A wait without the scheduler's frames, which all waits share: its leaf is what the program did."""
    if sample.state == "cpu":
        return sample
    return sample._replace(stack=tuple(frame for frame in sample.stack if frame.kind != "kernel"))


def _row(seconds: float, total_s: float, name: str) -> str:
    return f"    {seconds:8.3f} s {100 * seconds / total_s if total_s else 0:5.1f} %  {printable(name)}"


def _cut(text: str) -> str:
    return text if len(text) <= _STACK_CHARACTERS else "… " + text[-_STACK_CHARACTERS:]


def _blocked(profile: Profile) -> str:
    lines = [filled("Exact waits (of the segments that touch the window)")]
    lines += [
        filled(
            "    {1} s {2} times, longest {3} ms",
            f"{row.total_s:8.3f}",
            f"{row.count:7d}",
            f"{row.longest_s * 1e3:9.2f}",
        )
        + f"  {printable(row.process)}[{row.pid}] {row.syscall}"
        for row in profile.blocked[:_ROWS]
    ]
    return "\n".join(lines)


def heat_rows(samples: Iterable[Sample], start_ns: int, end_ns: int) -> list[tuple[int, list[int]]]:
    """For each second of the window its 50 columns of 20 ms, with the number of samples on the CPU."""
    first, last = start_ns // 10**9, (end_ns - 1) // 10**9
    rows = {second: [0] * (10**9 // COLUMN_NS) for second in range(first, min(last, first + 3600) + 1)}
    for sample in samples:
        if sample.state == "cpu" and sample.at_ns // 10**9 in rows:
            rows[sample.at_ns // 10**9][sample.at_ns % 10**9 // COLUMN_NS] += 1
    return sorted(rows.items())


def heat_map(profile: Profile, most: int = 12) -> str:
    """Seconds down, 20 ms columns across; the darker the more samples on the CPU. "" without any."""
    rows = heat_rows(profile.samples, profile.start_ns, profile.end_ns)
    top = max((count for _second, columns in rows for count in columns), default=0)
    if not top:
        return ""
    lines = [filled("CPU, columns of 20 ms, {1} = {2} samples", _HEAT[-1], str(top))]
    for second, columns in rows[:most]:
        cells = "".join(_HEAT[-(-count * (len(_HEAT) - 1) // top)] for count in columns)
        lines.append(f"  {time.strftime('%H:%M:%S', time.localtime(second))} |{cells}|")
    if len(rows) > most:
        lines.append(filled("  … {1} seconds more: -o json, or a smaller window", str(len(rows) - most)))
    return "\n".join(lines)


def _cost(profile: Profile) -> str:
    if isinstance(profile.cost, Missing):
        return filled("cost: {1}", str(profile.cost))
    cost = profile.cost.value
    share = 100 * cost.cores / max(profile.mode.cpus, 1)
    figures = f"{share:.2f}", f"{cost.wall_s:.0f}", f"{cost.bpf_s * 1000:.0f}", f"{cost.own_s * 1000:.0f}"
    spent = filled("cost: {1} % of the machine over {2} s (BPF {3} ms, daemon {4} ms)", *figures)
    return "; ".join([spent, filled("{1} records lost", str(profile.lost))])


def change_words(change: Change) -> str:
    """`name` and what became of it."""
    name = " > ".join(frame_text(frame) for frame in change.path)
    if change.fresh:
        return f"{name} (new)"
    return f"{name} (vanished)" if change.vanished else name


def render_diff(diff: Diff) -> str:
    """The significant changes in words with numbers, regressions first, then the test and its warnings."""
    found = [change for change in diff.functions if change.significant]
    more = [change for change in found if change.effect > 0]
    less = [change for change in found if change.effect < 0]
    parts = [
        filled("{1}: {2} samples before, {3} after", diff.state, str(diff.samples[0]), str(diff.samples[1]))
        + filled("; {1} -> {2} cores", f"{diff.cores[0]:.2f}", f"{diff.cores[1]:.2f}")
    ]
    for title, rows in ((filled("More"), more), (filled("Less"), less)):
        if rows:
            parts.append("\n".join([title, *(_change(change) for change in rows[: 2 * _ROWS])]))
    if not found:
        parts.append(filled("No function changed significantly."))
    parts.append(filled("test: {1}; {2} functions tested", diff.test, str(len(diff.functions))))
    parts += [filled("warning: {1}", warning) for warning in diff.warnings]
    return "\n\n".join(parts)


def _change(change: Change) -> str:
    error = (change.before.error**2 + change.after.error**2) ** 0.5
    return (
        f"  {100 * change.before.share:6.2f} % -> {100 * change.after.share:6.2f} %  "
        + filled("{1} +- {2} points", f"{100 * change.effect:+.2f}", f"{100 * error:.2f}")
        + f"  {printable(change_words(change))}"
    )
