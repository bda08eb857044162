"""The console in a browser: signed in, accessible, by keyboard alone, asking no other server."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe

from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.tokens import SCOPES, make_token
from osremed.core.answer import Answer
from osremed.flows import host_verbs
from osremed.flows.settings import ControlPaths
from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from osremed.runbook.ticks import read_tick
from tests.support.asking import asking_run
from tests.support.chat_endpoint import Endpoint, hypothesis, reply
from tests.support.console_state import HOSTILE, ROOT, past
from tests.support.look_documents import gpus_document, heat_document


@pytest.fixture
def kept(tmp_path):
    with past(tmp_path) as found:
        yield found


@pytest.fixture
def model():
    """An endpoint on loopback that answers as a model does."""
    said = reply(summary=f"It may be the heap. {HOSTILE}", hypotheses=[hypothesis("event#/killed/0", "findings")])
    with Endpoint([said]) as endpoint:
        yield endpoint


@pytest.fixture
def console(kept, model, tmp_path):
    """The URL of a console that serves this past, and may ask the model."""
    given = {"endpoint": model.url, "model": "small-1", "share": {"evidence": ["event", "findings"]}}
    settings = tmp_path / "opinion.yaml"
    settings.write_text(json.dumps({"apiVersion": "osremed/v1", "kind": "SecondOpinion", **given}))
    rooms = str(ROOT / "collections"), str(ROOT / "runbooks")
    places = Places(kept.state, kept.inventory, *rooms, "/nowhere", opinion=str(settings))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build_app(places), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def visit(chromium, console, kept):
    """visit(**context) -> a page that has signed in by keyboard. What it asks of others, and its errors, fail."""
    token = make_token(kept.state, "ana", SCOPES, agent=False)
    contexts, asked, wrong = [], [], []

    def signed_in(**context):
        contexts.append(chromium.new_context(**context))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(f"{console}/")
        page.locator("#token:focus").wait_for()
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{console}/")
        return page

    yield signed_in
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(console)] == []
    assert wrong == []


@pytest.fixture
def looked(monkeypatch):
    """Hosts answer at once, as hosts do."""
    monkeypatch.setattr(host_verbs, "hotspot_at", lambda **_asked: Answer(heat_document(), ""))
    monkeypatch.setattr(host_verbs, "gpus", lambda **_asked: Answer(gpus_document(), ""))


def paths(kept):
    runs = (kept.kept, kept.undone, kept.waiting)
    return ("/", "/hosts/web-2", "/runs", "/canaries", "/rules", "/audit", *(f"/runs/{run_id}" for run_id in runs))


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_every_page_is_accessible_and_fits(visit, console, kept, scheme, width):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in paths(kept):
        page.goto(console + path)
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("document.querySelectorAll('script:not([src])').length") == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_a_host_that_was_looked_at_is_accessible_and_its_axis_leads_by_keyboard(visit, console, looked, scheme, width):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.goto(f"{console}/hosts/web-2")
    for name in ("Look at the newest 10 seconds recorded", "Look at its GPUs"):
        with page.expect_navigation():
            page.get_by_role("button", name=name).press("Enter")
    assert page.locator("rect.heat").count() == 2
    assert page.locator("tr", has_text="Fake GPU").count() == 1
    for summary in page.locator("summary", has_text="The same as a table").all():
        summary.press("Enter")
    shown = page.locator("section", has_text="What happened").first.locator("tbody tr")
    assert shown.count() == 6  # an intervention, a level, a run and its finding, two looks
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    links = page.locator("svg a")
    for number in range(links.count()):
        links.nth(number).focus()
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == links.nth(number).get_attribute(
            "aria-label"
        )
    page.locator('svg a[href="#e-e-web-2"]').press("Enter")
    page.wait_for_url("**#e-e-web-2")


def test_a_run_is_approved_by_keyboard_and_the_page_follows_it(visit, console, kept):
    page = visit()
    page.goto(f"{console}/runs/{kept.waiting}")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('form')?.getAttribute('action')") == "/act/runs_approve":
            break
    page.keyboard.type("seen")
    page.keyboard.press("Enter")
    page.get_by_text("SUCCEEDED").wait_for(timeout=30_000)
    run, _ = RunStore(ControlPaths(kept.state).runs).load(kept.waiting)
    assert (run.state, run.approved_by) == (RunState.SUCCEEDED, "ana")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_a_persons_step_is_ticked_by_keyboard_and_not_without_the_tick(visit, console, kept, scheme, width):
    runs = ControlPaths(kept.state).runs
    run = asking_run(runs)
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    page.goto(f"{console}/runs/{run.run_id}")
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("In your words").focus()
    page.keyboard.type("it is empty")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.type") == "checkbox", "the browser asks for the tick"
    assert read_tick(RunStore(runs).of(run.run_id), 1, run.plan.digest) is None
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    tick = read_tick(RunStore(runs).of(run.run_id), 1, run.plan.digest)
    assert (tick.done, tick.by, tick.words) == (True, "ana", "it is empty")


@pytest.mark.parametrize(("scripts", "scheme", "width"), [(True, "light", 1200), (False, "dark", 360)])
def test_a_model_is_asked_by_keyboard_and_what_it_cites_is_one_click_away(
    visit, console, kept, model, scripts, scheme, width
):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 900}, java_script_enabled=scripts)
    page.goto(f"{console}/runs/{kept.kept}")
    assert page.locator("#opinion").count() == 0
    page.get_by_role("button", name="Ask the model").press("Enter")
    page.wait_for_url(f"{console}/runs/{kept.kept}#opinion")
    section = page.locator("#opinion")
    assert "not a finding" in section.inner_text()
    assert "<script>alert(1)</script>" in section.inner_text()
    assert len(model.requests) == 1
    assert accessible(page, width, scripts=scripts)
    section.get_by_role("link", name="event#/killed/0").press("Enter")
    page.wait_for_url(f"{console}/runs/{kept.kept}/evidence?at=*")
    assert "heap_bytes" in page.locator("pre").inner_text()
    assert accessible(page, width, scripts=scripts)


def accessible(page, width, *, scripts):
    """No violation that axe knows of, where it may run; nothing beside the window."""
    found = Axe().run(page).response["violations"] if scripts else []
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    return page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_report_of_a_run_opens_as_a_page_of_its_own_that_reaches_nothing(visit, console, kept):
    page = visit()
    page.goto(f"{console}/runs/{kept.undone}")
    page.get_by_role("link", name="The whole report").click()
    assert "UNDONE" in page.title()
    assert page.evaluate("window.origin") == "null"


def test_the_pages_speak_the_readers_language(visit, console):
    page = visit(locale="zh-TW")
    assert page.locator("h1").inner_text() == "總覽"
    page.goto(f"{console}/?lang=en")
    page.goto(f"{console}/runs")
    assert page.locator("h1").inner_text() == "Runs"
