"""The flame graph pages: their own words in the language that is spoken, and what was recorded as it was."""

from __future__ import annotations

import re

import pytest

from osremed.core.language import speak
from osremed.core.pagewords import markup_words, script_words
from osremed.hotspot.diff import compare
from osremed.hotspot.flame import diff_page, flame_page
from osremed.verbs.catalogue import LANGUAGES
from tests.unit.hotspot.made import frame, profile, sample
from tests.unit.spoken import spoken


def made(every: int):
    """One with functions that are called what the page says, too."""
    taken = [sample(at / 50, frame("both"), frame("whole" if at % every else "before")) for at in range(400)]
    return profile(*taken, *(sample(at / 50, frame("less"), state="off", syscall="futex") for at in range(50)))


def parts(page: str) -> tuple[str, str, str]:
    """(what is around the data and the script, the data, the script)"""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    return page.replace(data, "").replace(script, ""), data, script


def test_marked_phrases_are_put_in_as_literals_that_cannot_end_the_script():
    assert script_words('say(_("whole") + by_("whole"))') == 'say("whole" + by_("whole"))'
    assert markup_words('<b title="{_("whole")}">{_("whole")}</b>') == '<b title="whole">whole</b>'
    with spoken("zh_CN"):
        assert script_words('_("whole")') == '"全部"'
        assert markup_words('{_("whole")}') == "全部"


def test_no_translation_can_end_the_script_or_an_attribute():
    speak({}, {"whole": "</script>\"'<"})
    try:
        assert script_words('_("whole")') == '"\\u003c/script>\\"\'\\u003c"'
        assert markup_words('{_("whole")}') == "&lt;/script&gt;&quot;&#x27;&lt;"
    finally:
        speak({})


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_flame_graph_speaks_and_names_of_functions_stay(language):
    before, after = made(4), made(2)
    diff = compare(before, after, paths=True)
    english = [flame_page(before, "cpu"), diff_page(before, after, diff)]
    with spoken(language):
        told = [flame_page(before, "cpu"), diff_page(before, after, diff)]
    for page, same in zip(told, english):
        around, data, script = parts(page)
        plain, same_data, same_script = parts(same)
        assert f'<html lang="{language.replace("_", "-")}">' in around
        assert re.findall(r'"text":"[^"]*"', data) == re.findall(r'"text":"[^"]*"', same_data)
        assert re.findall(r"<[a-z0-9]+", around) == re.findall(r"<[a-z0-9]+", plain)
        assert re.findall(r"<td>([^<]*)", around) == re.findall(r"<td>([^<]*)", plain)
        for words in ("light or dark", "search frames", ">whole<", "arrow keys", " samples", "<th>function"):
            assert words in plain
            assert words not in around
        for words in ("frames match", "of what is shown", "not significant"):
            assert words in same_script
            assert words not in script
        assert not re.search(r"\b_\(", script + same_script)
    button = {"zh_CN": "占用 CPU", "zh_TW": "佔用 CPU"}[language]
    assert f'<button data-view="0" aria-pressed="true">{button}</button>' in told[0]
