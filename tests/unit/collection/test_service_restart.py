"""A restart counts only when the service is healthy after it; on a stand-in for systemctl."""

from __future__ import annotations

import http.server
import json
import os
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _health, _systemd
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.modules import service_restart

#: Keeps one unit in a file: `show` prints it, but not the times that are in `deaf` (the first is 1); `restart` gives it
#: a new pid and the next of the states it is to have.
SYSTEMCTL = """#!{python} -IS
import json, sys
path = {path!r}
facts = json.load(open(path))
if sys.argv[1] == "restart":
    facts["MainPID"] += 1
    facts["restarted"] = facts.get("restarted", 0) + 1
    if facts["then"]:
        facts.update(facts["then"].pop(0))
    json.dump(facts, open(path, "w"))
    sys.exit(0)
facts["shown"] = facts.get("shown", 0) + 1
json.dump(facts, open(path, "w"))
if facts["shown"] in facts.get("deaf", ()):
    sys.exit("Failed to get properties: Connection timed out")
for key, value in facts.items():
    if isinstance(value, (int, str)):
        print("%s=%s" % (key, value))
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with one service. However short the wait for health is, a slow machine has all the time it needs to start
    commands: the stand-in for systemctl, the rollback, and what asks for health."""
    restart, run = _systemd.restart, service_restart.run_bounded
    monkeypatch.setattr(_systemd, "restart", lambda name, timeout_s: restart(name, 60.0))
    monkeypatch.setattr(service_restart, "run_bounded", lambda argv, timeout_s, max_bytes: run(argv, 60.0, max_bytes))
    monkeypatch.setattr(_health, "LEAST_ASK_S", 60.0)
    path = tmp_path / "unit.json"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(SYSTEMCTL.format(python=sys.executable, path=str(path)))
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(**facts):
        unit = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "MainPID": 100, "NRestarts": 0}
        path.write_text(
            json.dumps({**unit, "ControlGroup": "/system.slice/x.service", "Result": "success", "then": [], **facts})
        )

    def ask(check=False, **given):
        spec = service_restart.argument_spec()
        health = {name: facts.get("default") for name, facts in spec["health"]["options"].items()}
        given = {
            "name": "x.service",
            "timeout_s": 3.0,
            **given,
            "health": {**health, "hold_s": 0.0, **given.get("health", {})},
        }
        return service_restart.act({name: given.get(name, facts.get("default")) for name, facts in spec.items()}, check)

    put()
    return SimpleNamespace(put=put, ask=ask, facts=lambda: json.loads(path.read_text()), root=tmp_path)


def test_a_service_is_previewed_restarted_and_told_before_and_after(host):
    preview = host.ask(check=True)
    assert "restarted" not in host.facts()
    real = host.ask(expect_main_pid=preview["as_seen"]["expect_main_pid"])
    assert (real["before"]["main_pid"], real["after"]["main_pid"], real["healthy"]) == (100, 101, True)
    assert (real["diff"], real["previous"], preview["healthy"]) == (preview["diff"], {}, None)


def test_a_service_that_was_started_just_now_is_refused(host):
    host.put(InactiveExitTimestampMonotonic=round((time.monotonic() - 20) * 1e6))
    for check in (True, False):
        with pytest.raises(ActionFailed, match=r"started \d+ s ago") as refused:
            host.ask(check=check)
        assert 20 <= refused.value.facts["before"]["started_ago_s"] < 300
        assert "min_interval_s" in refused.value.facts["refused"]
    assert "restarted" not in host.facts()
    assert host.ask(min_interval_s=10.0)["changed"]


def test_someone_elses_restart_since_the_preview_is_a_conflict(host):
    with pytest.raises(ActionFailed, match="someone else") as conflict:
        host.ask(expect_main_pid=99)
    assert conflict.value.facts["conflict"]
    assert "restarted" not in host.facts()


@pytest.mark.parametrize("state", ["not-found", "masked", "bad-setting"])
def test_a_unit_that_systemd_has_not_loaded_is_refused(host, state):
    host.put(LoadState=state)
    with pytest.raises(ActionFailed, match=state):
        host.ask()


def test_a_service_that_carries_this_very_task_is_refused(host):
    with open("/proc/self/cgroup") as stream:
        paths = [line.strip().split(":", 2)[2] for line in stream]
    own = next((path for path in paths if path != "/"), None)
    if own is None:
        pytest.skip("this process is in no control group but the root")
    host.put(ControlGroup=own)
    with pytest.raises(ActionFailed, match="this very task"):
        host.ask()


