"""Artifacts in a real Prefect: what they say of themselves is drawn as Markdown, and words of hosts are none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest

from osremed.core.clock import SystemClock
from osremed.flows.settings import ControlPaths
from osremed.runbook.canary import Ended, Planned, WaveBegan
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import _line, begin, driving
from osremed.runbook.model import Refused
from osremed.runbook.operate import Operator
from osremed.runbook.store import RunStore
from tests.prefect.test_dispatcher import CASE
from tests.unit.runbook.conftest import make_event, make_run

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]
ID = "00112233445566ff"
HOSTILE = "<script>x</script> [sign in](http://evil.example) ![p](http://evil.example/p.png)\n## www.evil.example"
GITOPS = {
    "ready": True,
    "reason": "Applied",
    "message": HOSTILE,
    "conditions": [],
    "set": "",
    "commit": "",
    "detail": {},
    "wanted": {},
}


def told_of(server, key):
    """The newest artifact with this key."""
    body = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    return httpx.post(f"{server.api_url}/artifacts/filter", json=body, timeout=30).json()[0]


def is_plain(text):
    return "sign in" in text and not any(each in text for each in ("<script", "](", "://", "www.", "\n#", "!["))


def test_the_reason_of_a_run_is_no_markup(prefect_server, tmp_path):
    from osremed.flows.flow import show_run

    store, entry = RunStore(str(tmp_path)), load_entry("runbooks/near-oom/runbook.yaml")
    operator = Operator(ReplayedHost(load_case(CASE).given), store, SystemClock(), frozenset({"a"}))
    opened = store.create(make_event(1, "a"), entry, operator.clock)
    opened.record(Refused("approval", HOSTILE, ()), operator.clock)
    asyncio.run(show_run(operator, opened, entry.runbook, lambda _run: "the report"))
    opened.close()
    assert HOSTILE in opened.run.reason
    shown = told_of(prefect_server, f"run-{opened.run.run_id}")
    assert is_plain(shown["description"])
    tags = httpx.get(f"{prefect_server.api_url}/flow_runs/{shown['flow_run_id']}", timeout=30).json()["tags"]
    assert "mode:suggest" in tags, "nothing lets it act by itself"
    assert not any(tag.startswith("commit:") for tag in tags), "its rules are not of GitOps"


def test_the_first_tag_names_the_run_and_one_that_takes_another_back_always_asks(prefect_server):
    from osremed.flows.flow import run_tags

    run = make_run(1, "a")
    assert run_tags(run, unasked=True)[0] == f"run:{run.run_id}"
    assert "mode:auto" in run_tags(run, unasked=True)
    assert "mode:suggest" in run_tags(replace(run, undoes="f" * 16), unasked=True)


def test_why_a_canary_stopped_is_no_markup(prefect_server, tmp_path):
    from osremed.flows.canary_flow import show_canary

    canaries, entry = ControlPaths(str(tmp_path)).canaries, load_entry("runbooks/near-oom/runbook.yaml")
    begin(canaries, Planned(ID, "near-oom", entry.digest, ("a",), {}, 0.0, 0.0, "ann", 1), entry)
    with driving(canaries, ID) as journal:
        for line in (WaveBegan(("a",)), Ended(f"ben stopped it: {HOSTILE}")):
            journal.append(_line(line))
    asyncio.run(show_canary(canaries, ID))
    assert is_plain(told_of(prefect_server, f"canary-{ID}")["description"])


def test_what_a_look_at_git_found_is_no_markup(prefect_server, monkeypatch):
    from osremed.flows import gitops_flow

    async def found(_plane):
        return GITOPS

    async def nothing(_wanted):
        return ()

    monkeypatch.setattr(gitops_flow, "look", found)  # the look itself is another process
    monkeypatch.setattr(gitops_flow, "bring_objects", nothing)
    told = []
    asyncio.run(gitops_flow.gitops_flow(gitops_flow.Plane("", "", "", ""), told.append)(return_state=True))
    assert told == [GITOPS]
    artifact = told_of(prefect_server, gitops_flow.FLOW)
    assert is_plain(artifact["description"])
    assert is_plain(artifact["data"].replace("## Applied", ""))
