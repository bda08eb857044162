"""From what is on disk to a receiver: once spooled never lost, in order, and never twice by the same id."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import contextlib
import json
import smtplib
import subprocess
import sys
import threading
import time

import pytest
import requests

from osremed.cli.main import main
from osremed.core.clock import SystemClock
from osremed.core.errors import BadInput
from osremed.core.journal import Cursor, Journal
from osremed.flows.settings import ControlPaths
from osremed.notify import serve as serving
from osremed.notify import spool as spooling
from osremed.notify import verbs
from osremed.notify.follow import Follower
from osremed.notify.message import Kind, Message, digest_of
from osremed.notify.policy import Limit, Target
from osremed.notify.send import Failed, Sent, send
from osremed.notify.spool import GIVE_UP_S, Spool, pause_s, waiting
from osremed.runbook.approvals import write_approval
from osremed.runbook.model import PersonAnswered
from osremed.runbook.store import RunStore
from tests.support.answers import fits
from tests.support.asking import asking_run
from tests.support.console_state import ROOT, make_event, past
from tests.unit.notify.test_message import EVIL
from tests.unit.spoken import spoken


def _message(number=1, **given):
    plain = {
        "kind": Kind.TEST,
        "time_ns": time.time_ns(),
        "host": "web-1",
        "severity": "warning",
        "title": "t",
        "lines": ("l",),
    }
    return Message(**{"id": f"m-{number}", **plain, **given})


@contextlib.contextmanager
def _served(policy, state):
    stop, thread = threading.Event(), None
    try:
        thread = threading.Thread(target=serving.serve, args=(policy, state, stop))
        thread.start()
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def _telling(spool):
    stop = threading.Event()
    thread = threading.Thread(target=spool.tell, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        spool.close()


def _until(holds, within_s=30):
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def ops(policy, secrets):
    target = policy().targets["ops"]
    return lambda message: send(target, message, None)


# One attempt


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (204, {}, Sent()),
        (500, {}, Failed("HTTP 500")),
        (429, {"retry-after": "7"}, Failed("HTTP 429", after_s=7.0)),
        (503, {"retry-after": "999999"}, Failed("HTTP 503", after_s=3600.0)),
        (400, {}, Failed("HTTP 400", for_good=True)),
        (302, {"location": "http://127.0.0.1:1/"}, Failed("HTTP 302", for_good=True)),
    ],
)
def test_what_a_receiver_answers_says_whether_to_try_again(receiver, ops, status, headers, expected):
    receiver.answers = [(status, headers)]
    assert ops(_message()) == expected
    assert len(receiver.requests) == 1


def test_why_it_failed_never_holds_the_address(ops, monkeypatch):
    monkeypatch.setenv("OPS_URL", "http://127.0.0.1:9/secret-token")
    assert ops(_message()) == Failed("ConnectError")
    monkeypatch.setenv("OPS_URL", "http://hooks.example/secret-token")
    assert "secret-token" not in ops(_message()).why
    monkeypatch.delenv("OPS_URL")
    assert ops(_message()) == Failed("nobody says what OPS_URL is")


def test_an_alertmanager_gets_its_alerts_at_its_api(receiver, policy, secrets):
    assert send(policy().targets["alerts"], _message(), "https://osremed.example") == Sent()
    path, _, body = receiver.requests[0]
    assert path == "/api/v2/alerts"
    assert json.loads(body)[0]["labels"]["alertname"] == "OsremedTest"


_CHATS = {
    "slack": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general",
    "teams": "workflows://example.com:443/643a8ca0c5d34a6c9d6e1c4c5a5d5b3a/signature-of-teams",
    "dingtalk": "dingtalk://abcd1234abcd1234",
    "feishu": "feishu://abcd1234",
}


@pytest.mark.parametrize("name", list(_CHATS))
def test_a_chat_gets_plain_text_and_no_mention_or_link_of_a_host(name, monkeypatch):
    posted = []

    def request(_session, method, url, data=None, **more):
        posted.append(data)
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"ok" if name == "slack" else b'{"code": 0, "errcode": 0}'
        return answer

    monkeypatch.setattr(requests.Session, "request", request)
    monkeypatch.setattr("apprise.plugins.base.NotifyBase.throttle", lambda *_, **__: None)
    monkeypatch.setenv("CHAT_URL", _CHATS[name])
    event = make_event("e", "web-1", killed=[{"pid": 7, "name": EVIL, "why": EVIL}])
    message = serving_message(event)
    assert send(Target.model_validate({"chat": {"url_from": "CHAT_URL"}}), message, None) == Sent()
    shown = json.dumps(json.loads(posted[0]), ensure_ascii=False)
    assert "web-1" in shown
    for mark in ("<!channel>", "<at ", "@all", "http://evil", "](", "\\u001b"):
        assert mark not in shown


def serving_message(event):
    from osremed.notify.message import of_intervention

    return of_intervention(event)


def test_a_mail_has_no_header_of_a_host(monkeypatch):
    mails = []

    class Smtp:
        def __init__(self, *_, **__):
            pass

        def sendmail(self, _from, to, text, *_, **__):
            mails.append((to, text))

        def __getattr__(self, _name):
            return lambda *_, **__: None

    monkeypatch.setattr(smtplib, "SMTP", Smtp)
    monkeypatch.setattr(smtplib, "SMTP_SSL", Smtp)
    monkeypatch.setattr("apprise.plugins.base.NotifyBase.throttle", lambda *_, **__: None)
    monkeypatch.setenv("CHAT_URL", "mailto://127.0.0.1:25?from=osremed@example.org&to=ops@example.org")
    event = make_event("e", "web-1", killed=[{"pid": 7, "name": EVIL, "why": EVIL}])
    assert send(Target.model_validate({"chat": {"url_from": "CHAT_URL"}}), serving_message(event), None) == Sent()
    ((to, text),) = mails
    assert to == ["ops@example.org"]
    head = text.partition("\n\n")[0] if isinstance(text, str) else text.partition(b"\n\n")[0].decode()
    assert not any(line.lower().startswith("bcc") for line in head.splitlines())


# The spool


def test_what_waits_is_told_in_order_and_a_failure_holds_the_rest_up(tmp_path, monkeypatch):
    monkeypatch.setattr(spooling, "pause_s", lambda _: 0.01)
    told, fails = [], [Failed("x"), Failed("y")]

    def attempt(message):
        if message.id == "m-1" and fails:
            return fails.pop()
        told.append(message.id)
        return Sent()

    spool = Spool(str(tmp_path / "ops"), attempt)
    for number in (1, 2, 3):
        spool.put(_message(number))
    with _telling(spool):
        _until(lambda: len(told) == 3)
    assert told == ["m-1", "m-2", "m-3"]
    assert waiting(str(tmp_path / "ops")).waiting == 0


def test_what_was_spooled_is_told_after_a_crash(tmp_path):
    first = Spool(str(tmp_path / "ops"), lambda _: Failed("away"))
    first.put(_message(1))
    first.close()
    assert waiting(str(tmp_path / "ops")).waiting == 1
    told = []
    second = Spool(str(tmp_path / "ops"), lambda message: told.append(message.id) or Sent())
    with _telling(second):
        _until(lambda: told)
    assert told == ["m-1"]


def test_what_is_refused_for_good_or_too_old_is_kept_aside_and_the_rest_goes_on(tmp_path, monkeypatch):
    told = []

    def attempt(message):
        told.append(message.id)
        return (
            Failed("HTTP 400", for_good=True)
            if message.id == "m-1"
            else Failed("HTTP 500")
            if message.id == "m-2"
            else Sent()
        )

    spool = Spool(str(tmp_path / "ops"), attempt)
    spool.put(_message(1))
    with monkeypatch.context() as yesterday:
        yesterday.setattr(time, "time_ns", lambda now=time.time_ns: now() - round((GIVE_UP_S + 60) * 1e9))
        spool.put(_message(2))
    spool.put(_message(3))
    with _telling(spool):
        _until(lambda: "m-3" in told)
    found = waiting(str(tmp_path / "ops"))
    assert (found.waiting, found.given_up) == (0, 2)


@pytest.mark.parametrize("ahead_s", [-25 * 3600, 10 * 365 * 24 * 3600])
def test_how_long_a_message_waits_is_counted_by_the_spool_and_not_by_the_clock_of_its_host(
    tmp_path, monkeypatch, ahead_s
):
    monkeypatch.setattr(spooling, "pause_s", lambda _: 0.01)
    told, fails = [], [Failed("ConnectError")]
    spool = Spool(str(tmp_path / "ops"), lambda each: fails.pop() if fails else told.append(each.id) or Sent())
    spool.put(_message(1, time_ns=time.time_ns() + ahead_s * 10**9))
    with _telling(spool):
        _until(lambda: waiting(str(tmp_path / "ops")).waiting == 0)
    assert (told, waiting(str(tmp_path / "ops")).given_up) == (["m-1"], 0)


def test_a_message_put_while_the_clock_was_ahead_is_given_up_after_a_day_of_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(spooling, "pause_s", lambda _: 0.01)
    spool = Spool(str(tmp_path / "ops"), lambda _: Failed("HTTP 500"))
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda now=time.time_ns: now() + 10**17)
        spool.put(_message(1))
    monkeypatch.setattr(spooling, "GIVE_UP_S", 0.2)
    with _telling(spool):
        _until(lambda: waiting(str(tmp_path / "ops")).given_up == 1)


def _told_of(tmp_path, count, limit, **last):
    told = []
    spool = Spool(str(tmp_path / "chat"), lambda message: told.append(message) or Sent(), limit)
    for number in range(count):
        spool.put(_message(number))
    if last:
        spool.put(_message(count, **last))
    return spool, told


def test_a_flood_is_one_message_and_a_few_are_each_told(tmp_path):
    spool, told = _told_of(tmp_path, 50, Limit(messages=3, per="10m"))
    with _telling(spool):
        _until(lambda: told)
        for number in (101, 102):
            spool.put(_message(number))
        _until(lambda: len(told) == 3)
    assert [each.kind for each in told] == [Kind.DIGEST, Kind.TEST, Kind.TEST]
    assert told[0].title.startswith("50 messages of osremed: 50 test")
    assert "and 30 more" in told[0].lines[-1]


def test_above_the_limit_only_what_needs_a_person_is_told_at_once(tmp_path):
    spool, told = _told_of(tmp_path, 2, Limit(messages=2, per="10m"))
    with _telling(spool):
        _until(lambda: len(told) == 2)
        spool.put(_message(7))
        _until(lambda: waiting(str(tmp_path / "chat")).waiting == 1)  # told comes before the cursor
        spool.put(_message(8, severity="critical", title="bad"))
        _until(lambda: len(told) == 3)
    assert (told[2].severity, told[2].lines) == ("critical", ("bad", "t"))


def test_the_same_messages_are_the_same_digest():
    several = [_message(1), _message(2)]
    assert digest_of(several).id == digest_of(several).id != digest_of(several[:1]).id


def test_a_line_that_is_no_message_is_kept_aside_and_costs_no_other(tmp_path):
    told = []
    spool = Spool(str(tmp_path / "chat"), lambda message: told.append(message.id) or Sent(), Limit())
    spool.put(_message(1))
    spool._queue.append({"kind": "run"})
    spool.put(_message(2))
    with _telling(spool):
        _until(lambda: len(told) == 2)
    assert told == ["m-1", "m-2"]
    assert waiting(str(tmp_path / "chat")).given_up == 1


def test_pauses_grow_to_five_minutes_and_no_further():
    assert [pause_s(each) for each in (0, 1, 2, 20, 10_000)] == [1, 2, 4, 300, 300]


# The whole


@pytest.fixture
def plane(tmp_path):
    with past(tmp_path) as kept:
        yield kept


def test_history_is_told_to_nobody_and_what_comes_is(plane, receiver, policy, secrets):
    paths = ControlPaths(plane.state)
    with _served(policy(), plane.state):
        _until(lambda: paths.state and Cursor(f"{paths.state}/notify/intake.cursor").load() >= 0)
        intake = Journal(paths.intake)
        intake.append(make_event("e-new", "web-9").as_json())
        intake.close()
        receiver.wait_for(1)
        store = RunStore(paths.runs)
        write_approval(store.of(plane.waiting), store.load(plane.waiting)[0], approved=False, by="ben", reason=EVIL)
        requests_ = receiver.wait_for(2)
    said = [json.loads(body) for _, _, body in requests_]
    assert [each["id"] for each in said] == ["event-e-new", f"run-{plane.waiting}-REFUSED"]
    assert said[1]["ends"] == "AWAITING_APPROVAL"
    assert "denied by ben" in said[1]["lines"][0]


def test_a_notifier_that_starts_again_tells_what_came_meanwhile_once(plane, receiver, policy, secrets):
    paths = ControlPaths(plane.state)
    home = spooling.folder(plane.state)
    with _served(policy(), plane.state):
        _until(lambda: Cursor(f"{home}/intake.cursor").load() >= 0)
    intake = Journal(paths.intake)
    intake.append(make_event("e-new", "web-9").as_json())
    intake.close()
    for _ in range(2):
        with _served(policy(), plane.state):
            receiver.wait_for(1)
            _until(lambda: waiting(f"{home}/ops").waiting == 0)
    assert len(receiver.requests) == 1


def test_what_was_not_settled_is_given_again_with_the_same_id(plane, tmp_path):
    home = tmp_path / "notify"
    home.mkdir()
    paths = ControlPaths(plane.state)
    Follower(paths, str(home))
    intake = Journal(paths.intake)
    intake.append(make_event("e-new", "web-9").as_json())
    intake.close()
    follower = Follower(paths, str(home))
    for each in (follower, follower, Follower(paths, str(home))):
        assert [message.id for message in each.news()] == ["event-e-new"]
    follower.settle()
    assert list(follower.news()) == []


def test_a_damaged_memory_is_told_and_not_taken_for_an_empty_one(plane, tmp_path):
    (tmp_path / "seen.json").write_text("{")
    with pytest.raises(BadInput, match="not what was written"):
        Follower(ControlPaths(plane.state), str(tmp_path))


def test_an_alert_of_a_state_is_ended_whatever_comes_next(policy):
    waits = {"on": "run", "states": ["AWAITING_APPROVAL"], "to": ["alerts", "ops"]}
    ended = _message(kind=Kind.RUN, state="SUCCEEDED", ends="AWAITING_APPROVAL", severity="info")
    assert serving.targets_of(policy(waits), ended) == ["alerts"]
    assert serving.targets_of(policy(waits), _message(kind=Kind.RUN, state="SUCCEEDED")) == []


def test_a_second_notifier_is_refused(plane, policy, tmp_path, capsys):
    with _served(policy(), plane.state):
        _until(lambda: Cursor(f"{spooling.folder(plane.state)}/intake.cursor").load() >= 0)
        with pytest.raises(BlockingIOError):
            serving.serve(policy(), plane.state, threading.Event())


def test_the_service_tells_until_sigterm_and_ends_with_0(plane, tmp_path, receiver, secrets):
    path = tmp_path / "n.yaml"
    path.write_text(
        "apiVersion: osremed/v1\nkind: Notifications\n"
        "targets: {ops: {webhook: {url_from: OPS_URL, secret_from: OPS_SECRET}}}\n"
        "rules: [{on: intervention, to: [ops]}]\n"
    )
    words = [sys.executable, "-m", "osremed", "notify", "run", str(path), "--state", plane.state]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        _until(lambda: Cursor(f"{spooling.folder(plane.state)}/intake.cursor").load() >= 0, 60)
        intake = Journal(ControlPaths(plane.state).intake)
        intake.append(make_event("e-new", "web-9").as_json())
        intake.close()
        receiver.wait_for(1)
        child.terminate()
        assert (child.communicate(timeout=60)[0], child.returncode) == ("stopped\n", 0)
    finally:
        child.kill()
        child.wait()


def test_status_and_trial_say_what_waits_and_whether_it_arrived(tmp_path, receiver, secrets, capsys):
    path = tmp_path / "n.yaml"
    path.write_text(
        "apiVersion: osremed/v1\nkind: Notifications\n"
        "targets: {ops: {webhook: {url_from: OPS_URL, secret_from: OPS_SECRET}}}\nrules: [{on: run, to: [ops]}]\n"
    )
    assert main(["notify", "test", str(path), "ops"]) == 0
    receiver.answers = [(500, {})]
    assert main(["notify", "test", str(path), "ops"]) == 1
    assert main(["notify", "test", str(path), "nobody"]) == 3
    spool = Spool(str(tmp_path / "notify" / "ops"), lambda _: Sent())
    spool.put(_message())
    spool.close()
    capsys.readouterr()
    assert main(["notify", "status", "--state", str(tmp_path), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"targets": [{"name": "ops", "waiting": 1, "given_up": 0}]}
    fits("notify_status", document)


def test_each_step_of_a_person_is_told_once(tmp_path):
    paths = ControlPaths(str(tmp_path))
    home = tmp_path / "notify"
    home.mkdir()
    follower = Follower(paths, str(home))
    run = asking_run(paths.runs, steps=2)
    (first,) = follower.news()
    follower.settle()
    assert list(follower.news()) == []
    opened = RunStore(paths.runs).open(run.run_id)
    opened.record(PersonAnswered(1, True, "ana"), SystemClock())
    opened.close()
    (second,) = follower.news()
    assert (first.state, second.state, second.ends) == ("AWAITING_PERSON", "AWAITING_PERSON", "")
    assert first.id != second.id
    assert any(line.endswith(" 2, or refuse") for line in second.lines)


def test_verbs_of_notifications_answer_in_the_language_that_is_spoken(tmp_path, receiver, secrets):
    path = tmp_path / "n.yaml"
    path.write_text(
        "apiVersion: osremed/v1\nkind: Notifications\n"
        "targets: {ops: {webhook: {url_from: OPS_URL, secret_from: NOT_HERE}}}\nrules: [{on: run, to: [ops]}]\n"
    )
    assert verbs.check(file=str(path)).text == "1 targets, 1 rules\n  not known here: NOT_HERE"
    assert verbs.status(state=str(tmp_path)).text == "nobody has been told anything yet"
    spool = Spool(str(tmp_path / "notify" / "ops"), lambda _: Sent())
    spool.put(_message())
    spool.close()
    assert verbs.status(state=str(tmp_path)).text == f"{'ops':<24} 1 wait, 0 given up"
    with spoken("zh_CN"):
        assert verbs.check(file=str(path)).text == "1 个目标，1 条规则\n  此处没有：NOT_HERE"
        assert verbs.status(state=str(tmp_path)).text == f"{'ops':<24} 1 条待发，0 条已放弃"
        assert verbs.status(state=str(tmp_path / "none")).text == "还没有发送过任何通知"
    path.write_text(path.read_text().replace("NOT_HERE", "OPS_SECRET"))
    assert verbs.test(file=str(path), target="ops").text == "ops has taken it"
    with spoken("zh_TW"):
        assert verbs.test(file=str(path), target="ops").text == "ops 已收下"
        receiver.answers = [(500, {})]
        refused = verbs.test(file=str(path), target="ops")
    assert refused.text == f"未送出：{refused.document['why']}"