def test_a_service_that_does_not_come_back_is_a_failure_that_has_changed_the_host(host):
    host.put(then=[{"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}])
    with pytest.raises(ActionFailed, match=r"x.service is failed \(failed, result exit-code\)") as failed:
        host.ask(timeout_s=1.0)
    assert (failed.value.facts["changed"], failed.value.facts["rolled_back"]) == (True, False)


def test_a_service_that_ends_again_and_again_is_not_healthy(host):
    def count(unit):
        return _systemd.why_not_active(unit, unit._replace(n_restarts=0))

    unit = _systemd.look_at("x.service")
    assert count(unit) == ""
    assert "restarted by systemd 3 times" in count(unit._replace(n_restarts=3))


@pytest.mark.parametrize(("then", "rolled_back"), [({"ActiveState": "active"}, True), ({}, False)])
def test_a_rollback_is_run_and_the_service_restarted_once_more(host, then, rolled_back):
    host.put(then=[{"ActiveState": "failed"}, then])
    mark = host.root / "rolled"
    with pytest.raises(ActionFailed, match="is failed") as failed:
        host.ask(timeout_s=1.0, rollback=["/bin/sh", "-c", f"echo back > {mark}"])
    assert mark.read_text() == "back\n"
    assert (failed.value.facts["rolled_back"], host.facts()["restarted"]) == (rolled_back, 2)


def test_a_look_without_an_answer_right_after_the_restart_runs_the_rollback(host):
    host.put(deaf=[2])
    mark = host.root / "rolled"
    with pytest.raises(ActionFailed, match=r"Connection timed out.*rolled back and is healthy") as failed:
        host.ask(rollback=["/bin/sh", "-c", f"echo back > {mark}"])
    assert mark.read_text() == "back\n"
    assert (failed.value.facts["changed"], failed.value.facts["rolled_back"]) == (True, True)
    assert host.facts()["restarted"] == 2


def test_a_look_without_an_answer_while_health_is_waited_for_is_made_again(host):
    host.put(deaf=[3])
    result = host.ask(timeout_s=60.0)
    assert (result["healthy"], host.facts()["restarted"], host.facts()["shown"]) == (True, 1, 5)


def test_health_that_systemd_never_tells_runs_the_rollback(host):
    host.put(deaf=list(range(3, 100)))
    with pytest.raises(ActionFailed, match=r"not healthy: systemd does not tell .* did not help") as failed:
        host.ask(timeout_s=0.5, rollback=["/bin/true"])
    assert (failed.value.facts["changed"], failed.value.facts["rolled_back"]) == (True, False)


def test_a_healthy_service_that_systemd_does_not_tell_of_after_all_says_that_it_was_restarted(host):
    host.put(deaf=[4])
    with pytest.raises(ActionFailed, match="was restarted and was healthy, but systemd does not tell") as failed:
        host.ask()
    assert (failed.value.facts["changed"], host.facts()["restarted"]) == (True, 1)
    assert failed.value.facts["evidence"]


@pytest.fixture
def answering():
    """An HTTP server on the loopback that answers with the statuses in its list, the last one for ever."""
    statuses = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield SimpleNamespace(
        url=f"http://127.0.0.1:{server.server_port}/healthz", statuses=statuses, port=server.server_port
    )
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_health_is_waited_for(host, answering):
    answering.statuses[:] = [503, 503, 204]
    command = [sys.executable, "-IS", "-c", "pass"]
    result = host.ask(timeout_s=120.0, health={"url": answering.url, "port": answering.port, "command": command})
    assert result["healthy"]
    assert answering.statuses == [204]


def test_what_is_missing_is_told(host, answering):
    answering.statuses[:] = [500]
    with pytest.raises(ActionFailed, match="answers 500"):
        host.ask(timeout_s=0.5, health={"url": answering.url})
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ActionFailed, match=r"port .*refused"):
            host.ask(timeout_s=0.5, health={"port": closed.getsockname()[1]})
    with pytest.raises(ActionFailed, match="exit code 3: no"):
        host.ask(
            timeout_s=1.0, health={"command": [sys.executable, "-IS", "-c", "import sys; print('no'); sys.exit(3)"]}
        )


def test_health_must_hold_without_a_break():
    """Well, then not, then well for good: what counts begins at the third answer."""
    answers = iter(["", "gone"])
    verdict = _health.wait_for([lambda left_s: next(answers, "")], 20.0, 0.6)
    assert verdict.healthy
    assert verdict.waited_s >= 0.6 + 2 * _health.POLL_S - 0.001  # it is rounded


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "x"}, {"name": "--user"}, {"name": "x.timer"}, {"timeout_s": 0.0}, {"timeout_s": 601.0},
        {"min_interval_s": -1.0}, {"health": {"url": "file:///etc/passwd"}}, {"health": {"port": 0}},
        {"health": {"url": "http://me:secret@h/"}},
        {"health": {"hold_s": 9.0}}, {"rollback": []}, {"health": {"command": [""]}}, {"health": {"url": "http://h:x/"}},
    ],
)  # fmt: skip
def test_bad_options_are_named_and_restart_nothing(host, bad):
    with pytest.raises(ActionFailed) as error:
        host.ask(**bad)
    assert "secret" not in str(error.value)
    assert "restarted" not in host.facts()
