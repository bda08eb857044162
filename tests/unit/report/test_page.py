"""The report: everything escaped, everything told, nothing fetched, no gap shown as zero."""

from __future__ import annotations

import base64
import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from osremed.core.event import Event
from osremed.core.language import speak
from osremed.core.probe import ProbeSample
from osremed.core.reading import Missing, Reason, Value
from osremed.report.model import Moment, ProbeResult, RunStory, UndoStep
from osremed.report.page import render_html, render_markdown
from osremed.verbs.catalogue import LANGUAGES, answers

TEMPLATES = Path(__file__).resolve().parents[3] / "osremed/report/templates"
VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
GONE = Missing(Reason.DENIED, "the host", "no permission")
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x",
    "</style></svg><script>",
    "line\nbreak | pipe\r\n# heading",
    "{{ 7*7 }}{% raw %}",
    "](http://evil.example/) ![x](http://evil.example/y.png)",
    "www.evil.example and https://evil.example",
    "`code` *bold* _em_ ~~x~~",
    "\u202egnp.exe\u2066\u200f",
    "nul\x00esc\x1b[31m\x07",
    "lone \udc80 surrogate",
    "```\n# out of the fence",
    "A" * 10_000,
    "шּׁלוֹם عربى 漢字",
]


class Page(HTMLParser):
    """Balance of tags, and every attribute and text seen."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def parsed(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    return page


def shape(page: Page) -> list[str]:
    return page.tags


def drawings_of(markdown: str) -> list[str]:
    return [base64.b64decode(data).decode() for data in re.findall(r"\(data:image/svg\+xml;base64,([^)]+)\)", markdown)]


def without(story: RunStory) -> RunStory:
    """The same run with nothing known but who and where."""
    event = Event(story.event.id, story.event.name, story.host, story.event.time_ns, {})
    return dataclasses.replace(
        story, event=event, timeline=(Moment("killed", GONE),), findings=(), plan=(), guards=(), verdicts=(), undo=(),
        panorama=GONE, bundle_sha256=GONE, gaps=(),
    )  # fmt: skip


def test_the_page_is_balanced_and_asks_for_nothing_outside_itself(story):
    html = render_html(story)
    page = parsed(html)
    assert "http://" not in html
    assert "https://" not in html
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert not [item for item in page.attributes if item[1] in ("src", "href", "srcset", "action", "style")]
    assert "@import" not in html
    assert "url(" not in html
    policy = [
        value for tag, key, value in page.attributes if tag == "meta" and key == "content" and "default-src" in value
    ]
    assert policy
    assert "default-src 'none'" in policy[0]


@pytest.mark.parametrize("poison", HOSTILE, ids=lambda poison: ascii(poison[:24]))
def test_a_hostile_string_changes_no_tag_and_no_attribute_of_the_page(story, poison, poisoned):
    calm = parsed(render_html(poisoned(story, "x")))
    html = render_html(poisoned(story, poison))
    html.encode("utf-8")
    page = parsed(html)
    # Text that wraps or a diff of several lines may add <span> lines; nothing else may differ.
    assert [tag for tag in shape(page) if tag != "span"] == [tag for tag in shape(calm) if tag != "span"]
    assert {key for _, key, _ in page.attributes} == {key for _, key, _ in calm.attributes}
    assert not re.search(r"[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00\x1b\x07]", html)


@pytest.mark.parametrize("poison", HOSTILE, ids=lambda poison: ascii(poison[:24]))
def test_a_hostile_string_changes_no_structure_of_the_markdown(story, poison, poisoned):
    calm = render_markdown(poisoned(story, "x"))
    markdown = render_markdown(poisoned(story, poison))
    markdown.encode("utf-8")

    def skeleton(text: str) -> list[str]:
        outside = re.sub(r"(?ms)^(`{3,})diff$.*?^\1$", "FENCE", text)
        return [re.sub(r"[^|#!`\[\]<>]", "", re.sub(r"&#?\w+;|base64,[^)]*", "", line)) for line in outside.split("\n")]

    assert skeleton(markdown) == skeleton(calm)
    outside = re.sub(r"(?ms)^(`{3,})diff$.*?^\1$", "", markdown)
    assert "://" not in outside
    assert "www." not in outside


@pytest.mark.parametrize("poison", HOSTILE, ids=lambda poison: ascii(poison[:24]))
def test_drawings_in_markdown_are_well_formed_xml_without_active_content(story, poison, poisoned):
    found = drawings_of(render_markdown(poisoned(story, poison)))
    assert len(found) == 3
    for svg in found:
        elements = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
        assert elements <= {"svg", "style", "rect", "text", "line", "title", "circle", "path"}


def test_a_long_string_is_cut_and_its_true_length_printed(story):
    html = render_html(dataclasses.replace(story, reason="B" * 10_000))
    assert "(10,000 characters)" in html
    assert len(html) < len(render_html(story)) + 2_000


def test_invisible_characters_are_spelled_out(story):
    assert "\\u202egnp.exe" in render_html(dataclasses.replace(story, reason="\u202egnp.exe"))


def test_a_url_from_a_host_is_text_and_never_a_link(story):
    page = parsed(render_html(dataclasses.replace(story, reason="see https://evil.example/")))
    assert "see https://evil.example/" in page.text
    assert "a" not in page.tags


def test_the_story_is_told_in_both_forms(story):
    page = parsed(render_html(story)).text
    markdown = render_markdown(story)
    for words in (
        "near-oom",
        "SUCCEEDED",
        "logcollect",
        "ota-gateway",
        "policy-too-low",
        "124.0 MiB",
        "HOLDS",
        "21.0 ms",
        "ab" * 32,
    ):
        assert words in page
        assert words.replace("_", "&#95;") in markdown
    assert '- "sensitivity": "low",' in page.replace("-  ", "- ")
    assert "irreversible" in page


def test_killed_processes_are_listed_in_the_order_of_the_event(story):
    text = parsed(render_html(story)).text
    places = [text.index(name) for name in ("exporter-a", "exporter-b", "logcollect")]
    assert places == sorted(places)


def test_what_was_not_collected_is_named_and_never_zero(story):
    bare = without(story)
    for told in (parsed(render_html(bare)).text, render_markdown(bare)):
        assert "not collected" in told
        assert "denied" in told
        assert not re.search(r"\b0(\.0)? (B|MiB|%)", told)
    for svg in drawings_of(render_markdown(bare)):
        assert "not collected: denied: the host" in svg


def test_a_missing_figure_inside_the_panorama_is_a_gap_in_its_cell(story, panorama_document):
    document = panorama_document
    document["processes"][0]["heap_bytes"] = {"missing": "gone", "source": "/proc/4000/status", "detail": ""}
    del document["files"][0]["dirty_bytes"]
    document["balance"]["lines"][0]["bytes"] = None
    text = parsed(render_html(dataclasses.replace(story, panorama=document))).text
    assert "not collected: gone: /proc/4000/status" in text
    assert "no dirty_bytes" in text
    assert "anonymous memory: not collected (malformed)" in text


@pytest.mark.parametrize(
    "document",
    [{}, {"total_bytes": "many"}, {"total_bytes": 0}, {"total_bytes": 9, "processes": [1], "files": "x", "balance": {}},
     {"total_bytes": 1e308, "balance": {"lines": [{"bytes": -1}]}, "processes": [{}], "files": [{}],
      "gaps": [{}], "coverage": []},
     {"total_bytes": 10**400, "balance": {"lines": [{"bytes": 10**400}]}}, {"total_bytes": float("nan")},
     {"total_bytes": 1, "balance": {"lines": [{"bytes": 2**62}]}, "processes": [{"heap_bytes": 2**62, "pid": 10**400}]},
     {"total_bytes": True, "gaps": [{"missing": "no such reason"}]}],
)  # fmt: skip
def test_a_malformed_panorama_still_gives_a_report(story, document):
    broken = dataclasses.replace(story, panorama=document)
    parsed(render_html(broken))
    for svg in drawings_of(render_markdown(broken)):
        ET.fromstring(svg)


@pytest.mark.parametrize(
    "value", [None, 10**400, float("nan"), "x", {}, [None], [7], {"missing": "denied", "source": "s", "detail": "d"}]
)
def test_malformed_event_attributes_still_give_a_report(story, value):
    attributes = dict.fromkeys([*story.event.attributes, "freed_bytes"], value)
    event = Event(story.event.id, story.event.name, story.host, story.event.time_ns, attributes)
    text = parsed(render_html(dataclasses.replace(story, event=event))).text
    assert "not collected" in text


@pytest.mark.parametrize("at_ns", [0, -5, 10**400])
def test_a_time_that_no_calendar_holds_is_a_gap(story, at_ns):
    odd = dataclasses.replace(story, timeline=(Moment("killed", at_ns), *story.timeline))
    assert "not collected: malformed: killed" in render_html(odd)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, -3.0])
def test_a_sample_that_is_no_plain_number_still_draws(story, value):
    samples = (ProbeSample(0.0, Value(value)), ProbeSample(value, Value(0.5)))
    odd = dataclasses.replace(story, verdicts=(ProbeResult("p", "value > 0.1", "FAILS", samples),))
    for svg in drawings_of(render_markdown(odd)):
        assert not re.search(r'"-?(nan|inf)', svg)


def test_the_report_names_the_gaps_of_the_run_and_of_the_panorama(story):
    text = parsed(render_html(story)).text
    assert "/dev/kmsg" in text
    assert "/proc/4001/fd" in text


def test_an_undone_run_tells_its_undo_and_a_failed_probe_its_failed_readings(story):
    samples = (ProbeSample(0.0, Value(0.04)), ProbeSample(1.0, GONE), ProbeSample(2.0, Value(0.05)))
    undone = dataclasses.replace(
        story,
        state="UNDONE",
        verdicts=(ProbeResult("memory.available_ratio", "value > 0.1 for 10 s within 60 s", "FAILS", samples),),
        undo=(UndoStep("fastoom_policy", "restored byte for byte"),),
    )
    html = render_html(undone)
    text = parsed(html).text
    assert "UNDONE" in text
    assert "restored byte for byte" in text
    assert "1 of 3 readings failed" in html


def test_every_section_is_labelled_and_every_drawing_says_in_words_what_it_shows(story):
    page = parsed(render_html(story))
    ids = {value for _, key, value in page.attributes if key == "id"}
    labelled = [value for tag, key, value in page.attributes if tag == "section" and key == "aria-labelledby"]
    assert labelled
    assert set(labelled) <= ids
    drawings = page.tags.count("svg")
    labels = [value for tag, key, value in page.attributes if tag == "svg" and key == "aria-label"]
    assert drawings == len([label for label in labels if label])


def test_the_page_follows_the_reader_into_the_dark_and_onto_a_phone(story):
    html = render_html(story)
    assert "prefers-color-scheme:dark" in html
    assert 'name="viewport"' in html
    assert len(html) < 60_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_speaks_the_language_that_is_spoken_and_hosts_words_stay(story, language):
    story = dataclasses.replace(
        story, host="plan", reason="free", timeline=(Moment("level crossed", 10**18),)
    )  # words that osremed says, too
    english = render_html(story), render_markdown(story)
    speak({}, answers(language))
    try:
        told = render_html(story), render_markdown(story)
    finally:
        speak({})
    assert f'<html lang="{language.replace("_", "-")}">' in told[0]
    headings = "Who holds the memory", "Did it help?", "What this report does not know"
    for phrase in (*headings, "What FastOOM did", "Processes by heap", "level crossed"):
        assert phrase in english[0]
        assert phrase not in told[0]
    assert "<bdi>plan</bdi>" in told[0]
    assert "<bdi>free</bdi>" in told[0]
    assert answers(language)["Who holds the memory"] in told[1]
    assert shape(parsed(told[0])) == shape(parsed(english[0]))
    assert (render_html(story), render_markdown(story)) == english


@pytest.mark.parametrize("poison", HOSTILE, ids=lambda poison: ascii(poison[:24]))
def test_a_hostile_string_changes_no_tag_of_a_translated_page(story, poison, poisoned):
    speak({}, answers("zh_TW"))
    try:
        pages = [parsed(render_html(poisoned(story, each))) for each in ("x", poison)]
    finally:
        speak({})
    calm, page = ([tag for tag in shape(each) if tag != "span"] for each in pages)
    assert page == calm


@pytest.mark.parametrize("name", ["report.html.j2", "report.md.j2"])
def test_no_word_of_a_template_is_beyond_translation(name):
    text = (TEMPLATES / name).read_text()
    text = re.sub(r"<style>.*?</style>|{%.*?%}|{{.*?}}", "", text, flags=re.DOTALL)
    assert set(re.findall(r"[A-Za-z_]{2,}", re.sub(r"<[^>]*>", " ", text))) <= {"PID", "oom_score_adj"}
