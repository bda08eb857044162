"""A dispatcher whose run waits for a person: shown in Prefect, and still waiting when another dispatcher takes over."""

import re
from pathlib import Path

import httpx
import pytest

from osremed.flows.verbs import runs_tick
from osremed.runbook.audit import acting_as
from osremed.runbook.model import RunState
from tests.prefect.conftest import wait_for
from tests.prefect.test_dispatcher import ended, event, flow_runs, make  # noqa: F401 a fixture

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]


def waits_for(running, number):
    def look():
        runs = running.store.runs()[0]
        return runs[0] if runs and runs[0].asked and runs[0].asked.number == number else None

    return wait_for(look, 90)


def test_a_run_waits_for_a_person_across_dispatchers_and_prefect_says_what_is_asked(make, prefect_server, tmp_path):  # noqa: F811
    folder = tmp_path / "books" / "asks"
    folder.mkdir(parents=True)
    text = Path("tests/crash/asks.yaml").read_text()
    text = re.sub(r"  - .*fastoom_policy.*\n", "", text)  # the replayed host of another dispatcher remembers nothing
    text = text.replace('{when: "true", action: manual', '{id: policy, when: "true", action: manual')
    (folder / "runbook.yaml").write_text(text.replace("take_back: nothing", "take_back: Leave it"))
    first = make(runbooks=str(folder.parent)).wait_ready()
    first.send(event(1))
    asked = waits_for(first, 1)
    assert asked.state is RunState.AWAITING_PERSON
    first.stop()
    assert first.store.load(asked.run_id)[0].asked == asked.asked

    second = make(runbooks=str(folder.parent)).wait_ready()
    assert waits_for(second, 1).asked == asked.asked, "who starts again gives no more time"
    for number, words in ((1, "looked"), (2, "told")):
        waits_for(second, number)
        with acting_as("ana"):
            runs_tick(run_id=asked.run_id, step=number, state=second.paths.state, words=words)
    (run,) = ended(second)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert [(each.by, each.words) for each in run.answered] == [("ana", "looked"), ("ana", "told")]

    shown = [each["id"] for each in flow_runs(prefect_server, run.run_id)]
    body = {"logs": {"flow_run_id": {"any_": shown}}}

    def told():
        lines = httpx.post(f"{prefect_server.api_url}/logs/filter", json=body, timeout=30).json()
        return "a person is asked to do step 1: Look at node-1" in [line["message"] for line in lines]

    wait_for(told)
