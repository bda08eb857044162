"""Drawings: lengths follow the figures; what is unknown is written, not drawn."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from osremed.core.probe import ProbeSample
from osremed.core.reading import Missing, Reason, Value
from osremed.report.drawings import memory_svg, samples_svg, timeline_svg
from osremed.report.model import ProbeResult
from osremed.report.svg import fit

NS = "{http://www.w3.org/2000/svg}"
LIMIT = "value > 0.1 for 10 s within 60 s"


def widths(svg: str, style: str) -> list[float]:
    return [float(rect.get("width")) for rect in ET.fromstring(svg).iter(f"{NS}rect") if rect.get("class") == style]


def words(svg: str) -> str:
    return " ".join(element.text or "" for element in ET.fromstring(svg).iter(f"{NS}text"))


def test_bars_are_as_long_as_their_share_of_the_limit(panorama_document):
    svg = memory_svg(panorama_document)
    track = widths(svg, "o-track")[0]
    heaps = widths(svg, "o-anon")[-3:]
    for width, mib in zip(heaps, (260, 48, 9)):
        assert abs(width - track * mib / 512) < 0.1


def test_the_balance_bar_ends_at_the_limit_line(panorama_document):
    svg = memory_svg(panorama_document)
    root = ET.fromstring(svg)
    limit = next(line for line in root.iter(f"{NS}line") if line.get("class") == "o-limit")
    free = next(rect for rect in root.iter(f"{NS}rect") if rect.get("class") == "o-free")
    assert abs(float(free.get("x")) + float(free.get("width")) - float(limit.get("x1"))) < 1.5
    assert "limit 512.0 MiB" in words(svg)


def test_what_the_drawn_rows_leave_out_is_one_bar_of_its_own(panorama_document):
    svg = memory_svg(panorama_document)
    assert "all other processes" in words(svg)
    assert "12.0 MiB" in words(svg)
    assert "all other page cache" in words(svg)


def test_small_bars_say_that_their_scale_is_not_the_limit(panorama_document):
    document = panorama_document
    document["total_bytes"] = 1 << 40
    assert "bars to the scale of the largest" in words(memory_svg(document))


def test_every_colour_has_its_words(panorama_document):
    text = words(memory_svg(panorama_document))
    for name in ("anonymous memory", "files in page cache", "shared memory", "kernel", "unaccounted", "free"):
        assert name in text


def test_a_negative_residual_has_words_and_no_bar(panorama_document):
    panorama_document["balance"]["lines"][4]["bytes"] = -(2 << 20)
    svg = memory_svg(panorama_document)
    assert "unaccounted: -2.0 MiB" in words(svg)
    assert widths(svg, "o-unaccounted") == [10.0]  # the key of the legend alone


def test_nothing_is_drawn_outside_its_width(story):
    for width in (310, 720, 960):
        for svg in (
            memory_svg(story.panorama, width=width),
            timeline_svg(story, width=width),
            samples_svg(story.verdicts[0], width=width),
        ):
            for rect in ET.fromstring(svg).iter(f"{NS}rect"):
                if rect.get("width") != "100%":
                    assert float(rect.get("x")) + float(rect.get("width")) <= width


def test_the_time_line_tells_the_time_since_the_start(story):
    text = words(timeline_svg(story))
    assert "+21.0 ms" in text
    assert "+17.90 s" in text


def test_a_failed_reading_breaks_the_curve_and_is_a_cross():
    denied = Missing(Reason.DENIED, "x")
    readings = [Value(0.2), Value(0.2), denied, Value(0.2), Value(0.2)]
    result = ProbeResult(
        "p", LIMIT, "FAILS", tuple(ProbeSample(float(at), reading) for at, reading in enumerate(readings))
    )
    svg = samples_svg(result)
    curve = next(ET.fromstring(svg).iter(f"{NS}path")).get("d")
    assert curve.count("M") == 2
    assert len(list(ET.fromstring(svg).iter(f"{NS}circle"))) == 4
    assert "1 of 5 readings failed" in words(svg)


def test_the_bound_is_drawn_where_the_tolerance_has_it():
    result = ProbeResult("p", LIMIT, "HOLDS", (ProbeSample(0.0, Value(0.1)), ProbeSample(5.0, Value(0.2))))
    svg = samples_svg(result)
    bound = next(line for line in ET.fromstring(svg).iter(f"{NS}line") if line.get("stroke-dasharray"))
    first = next(ET.fromstring(svg).iter(f"{NS}circle"))
    assert abs(float(bound.get("y1")) - float(first.get("cy"))) < 0.2


def test_probes_without_samples_or_with_only_failures_are_written_as_such():
    assert "no sample" in words(samples_svg(ProbeResult("p", LIMIT, "UNKNOWN")))
    only = ProbeResult("p", LIMIT, "UNKNOWN", (ProbeSample(0.0, Missing(Reason.GONE, "x")),))
    assert "no reading succeeded" in ET.fromstring(samples_svg(only)).get("aria-label")


def test_text_is_cut_to_its_room_and_wide_characters_count_double():
    assert len(fit("a" * 100, 100)) <= 16
    assert len(fit("漢" * 100, 100)) <= 9
    assert not re.search("…", fit("short", 100))
