"""A RunStory as Markdown for an artifact and as one HTML file that needs nothing else, in the language that is spoken
where they are made."""

from __future__ import annotations

import functools
from typing import Any

import jinja2
from markupsafe import Markup

from osremed.core.language import filled
from osremed.core.reading import Missing
from osremed.report import drawings, facts
from osremed.report.model import RunStory
from osremed.report.svg import STYLE, data_uri
from osremed.report.text import (
    as_bytes,
    as_json,
    as_seconds,
    as_share,
    as_time,
    brief,
    diff_lines,
    fenced_diff,
    show,
    show_markdown,
)

#: state -> (tone, sign); the word itself is always printed too.
TONES = {
    "SUCCEEDED": ("good", "✓"),
    "UNDONE": ("warn", "↺"),
    "REFUSED": ("calm", "⊘"),
    "UNDO_INCOMPLETE": ("bad", "!"),
    "HOLDS": ("good", "✓"),
    "FAILS": ("bad", "✗"),
    "UNKNOWN": ("warn", "?"),
}
_LIMIT_ROWS = 25


@functools.lru_cache(maxsize=2)
def _environment(finalize: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("osremed.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        brief=brief,
        bytes=as_bytes,
        json=as_json,
        share=as_share,
        time=as_time,
        seconds=as_seconds,
        diff_lines=diff_lines,
        fenced_diff=fenced_diff,
    )
    environment.globals["_"] = lambda phrase, *values: filled(phrase, *map(str, values))
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    return environment


def render_html(story: RunStory) -> str:
    """One HTML document: no script, no external request, light and dark, from 360 px up."""
    page = _environment(show).get_template("report.html.j2")
    # Drawings are built by our own code with every text escaped (svg.safe).
    return page.render(
        **_subject(story),
        drawing_style=Markup(STYLE),  # noqa: S704
        memory=[Markup(svg) for svg in drawings.both_widths(drawings.draw_memory, story.panorama)],  # noqa: S704
        timeline=[Markup(svg) for svg in drawings.both_widths(drawings.draw_timeline, story)],  # noqa: S704
        probes=[
            (result, [Markup(svg) for svg in drawings.both_widths(drawings.draw_samples, result)])  # noqa: S704
            for result in story.verdicts
        ],
    )


def render_markdown(story: RunStory) -> str:
    """GitHub-flavoured Markdown; drawings are data URIs, since raw SVG is stripped where artifacts are shown."""
    page = _environment(show_markdown).get_template("report.md.j2")
    text = page.render(
        **_subject(story),
        memory=Markup(data_uri(drawings.memory_svg(story.panorama))),  # noqa: S704 - base64
        timeline=Markup(data_uri(drawings.timeline_svg(story))),  # noqa: S704
        probes=[(result, Markup(data_uri(drawings.samples_svg(result)))) for result in story.verdicts],  # noqa: S704
    )
    return text.rstrip("\n") + "\n"


def _subject(story: RunStory) -> dict[str, Any]:
    """What both templates tell, read from untrusted documents once."""
    attributes = story.event.attributes
    return {
        "story": story,
        "tones": TONES,
        "killed": facts.killed(story.event),
        "spared": facts.spared(story.event),
        "freed_bytes": facts.number_at(attributes, "freed_bytes", "event"),
        "available_bytes": facts.number_at(attributes, "available_bytes", "event"),
        "available_after_bytes": facts.number_at(attributes, "available_after_bytes", "event"),
        "limit_bytes": facts.number_at(attributes, "limit_bytes", "event"),
        "level": facts.text_at(attributes, "level", "event"),
        "scope": facts.text_at(attributes, "scope", "event"),
        "relief_s": facts.elapsed_s(story.event, "crossed_ns", "freed_ns"),
        "story_s": _story_s(story),
        **_panorama(story.panorama),
    }


def _story_s(story: RunStory) -> float | Missing:
    """Seconds from the first to the last moment that has a time."""
    known = [facts.time_of(moment) for moment in story.timeline]
    times = [at_ns for at_ns in known if not isinstance(at_ns, Missing)]
    if not times:
        return facts.missing_at({}, "timeline", "run")
    return (max(times) - min(times)) / 1e9


def _panorama(document: Any) -> dict[str, Any]:
    """Rows of the panorama's tables, and the gaps that it names itself."""
    if isinstance(document, Missing):
        return {"processes": document, "files": document, "coverage": document, "panorama_gaps": ()}
    source = "panorama"
    gaps = facts.rows_at(document, "gaps", source)
    return {
        "processes": _rows(
            facts.rows_at(document, "processes", source),
            numbers=("heap_bytes", "file_bytes", "shmem_bytes"),
            integers=("pid", "oom_score_adj"),
            texts=("name", "cmdline"),
        ),
        "files": _rows(
            facts.rows_at(document, "files", source),
            numbers=("cached_bytes", "dirty_bytes"),
            integers=(),
            texts=("path",),
        ),
        "coverage": facts.text_at(document.get("coverage"), "statement", source),
        "panorama_gaps": () if isinstance(gaps, Missing) else _gaps(gaps),
    }


def _rows(
    rows: Any, *, numbers: tuple[str, ...], integers: tuple[str, ...], texts: tuple[str, ...]
) -> list[dict[str, Any]] | Missing:
    if isinstance(rows, Missing):
        return rows
    table = []
    for row in rows[:_LIMIT_ROWS]:
        cells: dict[str, Any] = {key: facts.number_at(row, key, "panorama") for key in numbers}
        cells.update({key: facts.int_at(row, key, "panorama") for key in integers})
        cells.update({key: facts.text_at(row, key, "panorama") for key in texts})
        cells["deleted"] = row.get("deleted") is True
        holders = row.get("open_by")
        cells["open_by"] = ", ".join(str(pid) for pid in holders[:8]) if isinstance(holders, list) else ""
        table.append(cells)
    return table


def _gaps(rows: Any) -> list[tuple[Any, str]]:
    """(layer, why) of each gap that the panorama reports."""
    return [
        (facts.text_at(row, "layer", "panorama"), str(facts.missing_at({"gap": row}, "gap", "panorama")))
        for row in rows[:_LIMIT_ROWS]
    ]
