"""Verbs of notifications: check a policy, try a target, serve, and what waits."""

from __future__ import annotations

import os
import signal
import threading
import time

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.core.event import new_event_id
from osremed.core.language import filled
from osremed.notify import serve as serving
from osremed.notify.message import Kind, Message
from osremed.notify.policy import lint, load_policy, secret
from osremed.notify.send import Failed, send
from osremed.notify.spool import waiting_of
from osremed.runbook.text import read_text


def check(*, file: str) -> Answer:
    """Every fault of a policy with its place; and, of a sound one, which secrets it names that nobody has here."""
    policy, wrong = lint(read_text(file))
    if policy is None:
        problems = [{"where": each.where, "what": each.what, "hint": each.hint} for each in wrong]
        return Answer({"problems": problems}, "\n".join(map(str, wrong)), ExitCode.BAD_INPUT)
    absent = [name for target in policy.targets.values() for name in target.secrets if not _is_said(name)]
    lines = [filled("{1} targets, {2} rules", str(len(policy.targets)), str(len(policy.rules)))]
    lines += [filled("  not known here: {1}", name) for name in absent]
    return Answer({"problems": [], "not_known_here": absent}, "\n".join(lines))


def _is_said(name: str) -> bool:
    try:
        return bool(secret(name))
    except BadInput:
        return False


def test(*, file: str, target: str) -> Answer:
    """Sends one message that says it is a trial, now, without the spool. Exit code 1 if it was not taken."""
    policy = load_policy(file)
    if target not in policy.targets:
        raise NotFound(f"no target {target!r}", where=file, hint=f"targets: {', '.join(policy.targets)}")
    message = Message(
        id=f"test-{new_event_id()}",
        kind=Kind.TEST,
        time_ns=time.time_ns(),
        host=os.uname().nodename,
        severity="info",
        title="osremed: a trial",
        lines=("Somebody tries whether messages arrive here. Nothing has happened.",),
    )
    result = send(policy.targets[target], message, policy.console)
    if isinstance(result, Failed):
        document = {"target": target, "sent": False, "why": result.why}
        return Answer(document, filled("not sent: {1}", result.why), ExitCode.FAILED)
    return Answer({"target": target, "sent": True, "why": ""}, filled("{1} has taken it", target))


def run(*, file: str, state: str) -> Answer:
    """Tells targets what the policy says until SIGTERM."""
    policy, stop = load_policy(file), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serving.serve(policy, state, stop)
    except BlockingIOError:
        what = "another notifier serves this state directory"
        raise BadInput(what, where=state, hint="stop it first, or use another --state") from None
    return Answer({"stopped": True}, filled("stopped"))


def status(*, state: str) -> Answer:
    """What waits for each target. Exit code 1 if something was given up."""
    rows = waiting_of(state)
    document = {"targets": [{"name": e.target, "waiting": e.waiting, "given_up": e.given_up} for e in rows]}
    lines = [
        f"{each.target:<24} " + filled("{1} wait, {2} given up", str(each.waiting), str(each.given_up)) for each in rows
    ]
    code = ExitCode.FAILED if any(each.given_up for each in rows) else ExitCode.OK
    return Answer(document, "\n".join(lines) or filled("nobody has been told anything yet"), code)
