"""Three drawings as SVG: who holds the memory, how the story went, what the probe saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.reading import Missing
from osremed.report.memory import draw_memory
from osremed.report.model import ProbeResult, RunStory
from osremed.report.story import draw_samples, draw_timeline
from osremed.report.svg import ARTIFACT_PX, NARROW_PX, WIDE_PX, inline, standalone

__all__ = ["both_widths", "draw_memory", "draw_samples", "draw_timeline", "memory_svg", "samples_svg", "timeline_svg"]


def memory_svg(panorama: Mapping[str, Any] | Missing, *, width: int = ARTIFACT_PX) -> str:
    """Who holds the memory, as a whole SVG document."""
    return standalone(draw_memory(panorama, width=width))


def timeline_svg(story: RunStory, *, width: int = ARTIFACT_PX) -> str:
    """From crossing to verdict, as a whole SVG document."""
    return standalone(draw_timeline(story, width=width))


def samples_svg(result: ProbeResult, *, width: int = ARTIFACT_PX) -> str:
    """The probe's readings against its bound, as a whole SVG document."""
    return standalone(draw_samples(result, width=width))


def both_widths(draw: Any, subject: Any) -> tuple[str, str]:
    """(wide, narrow) inline drawings: text stays legible on a phone when the drawing is not scaled down."""
    return inline(draw(subject, width=WIDE_PX)), inline(draw(subject, width=NARROW_PX))
