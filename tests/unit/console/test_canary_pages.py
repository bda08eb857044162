"""The pages of canaries: each wave, each host's run, and who may stop one."""

from __future__ import annotations

import re
from html import unescape

import pytest

from osremed.core.journal import read_journal
from osremed.flows.settings import ControlPaths
from osremed.runbook.canary import Ended, HostEnded, Planned, WaveBegan
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import _line, begin, driving, event_id_of, read_stop
from osremed.runbook.model import RunState
from osremed.runbook.store import RunStore
from tests.support.console_state import HOSTILE, ROOT, _operator, _run, make_event
from tests.unit.console.test_pages import enter, form_of

__all__ = ["enter"]
ID = "0123456789abcdef"


@pytest.fixture
def canary(kept, tmp_path):
    """One that has had its first wave and is in its second: a host that ended, one with a run that waits for a person
    to look, and one that has none yet. More lines by calling it."""
    paths, entry = ControlPaths(kept.state), load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
    hosts = ("web-1", "web-7", "web-8", "web-9")
    begin(
        paths.canaries,
        Planned(ID, "near-oom", entry.digest, hosts, {}, 0.1, 30.0, HOSTILE, 1_700_000_000 * 10**9),
        entry,
    )
    run = _run(_operator(tmp_path, kept.state, "web-7", helps=True), make_event(event_id_of(ID), "web-7"), entry)

    def more(*lines):
        with driving(paths.canaries, ID) as journal:
            for line in lines:
                journal.append(_line(line))

    more(
        WaveBegan(("web-1",)), HostEnded("web-1", kept.kept, RunState.SUCCEEDED, HOSTILE), WaveBegan(("web-7", "web-8"))
    )
    more.run, more.paths = run, paths
    return more


def test_a_canary_is_listed_and_its_page_shows_each_wave_with_each_hosts_run(enter, canary, kept):
    client = enter("read")
    listed = client.get("/canaries").text
    assert f'<a href="/canaries/{ID}">2023-11-14T22:13:20' in listed
    page = client.get(f"/canaries/{ID}").text
    for text in (listed, page):
        assert "<script>alert" not in text
        assert "\x1b" not in text
    assert re.findall(r"<h2>(Wave \d)", page) == ["Wave 1", "Wave 2"]
    assert f'<a href="/runs/{kept.kept}">' in page
    assert f'<a href="/runs/{canary.run.run_id}">' in page  # its run has not been told to the canary yet
    assert "waits for its turn" in page
    assert "Not touched" in page
    assert 'href="/hosts/web-9"' in page


def test_a_run_of_a_canary_leads_to_it_and_any_other_to_none(enter, canary, kept):
    client = enter("read")
    assert f'<a href="/canaries/{ID}">' in client.get(f"/runs/{canary.run.run_id}").text
    assert 'href="/canaries/' not in client.get(f"/runs/{kept.kept}").text


def test_who_may_run_stops_a_canary_from_its_page_and_who_may_only_read_is_not_offered_to(enter, canary):
    client = enter("read")
    assert "canary_stop" not in client.get(f"/canaries/{ID}").text
    client = enter("ana")
    fields = form_of(client.get(f"/canaries/{ID}").text, "canary_stop")
    sent = client.post("/act/canary_stop", data={**fields, "reason": "wrong release"})
    assert (sent.status_code, sent.headers["location"]) == (303, f"/canaries/{ID}")
    stop = read_stop(canary.paths.canaries, ID)
    assert (stop.by, stop.why) == ("ana", "wrong release")
    page = client.get(f"/canaries/{ID}").text
    assert "ana: wrong release" in page
    assert "canary_stop" not in page
    assert [each.record["verb"] for each in read_journal(canary.paths.hands).entries][-1] == "canary-stop"


def test_one_that_has_ended_says_why_and_offers_nothing_and_reloads_no_more(enter, canary):
    client = enter("ana")
    assert "data-live" in client.get(f"/canaries/{ID}").text
    canary(HostEnded("web-7", canary.run.run_id, canary.run.state, "x"), Ended("ben stopped it: enough"))
    page = client.get(f"/canaries/{ID}").text
    assert "ben stopped it: enough" in page
    assert "canary_stop" not in page
    assert "data-live" not in page
    assert "untouched" in page


@pytest.mark.parametrize(
    ("language", "words"), [("zh_CN", ("金丝雀发布", "批次", "停止")), ("zh_TW", ("金絲雀部署", "批次", "停止"))]
)
def test_the_pages_of_canaries_are_in_both_forms_of_chinese(enter, canary, language, words):
    page = unescape(enter("ana").get(f"/canaries/{ID}?lang={language}").text)
    assert all(word in page for word in words)
    assert "Wave" not in page
    assert ">under way<" not in page


def test_a_canary_that_is_not_there_is_a_page_that_says_so_and_a_damaged_one_is_told_on_the_list(enter, canary):
    client = enter("read")
    assert client.get("/canaries/ffffffffffffffff").status_code == 404
    assert client.get("/canaries/..%2f..%2fetc").status_code == 404
    with open(f"{canary.paths.canaries}/{ID}/journal/{0:020d}.jsonl", "r+b") as file:
        file.write(b"xx")
    assert "A canary cannot be read:" in client.get("/canaries").text
    assert RunStore(canary.paths.runs).runs()[1] == ()


def test_the_page_of_canaries_has_a_hundred_and_leads_to_older_ones(enter, kept):
    paths, entry = ControlPaths(kept.state), load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))
    for number in range(1, 103):
        planned = Planned(f"{number:016x}", "near-oom", entry.digest, ("a",), {}, 0.0, 0.0, "ann", at_ns=number)
        begin(paths.canaries, planned, entry)
    client = enter("read")
    page = client.get("/canaries").text
    assert page.count('href="/canaries/') == 100
    older = re.search(r'href="(/canaries\?before=[^"]*)"', page)[1]
    page = client.get(older).text
    assert re.findall(r'href="/canaries/(\w+)"', page) == [f"{2:016x}", f"{1:016x}"]
    assert "/canaries?before" not in page
    assert "no canary" in client.get("/canaries?before=nonsense").text
    assert "更早的" in client.get("/canaries?lang=zh_TW").text
