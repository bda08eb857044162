"""The flame graph pages in Chromium, opened from a file, with no network."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from osremed.hotspot.diff import compare
from osremed.hotspot.flame import diff_page, flame_page
from osremed.hotspot.model import Profile
from tests.unit.hotspot.made import frame, profile, sample

HOSTILE = "</script><img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    made = chromium.new_page(viewport={"width": 1200, "height": 900})
    made.requests, made.errors = [], []
    made.on("request", lambda request: made.requests.append(request.url))
    made.on("pageerror", lambda error: made.errors.append(str(error)))
    yield made
    assert made.errors == []
    assert all(url.startswith(("file:", "data:")) for url in made.requests)
    made.close()


def show(page: Page, text: str, folder: Path) -> None:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    page.goto(path.as_uri())


def service() -> Profile:
    taken = [sample(at / 50, frame("main"), frame("work" if at % 4 else "rest"), frame("leaf")) for at in range(400)]
    waits = [sample(at / 50, frame("main"), frame("lock"), state="off", syscall="futex") for at in range(50)]
    return profile(*taken, *waits)


def said(page: Page) -> str:
    return page.inner_text("#said")


def test_click_zooms_keys_move_and_escape_shows_all(page: Page, tmp_path: Path) -> None:
    show(page, flame_page(service(), "cpu"), tmp_path)
    page.click("#flame", position={"x": 300, "y": 18 * 3 + 8})
    assert said(page).startswith("work (app.py): ")
    assert "100.00 % of what is shown" in said(page)
    page.press("#flame", "ArrowDown")
    assert said(page).startswith("leaf")
    page.press("#flame", "ArrowUp")
    page.press("#flame", "ArrowRight")
    page.press("#flame", "Escape")
    assert said(page).startswith("all: ")


def test_search_counts_what_matches(page: Page, tmp_path: Path) -> None:
    show(page, flame_page(service(), "cpu"), tmp_path)
    page.keyboard.press("/")
    page.keyboard.type("rest")
    assert page.inner_text("#found") == "1 frames match, 25.0 % of all"
    page.keyboard.press("Escape")
    assert page.inner_text("#found") == ""


def test_states_have_a_view_each(page: Page, tmp_path: Path) -> None:
    show(page, flame_page(service(), "cpu"), tmp_path)
    assert page.locator("button[data-view]").all_inner_texts() == ["on CPU", "off CPU", "both"]
    page.click("text=off CPU")
    page.click("#flame", position={"x": 300, "y": 18 * 3 + 8})
    assert said(page).startswith("lock")


def test_hostile_names_are_text(page: Page, tmp_path: Path) -> None:
    bad = [sample(at / 50, frame(HOSTILE, file=HOSTILE), process=HOSTILE) for at in range(400)]
    made = profile(*bad, host=HOSTILE, gaps=(HOSTILE,))
    for text in (flame_page(made), diff_page(made, made, compare(made, made, paths=True))):
        show(page, text, tmp_path)
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert HOSTILE in page.inner_text("h1")


def test_a_diff_is_grey_unless_significant(page: Page, tmp_path: Path) -> None:
    before = service()
    after = profile(*[sample(at / 50, frame("main"), frame("slow" if at % 2 else "rest")) for at in range(400)])
    show(page, diff_page(before, after, compare(before, after, paths=True)), tmp_path)
    view = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    names = [view["frames"][number]["text"] for number in view["views"][0]["frame"]]
    verdicts = dict(zip(names, view["views"][0]["verdict"]))
    assert (verdicts["slow (app.py)"], verdicts["work (app.py)"], verdicts["main (app.py)"]) == (1, -1, 0)
    for width in ("before", "after", "union"):
        page.click(f"button[data-width={width}]")
    assert "slow (app.py) (new)" in page.inner_text("table")


def test_fifty_thousand_frames_stay_interactive(page: Page, tmp_path: Path) -> None:
    chance = random.Random(1)
    taken = [
        sample(at / 5000, *(frame(f"f{depth}_{chance.randrange(8)}") for depth in range(1 + chance.randrange(24))))
        for at in range(6000)
    ]
    text = flame_page(profile(*taken), "cpu")
    show(page, text, tmp_path)
    assert len(json.loads(page.text_content("#data"))["views"][0]["depth"]) > 50_000
    assert int(page.get_attribute("#flame", "data-drawn")) > 500
    spent_ms = page.evaluate(
        """() => { const box = document.getElementById('flame'), began = performance.now();
        for (let i = 0; i < 20; i++) { window.dispatchEvent(new Event('resize')); }
        return (performance.now() - began) / 20; }"""
    )
    assert spent_ms < 250  # a few milliseconds on a machine of its own


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_looks_like_a_flame_graph(page: Page, tmp_path: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    show(page, flame_page(service(), "cpu"), tmp_path)
    page.screenshot(path=str(tmp_path / f"{scheme}.png"))
    pixel = page.evaluate("[...document.getElementById('flame').getContext('2d').getImageData(300, 9, 1, 1).data]")
    assert pixel[3] == 255
    page.click("#theme")
    other = page.evaluate("[...document.getElementById('flame').getContext('2d').getImageData(300, 9, 1, 1).data]")
    assert other != pixel
