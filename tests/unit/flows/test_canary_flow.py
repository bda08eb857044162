"""What Prefect is told of a canary: words of hosts stay words, an old one is not shown, a broken one is left out."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from osremed.flows import canary_flow
from osremed.flows.canary_flow import CanaryShow, as_markdown, is_shown, prefect_state
from osremed.flows.settings import ControlPaths
from osremed.runbook.canary import Ended, HostEnded, Planned, WaveBegan, fold
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import _line, begin, driving, place_of
from osremed.runbook.model import RunState

ID = "0123456789abcdef"
HOSTILE = "<script>|[x](http://evil)\n## no"
LINES = (WaveBegan(("a",)), HostEnded("a", "f" * 16, RunState.UNDONE, HOSTILE), Ended(HOSTILE))


def planned(at_ns=1):
    return Planned(ID, "near-oom", "d" * 64, ("a", "b"), {}, 0.0, 0.0, "ann", at_ns)


@pytest.fixture
def canaries(tmp_path):
    """canaries(at_ns, *lines) -> where the canary lies."""

    def make(at_ns, *lines):
        path = ControlPaths(str(tmp_path)).canaries
        begin(path, planned(at_ns), load_entry("runbooks/near-oom/runbook.yaml"))
        with driving(path, ID) as journal:
            for line in lines:
                journal.append(_line(line))
        return path

    return make


def test_words_of_hosts_are_no_markup_and_a_run_leads_to_its_page():
    told = as_markdown(fold([planned(), *LINES]), "https://osremed.example")
    assert f"[{'f' * 16}](https://osremed.example/runs/{'f' * 16})" in told
    assert "<script>" not in told
    assert "http://evil" not in told
    assert "\n## no" not in told
    (row,) = (line for line in told.split("\n") if line.startswith("| a |"))
    assert row.count("|") == 5
    assert "## Untouched" in told


def test_a_stopped_canary_is_not_green():
    assert (prefect_state(fold([planned(), *LINES])).name, prefect_state(fold([planned(), *LINES])).type.value) == (
        "STOPPED",
        "FAILED",
    )
    assert prefect_state(fold([planned(), Ended("")])).type.value == "COMPLETED"


def test_a_canary_is_shown_until_prefect_was_told_of_its_end_and_one_from_before_is_not(canaries):
    path = canaries(1, *LINES)
    assert not is_shown(path, ID)
    with open(place_of(path, ID, "shown"), "w"):
        pass
    assert is_shown(path, ID)


def test_one_that_ended_before_canaries_were_shown_stays_so_and_one_under_way_is_shown(canaries):
    path = canaries(0)
    assert not is_shown(path, ID)
    with driving(path, ID) as journal:
        journal.append(_line(Ended("")))
    assert is_shown(path, ID)


def test_when_prefect_fails_a_canary_is_shown_anew_later_and_one_that_cannot_be_read_never(
    canaries, monkeypatch, capfd
):
    path, asked = canaries(1), []

    async def fails(*_):
        asked.append(1)
        raise httpx.ConnectError("no")

    monkeypatch.setattr(canary_flow, "end_abandoned", fails)
    monkeypatch.setattr(canary_flow, "_AGAIN_S", 0.0)

    async def looked(show):
        show.look()
        show.look()
        tasks = show.tasks
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        return len(tasks)

    async def twice():
        show = CanaryShow(path)
        return [await looked(show), await looked(show)]

    assert asyncio.run(twice()) == [1, 1]
    assert len(asked) == 2
    assert capfd.readouterr().err.count("Prefect failed, the canary goes on") == 2
    with open(f"{path}/{ID}/journal/{0:020d}.jsonl", "r+b") as file:
        file.write(b"xx")
    assert asyncio.run(twice()) == [1, 0]
    assert len(asked) == 2
