"""The notifier: follows what is new, spools it for each target, and tells them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from osremed.core.files import exclusive_lock
from osremed.core.log import Log
from osremed.flows.settings import ControlPaths
from osremed.notify.follow import Follower
from osremed.notify.message import Message
from osremed.notify.policy import Alertmanager, Policy, Rule, Traces
from osremed.notify.send import send
from osremed.notify.spool import Spool, folder
from osremed.runbook.store import DamagedRun

_LOOK_PERIOD_S = 1.0
_RETRY_S = 5.0
_LOG = Log("notify")


def targets_of(policy: Policy, message: Message) -> list[str]:
    """Who is told. An Alertmanager that was told of a state is also told of its end, whatever the next one is."""
    told = policy.told(message)
    if not message.ends:
        return told
    earlier = [rule for rule in policy.rules if _wanted_before(rule, message)]
    names = [name for rule in earlier for name in rule.to if isinstance(policy.targets[name].way, Alertmanager)]
    return list(dict.fromkeys([*told, *names]))


def _wanted_before(rule: Rule, message: Message) -> bool:
    return rule.wants(replace(message, state=message.ends))


def serve(policy: Policy, state: str, stop: threading.Event) -> None:
    """Until `stop`. BlockingIOError if another notifier serves this state directory."""
    home = folder(state)
    os.makedirs(home, mode=0o700, exist_ok=True)
    with exclusive_lock(os.path.join(home, "lock"), wait=False):
        follower = Follower(ControlPaths(os.path.abspath(state)), home)
        spools = {
            name: Spool(
                os.path.join(home, name),
                partial(send, target, console=policy.console),
                target.chat.limit if target.chat else None,
            )
            for name, target in policy.targets.items()
        }
        threads = [threading.Thread(target=each.tell, args=(stop,), name=name) for name, each in spools.items()]
        for each in threads:
            each.start()
        _LOG.info("ready", targets=sorted(spools))
        try:
            _look(policy, follower, spools, stop)
        finally:
            stop.set()
            for each in threads:
                each.join()
            for spool in spools.values():
                spool.close()


def _look(policy: Policy, follower: Follower, spools: Mapping[str, Spool], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            for message in follower.news():
                for name in targets_of(policy, message):
                    traced = isinstance(policy.targets[name].way, Traces)
                    spools[name].put(follower.traced(message) if traced else message)
            follower.settle()
        except (OSError, DamagedRun) as error:
            _LOG.error("cannot keep what is to be told", why=str(error))
            stop.wait(_RETRY_S)
        stop.wait(_LOOK_PERIOD_S)
