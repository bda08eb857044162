"""A dispatcher in a process of its own, whose replayed host ends the Prefect server in the middle of the change, or
takes its time to collect evidence, to change or to undo: until there is a file STATE/go, or its calls are cancelled. It
stands by while another serves STATE.

dispatcher_main.py STATE API_URL PORT SERVER_PGID|quick|slow|slow-change|slow-undo [CASE]
"""

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

from osremed.core.clock import SystemClock
from osremed.flows.settings import ControlPaths, prefect_environment
from osremed.flows.verbs import publish_into
from osremed.runbook.cases import ReplayedHost, load_case
from osremed.runbook.operate import Operator
from osremed.runbook.store import RunStore
from tests.support.acting import acts

CASE = "runbooks/near-oom/cases/policy-too-low.yaml"
LONGEST_S = 300.0
HOSTS = frozenset({"case-host", *(f"case-{number}" for number in range(1000))})


class EndsPrefect(ReplayedHost):
    def run(self, call):
        if call.module.endswith("fastoom_policy") and not call.check:
            os.killpg(int(sys.argv[4]), signal.SIGKILL)
        return super().run(call)


SLOW = {
    "quick": lambda _call: False,
    "slow": lambda call: call.module.endswith("evidence"),
    "slow-change": lambda call: call.module.endswith("fastoom_policy") and not call.check,
    "slow-undo": lambda call: call.module.endswith("undo"),
}


class TakesItsTime(ReplayedHost):
    """Tells by a file STATE/held that a call is under way."""

    cancelled = threading.Event()

    def run(self, call):
        if SLOW[sys.argv[4]](call):
            state, limit = Path(sys.argv[1]), time.monotonic() + LONGEST_S
            (state / "held").touch()
            while not (state / "go").exists() and time.monotonic() < limit and not self.cancelled.wait(0.05):
                pass
        return super().run(call)


def main():
    state, api_url, port = sys.argv[1:4]
    paths = ControlPaths(state)
    os.makedirs(paths.prefect, exist_ok=True)
    os.environ.update(prefect_environment(paths.prefect, api_url=api_url))
    from osremed.flows.dispatcher import Dispatcher, DispatcherSettings
    from osremed.flows.leading import leading

    host = TakesItsTime if sys.argv[4] in SLOW else EndsPrefect
    given = load_case(sys.argv[5] if len(sys.argv) > 5 else CASE).given
    operator = Operator(host(given), RunStore(paths.runs), SystemClock(), HOSTS, restrict=acts)
    settings = DispatcherSettings(paths, "runbooks", api_url, "127.0.0.1", int(port))
    with leading(paths.lock, standby=True) as lead:
        Dispatcher(settings, operator, partial(publish_into, operator.store), TakesItsTime.cancelled.set, lead).serve()


if __name__ == "__main__":
    main()
