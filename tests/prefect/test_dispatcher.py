"""The dispatcher with a real Prefect server; the host behind it is replayed from a case."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from osremed.core.clock import SystemClock
from osremed.core.journal import read_journal
from osremed.flows.intake import ensure_token
from osremed.flows.server import free_port, prefect_is_up
from osremed.flows.settings import ControlPaths, flow_run_of
from osremed.flows.verbs import publish_into
from osremed.gitops import live
from osremed.gitops.live import Home
from osremed.runbook.audit import verify
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator
from osremed.runbook.sealcheck import check_runs
from osremed.runbook.store import RunStore
from tests.prefect.conftest import RunningDispatcher, post, wait_for
from tests.support.acting import acts

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]
CONSOLE = "https://osremed.example"
CASE = "runbooks/near-oom/cases/policy-too-low.yaml"


def event(number, host="case-host", **changed):
    given = load_case(CASE).given.event
    document = {"id": f"e{number}", "host": host, "time_ns": time.time_ns(), **given}
    return {**document, **changed}


@pytest.fixture
def make(tmp_path, prefect_server):
    from osremed.flows.dispatcher import DispatcherSettings

    started = []

    def make(case=CASE, hosts=("case-host",), api_url=prefect_server.api_url, runbooks="runbooks"):
        paths = ControlPaths(str(tmp_path / "control"))
        host, store = ReplayedHost(load_case(case).given), RunStore(paths.runs)
        operator = Operator(host, store, SystemClock(), frozenset(hosts), restrict=acts)
        settings = DispatcherSettings(paths, runbooks, api_url, "127.0.0.1", free_port(), CONSOLE)
        running = RunningDispatcher(settings, operator, lambda run: publish_into(operator.store, run))
        running.store, running.paths = operator.store, paths
        started.append(running)
        return running

    yield make
    for running in started:
        if running._thread.is_alive():
            running.stop()


def ended(running, number=1):
    def look():
        runs = running.store.runs()[0]
        return runs if len([run for run in runs if run.ended]) >= number else None

    return wait_for(look, 90)


def decided(running):
    """What was decided about near-oom; the other runbooks want other events."""
    records = [entry.record for entry in read_journal(running.paths.decisions).entries]
    return [record for record in records if record.get("runbook") == "near-oom"]


def flow_runs(server, run_id):
    body = {"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}}
    return httpx.post(f"{server.api_url}/flow_runs/filter", json=body, timeout=30).json()


def test_an_event_becomes_one_run_that_prefect_shows_with_its_verdict_and_report(make, prefect_server):
    running = make().wait_ready()
    status, answer = running.send(event(1))
    assert (status, answer) == (200, {"acked": ["e1"], "refused": []})
    (run,) = ended(running)
    assert run.state is RunState.SUCCEEDED

    (shown,) = wait_for(lambda: [r for r in flow_runs(prefect_server, run.run_id) if r["state"]["name"] == "SUCCEEDED"])
    assert shown["name"] == "near-oom case-host"
    body = {"artifacts": {"key": {"any_": [f"run-{run.run_id}"]}}}
    (artifact,) = httpx.post(f"{prefect_server.api_url}/artifacts/filter", json=body, timeout=30).json()
    assert "data:image/svg+xml;base64," in artifact["data"]
    assert artifact["flow_run_id"] == shown["id"] == flow_run_of(running.store.of(run.run_id))
    body = {"artifacts": {"key": {"any_": [f"console-{run.run_id}"]}}}
    (link,) = httpx.post(f"{prefect_server.api_url}/artifacts/filter", json=body, timeout=30).json()
    assert (f"{CONSOLE}/runs/{run.run_id}" in link["data"], link["flow_run_id"]) == (True, shown["id"])
    with open(running.store.of(run.run_id).report, encoding="utf-8") as report:
        assert run.run_id in report.read()


def test_a_flow_run_says_by_tags_in_which_mode_and_under_which_commit_it_was_decided(make, prefect_server, tmp_path):
    """GitOps is swapped to another commit while the dispatcher serves: a run keeps the one it began under. Prefect is
    that of all tests here, so that these runs have events of their own."""
    home, first, second = Home(str(tmp_path / "gitops")), "a1" * 20, "b2" * 20
    rules = Path("runbooks/near-oom/runbook.yaml").read_bytes().replace(b"hosts: 25%", b"hosts: 2")
    go_live(home, rules, first)
    running = make(hosts=("case-host", "host-2"), runbooks=home.runbooks).wait_ready()
    running.send(event(1, id="tags-1"))
    ended(running)
    go_live(home, rules.replace(b"cooldown: 10m", b"cooldown: 11m"), second)
    wait_for(lambda: running.dispatcher._catalog["near-oom"].commit == second)
    running.send(event(2, "host-2", id="tags-2"))
    for run in sorted(ended(running, 2), key=lambda run: run.event.id):
        commit = {"tags-1": first, "tags-2": second}[run.event.id]
        assert run.rules_commit == commit
        (shown,) = wait_for(lambda run_id=run.run_id: flow_runs(prefect_server, run_id))
        assert {f"run:{run.run_id}", f"host:{run.host}", "mode:auto", f"commit:{commit[:12]}"} < set(shown["tags"])


def go_live(home, runbook, commit):
    """As the reconciler does it, without a repository."""
    with live.alone(home):
        files = {"runbooks/near-oom/runbook.yaml": runbook}
        name = live.adopt(home, live.stage(home, files), files)
        live.remember(home, {"set": name, "commit": commit})
        live.swap(home, name)


def test_the_same_event_twice_makes_one_run(make):
    running = make().wait_ready()
    first = event(1)
    assert running.send(first, first)[1]["acked"] == ["e1", "e1"]
    running.send(first)
    ended(running)
    assert len(running.store.runs()[0]) == 1


def test_a_second_event_of_the_same_host_is_refused_by_the_cooldown_and_the_decision_is_kept(make):
    running = make().wait_ready()
    running.send(event(1))
    ended(running)
    running.send(event(2))
    second = next(run for run in ended(running, 2) if run.event.id == "e2")
    assert second.state is RunState.REFUSED
    assert second.reason.startswith("cooldown: ")
    lines = wait_for(lambda: len(found := decided(running)) == 2 and found)
    assert [(line["event"], line["admitted"]) for line in lines] == [("e1", True), ("e2", False)]
    assert verify(running.paths.decisions).faults == ()
    sealed = check_runs(running.store, (running.paths.decisions,))
    assert (sealed.sealed, sealed.faults, sealed.open_ended, sealed.unsealed) == (2, (), (), 0)


def test_an_event_no_runbook_wants_starts_nothing_and_the_decision_says_why(make):
    running = make().wait_ready()
    running.send(event(1, attributes={"level": "low"}))
    (line,) = wait_for(lambda: decided(running))
    assert line["matched"] is False
    assert "is false" in line["why"]
    assert running.store.runs() == ((), ())


def test_rules_that_gitops_swaps_in_are_loaded_without_being_told(make, tmp_path):
    old = tmp_path / "old/near-oom"
    old.mkdir(parents=True)
    text = Path("runbooks/near-oom/runbook.yaml").read_text().replace("['medium', 'high']", "['nobody']")
    (old / "runbook.yaml").write_text(text)
    live, new = tmp_path / "live", tmp_path / "new"
    live.symlink_to(old.parent)
    running = make(runbooks=str(live)).wait_ready()
    running.send(event(1))
    (first,) = wait_for(lambda: decided(running))
    assert first["matched"] is False
    new.symlink_to(Path("runbooks").absolute())
    new.rename(live)
    wait_for(lambda: "gpu-xid" in running.dispatcher._catalog)
    running.send(event(2))
    assert wait_for(lambda: [line for line in decided(running) if line["event"] == "e2"])[0]["matched"] is True


def test_a_dispatcher_that_starts_again_remembers_what_a_window_had_counted(make, tmp_path):
    folder = tmp_path / "books/near-oom"
    folder.mkdir(parents=True)
    text = Path("runbooks/near-oom/runbook.yaml").read_text()
    trigger = "    throttle: {accumulate_within: 10m, threshold: 2}"
    (folder / "runbook.yaml").write_text(text.replace("\n\nguards:", f"\n{trigger}\n\nguards:"))
    first = make(runbooks=str(folder.parent)).wait_ready()
    first.send(event(1))
    (line,) = wait_for(lambda: decided(first))
    assert line["why"] == "1 of 2 within 10 min"
    first.stop()
    second = make(runbooks=str(folder.parent)).wait_ready()
    second.send(event(2))
    (run,) = ended(second)
    assert run.event.attributes["window"]["event_ids"] == ["e1", "e2"]


def test_a_storm_over_http_is_answered_event_by_event_and_begins_no_more_runs_than_the_rule_says(make, tmp_path):
    folder = tmp_path / "books/near-oom"
    folder.mkdir(parents=True)
    text = Path("runbooks/near-oom/runbook.yaml").read_text()
    (folder / "runbook.yaml").write_text(text.replace("storm: {max_runs: 20", "storm: {max_runs: 3"))
    hosts = [f"h{number}" for number in range(60)]
    running = make(hosts=hosts, runbooks=str(folder.parent)).wait_ready()
    events = [event(number, hosts[number % len(hosts)]) for number in range(600)]
    for begin in range(0, len(events), 200):
        status, answer = running.send(*events[begin : begin + 200])
        assert (status, len(answer["acked"])) == (200, 200)
    wait_for(lambda: len(decided(running)) >= len(events), 120)
    wait_for(lambda: all(run.ended for run in running.store.runs()[0]), 120)
    assert sorted(line["event"] for line in decided(running)) == sorted(each["id"] for each in events)
    let_in = [run for run in running.store.runs()[0] if run.admitted]
    assert 1 <= len(let_in) <= 3
    assert all(run.state is RunState.SUCCEEDED for run in let_in)
    assert len(read_journal(running.paths.intake).entries) == len(events)


def test_a_change_that_does_not_help_is_shown_as_undone_not_as_green(make, prefect_server):
    running = make("runbooks/near-oom/cases/no-help.yaml").wait_ready()
    running.send(event(1))
    (run,) = ended(running)
    assert run.state is RunState.UNDONE
    (shown,) = wait_for(lambda: [r for r in flow_runs(prefect_server, run.run_id) if r["state"]["name"] == "UNDONE"])
    assert shown["state"]["type"] == "FAILED"


def test_while_prefect_is_down_the_intake_refuses_and_stores_nothing(make):
    running = make(api_url=f"http://127.0.0.1:{free_port()}/api")
    status = wait_for(lambda: _status(running), 60)
    assert status == 503
    assert read_journal(running.paths.intake).entries == ()


def _status(running):
    try:
        return running.send(event(1))[0]
    except OSError:
        return None


def test_a_wrong_token_gets_nothing_in(make):
    running = make().wait_ready()
    assert post(running.url, {"events": [event(1)]}, "wrong")[0] == 401
    assert read_journal(running.paths.intake).entries == ()


def test_a_malformed_event_is_refused_by_name_and_the_others_get_in(make):
    running = make().wait_ready()
    _, answer = running.send({**event(1), "name": "Not A Name"}, event(2))
    assert answer["acked"] == ["e2"]
    assert answer["refused"][0]["id"] == "e1"
    assert "name 'Not A Name'" in answer["refused"][0]["why"]


def test_a_run_left_unfinished_by_a_dead_dispatcher_is_finished_by_the_next_one(make, prefect_server):
    running = make().wait_ready()
    entry = running.dispatcher._catalog["near-oom"]
    running.stop()
    from osremed.core.action import Outcome, Status
    from osremed.core.event import event_from_json
    from osremed.runbook.model import Admitted, Applied, Approved, Collected, Decided, Plan, PlannedStep

    opened = running.store.create(event_from_json(event(9)), entry, SystemClock())
    step = PlannedStep("fastoom_policy", {}, "medium", 60, 300, "", {"state": "present"}, {}, "diff")
    plan = Plan((step,), "d")
    for happening in (
        Admitted(()),
        Collected("b", {}),
        Decided((), plan),
        Approved("policy", "d", ()),
        Applied(0, Outcome(Status.OK, changed=True)),
    ):
        opened.record(happening, SystemClock())
    opened.close()

    again = make()
    (run,) = ended(again)
    assert run.state is RunState.UNDONE
    assert "stopped in VERIFYING" in run.reason


def test_a_dispatcher_told_to_end_in_the_middle_of_a_run_ends_and_leaves_the_run_to_the_next(tmp_path, prefect_server):
    paths, port = ControlPaths(str(tmp_path / "control")), free_port()
    os.makedirs(paths.state)
    token = ensure_token(paths.token)
    argv = [
        sys.executable,
        "-m",
        "tests.prefect.dispatcher_main",
        paths.state,
        prefect_server.api_url,
        str(port),
        "slow",
    ]
    process = subprocess.Popen(argv)
    try:
        wait_for(lambda: prefect_is_up(f"http://127.0.0.1:{port}/v1"), 120)
        post(f"http://127.0.0.1:{port}/v1/events", {"events": [event(1)]}, token)
        store = RunStore(paths.runs)
        wait_for(lambda: os.path.exists(os.path.join(paths.state, "held")), 120)
        assert [run.state for run in store.runs()[0]] == [RunState.COLLECTING]
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
    (run,) = store.runs()[0]
    assert not run.ended
