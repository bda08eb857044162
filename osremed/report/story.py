"""How the story went and what the probe saw, drawn. What has no time or no reading is said, not skipped."""

from __future__ import annotations

import re

from osremed.core.language import filled
from osremed.core.probe import ProbeSample
from osremed.core.reading import Missing
from osremed.core.units import format_duration
from osremed.report.facts import LIMIT_NUMBER, time_of
from osremed.report.model import ProbeResult, RunStory
from osremed.report.svg import ARTIFACT_PX, PAD, PHONE_PX, Drawing, fit, line, note, rect, text

_BOUND = re.compile(r"value\s*(?:>=|<=|==|!=|>|<)\s*([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(%?)")


def draw_timeline(story: RunStory, *, width: int = ARTIFACT_PX) -> Drawing:
    """A row for each moment: the bar is the time since the one before, on one scale for the whole story."""
    moments = [(filled(moment.label), time_of(moment)) for moment in story.timeline]
    known = sorted(at_ns for _, at_ns in moments if not isinstance(at_ns, Missing))
    if not known:
        why = next((str(at_ns) for _, at_ns in moments), filled("the run has no moments"))
        return note(filled("not collected: {1}", why), filled("Time line"), width)
    start_ns, span_ns = known[0], max(known[-1] - known[0], 1)
    narrow = width < PHONE_PX
    left, right = (PAD, width - PAD) if narrow else (180, width - 100)
    parts: list[str] = []
    y, before_ns = 10.0, start_ns
    for label, at_ns in moments:
        bar_y = y + 17 if narrow else y + 2
        label_px = right - left - 110 if narrow else left - 10 - PAD
        anchor, label_x = ("start", PAD) if narrow else ("end", left - 10)
        parts.append(text(label_x, y + 13, fit(label, label_px), anchor=anchor))
        parts.append(rect(left, bar_y, right - left, 14, "o-track"))
        if isinstance(at_ns, Missing):
            why = fit(filled("not collected: {1}", str(at_ns)), right - left - 12)
            parts.append(text(left + 6, bar_y + 11, why, style="o-dim"))
        else:
            begin, end = (before_ns - start_ns) / span_ns, (at_ns - start_ns) / span_ns
            _span(parts, (left, right, bar_y), begin, end)
            since = f"+{format_duration((at_ns - start_ns) / 1e9)}" if at_ns != start_ns else filled("start")
            parts.append(text(width - PAD, y + 13, since, style="o-dim", anchor="end"))
            before_ns = max(before_ns, at_ns)
        y += 38 if narrow else 23
    words = filled("Time line of {1} moments over {2}", str(len(moments)), format_duration(span_ns / 1e9))
    return Drawing(width, round(y + 6), words, "".join(parts))


def _span(parts: list[str], place: tuple[float, float, float], begin: float, end: float) -> None:
    """The bar between two shares of the axis, with a mark at its end; a step shorter than a pixel is still a mark."""
    left, right, y = place
    first, last = sorted((begin, end))
    x1, x2 = left + first * (right - left), left + last * (right - left)
    parts.append(rect(x1, y, x2 - x1, 14, "o-anon"))
    mark = min(max(left + end * (right - left), left + 1.5), right - 1.5)
    parts.append(line(mark, y - 2, mark, y + 16, "o-limit"))


def draw_samples(result: ProbeResult, *, width: int = ARTIFACT_PX) -> Drawing:
    """Readings over time and the bound they were held against; a reading that failed is a cross on the base line."""
    if not result.samples:
        return note(filled("not collected: the probe gave no sample"), filled("Probe {1}", result.probe), width)
    height, left, right, top, base = 170, 52, width - PAD, 16, 136
    readings = [(_finite(sample.at_s) or 0.0, _value(sample)) for sample in result.samples]
    values = [value for _, value in readings if value is not None]
    bound = _bound(result.tolerance)
    highest = max([*values, bound or 0.0, 1e-12]) * 1.15
    end_s = max(*(at_s for at_s, _ in readings), 1e-9)

    def at(second: float, value: float) -> tuple[float, float]:
        return left + second / end_s * (right - left), base - max(value, 0.0) / highest * (base - top)

    parts = [
        line(left, base, right, base, "o-grid"),
        line(left, top, left, base, "o-grid"),
        text(left - 6, base + 4, "0", style="o-dim", anchor="end"),
        text(left - 6, top + 8, f"{highest:.3g}", style="o-dim", anchor="end"),
        text(left, base + 18, "0 s", style="o-dim"),
        text(right, base + 18, f"{end_s:.3g} s", style="o-dim", anchor="end"),
    ]
    curve = ""
    for at_s, value in readings:
        if value is None:
            x, y = at(at_s, 0)
            parts += [line(x - 4, y - 4, x + 4, y + 4, "o-bad"), line(x - 4, y + 4, x + 4, y - 4, "o-bad")]
            curve += " "
            continue
        x, y = at(at_s, value)
        curve += f"{'L' if curve and curve[-1] != ' ' else 'M'}{x:.1f},{y:.1f}"
        parts.append(f'<circle class="o-anon" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
    parts.append(f'<path class="o-curve" d="{curve.strip()}"/>')
    if bound is not None:
        y = at(0, bound)[1]
        parts += [
            line(left, y, right, y, "o-bad", dashed=True),
            text(right, y - 5, filled("bound {1}", f"{bound:g}"), anchor="end"),
        ]
    caption = _caption(result, failed=len(readings) - len(values))
    parts.append(text(left, height - 2, fit(caption, right - left), style="o-dim"))
    last = filled("last value {1}", f"{values[-1]:.4g}") if values else filled("no reading succeeded")
    words = f"{filled('Probe {1}', result.probe)}, {caption}; {last}"
    return Drawing(width, height + 4, words, "".join(parts))


def _value(sample: ProbeSample) -> float | None:
    """What can be drawn; None for a reading that failed or is no number."""
    return None if isinstance(sample.reading, Missing) else _finite(sample.reading.value)


def _finite(number: float) -> float | None:
    return number if abs(number) < LIMIT_NUMBER else None  # false for NaN as well


def _caption(result: ProbeResult, *, failed: int) -> str:
    head = f"{result.verdict}: {result.tolerance}"
    failures = filled("{1} of {2} readings failed", str(failed), str(len(result.samples)))
    return f"{head}; {failures}" if failed else head


def _bound(tolerance: str) -> float | None:
    match = _BOUND.search(tolerance)
    return None if match is None else float(match.group(1)) / (100 if match.group(2) else 1)
