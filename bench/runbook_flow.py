#!/usr/bin/env python3
"""From an event to a change on a host through the whole control plane: intake, dispatcher, a real Prefect server on
SQLite and on PostgreSQL in turn, Ansible. And runs a second, with hosts that answer at once, so that the figure is what
Prefect and the dispatcher allow.

    bench/runbook_flow.py [RUNS [SINGLES]]

20 events one by one, each a run on a host that is this machine over Ansible's local connection: it raises the
oom_score_adj of a process and verifies. Told are the times from sending the event to the run's first line in its
journal (its body begins), to the changed value on the host, and to the verdict. Then 200 events at once for 200
replayed hosts: wall time and CPU time of a run to its end, and until Prefect shows them all. Everything is kept as in
production, fsync included. Needs root (a process is touched) and PostgreSQL from the distribution (else SQLite alone).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from figures import tell  # noqa: E402

from osremed.core.clock import SystemClock  # noqa: E402
from osremed.flows.intake import ensure_token  # noqa: E402
from osremed.flows.server import Server, free_port, prefect_is_up, start_server, stop_server  # noqa: E402
from osremed.flows.settings import ControlPaths, prefect_environment  # noqa: E402
from osremed.runbook.store import RunStore  # noqa: E402
from osremed.sensors import procfs  # noqa: E402
from tests.support.databases import AS_POSTGRES, find  # noqa: E402

RUNS, SINGLES, ROUNDS = 200, 20, 2
GOAL_MS = 1000.0  #: event to the first action on a host
BOOK = """
apiVersion: osremed/v1
kind: Runbook
metadata: {name: bench, title: The score of one process, owners: [bench]}
on: [{event: bench.flow}]
mode: auto
guards: {cooldown: 1s, concurrency: {per_host: 1, fleet: 50%}, storm: {max_runs: 600, per: 10m},
         blast_radius: {hosts: 50%, per: 1h}, max_event_age: 1h}
collect: [{fastoom: {}}]
diagnose: [{finding: asked, when: "true", summary: somebody asked}]
remediate:
  - when: finding('asked')
    action: proc_oom_score
    with: {pid: "{{ event.pid }}", start_time_ticks: "{{ event.start_time_ticks }}", value: 500}
    confirm_within: 5m
verify: [{probe: memory.available_ratio, expect: value > 0.0001, within: 2s, for: 0s}]
"""
_AGENT = "from osremed.agent import verbs; verbs.run()"
CASE = """
given: {event: {name: bench.flow, attributes: {pid: 2, start_time_ticks: 1}}, evidence: {fastoom: {level: none}},
        samples: {memory.available_ratio: [[0, 0.5]]}}
expect: {state: SUCCEEDED}
"""


# --- what runs beside us ---


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URL of a server of our own on loopback, as it is installed but for its port."""
    data, port = folder / "postgresql", free_port()
    data.mkdir()
    os.chmod(folder, 0o711)
    os.chown(data, *[int(each) for each in subprocess.check_output(["id", "-u", "postgres"]).split() * 2])
    initdb = [*AS_POSTGRES, find("initdb"), "-D", str(data), "-U", "prefect", "-A", "trust"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/")
    words = ["-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1", "-p", str(port)]
    with open(folder / "postgresql.log", "wb") as log:
        child = subprocess.Popen([*AS_POSTGRES, find("postgres"), "-D", str(data), *words], stdout=log, stderr=log)
    try:
        ask = [find("psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "-d", "postgres", "-c", "select 1"]
        until(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, "PostgreSQL answers")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(30)


@contextlib.contextmanager
def prefect(folder: Path, store: str) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        if store == "PostgreSQL":
            os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = stack.enter_context(postgresql(folder))
            stack.callback(os.environ.pop, "PREFECT_API_DATABASE_CONNECTION_URL")
        server = start_server(str(folder / "prefect"))
        stack.callback(stop_server, server)
        yield server


class Plane:
    """A dispatcher in a process of its own, and its intake."""

    def __init__(self, folder: Path, server: Server, *words: str) -> None:
        self.paths, self.port, self.server = ControlPaths(str(folder / "control")), free_port(), server
        os.makedirs(self.paths.state)
        self._token = ensure_token(self.paths.token)
        self.store = RunStore(self.paths.runs)
        ours = ["--state", self.paths.state, "--api-url", server.api_url, "--port", str(self.port)]
        with open(folder / "dispatcher.log", "wb") as log:
            self.child = subprocess.Popen([sys.executable, *words, *ours], cwd=ROOT, stdout=log, stderr=log)
        until(lambda: prefect_is_up(f"http://127.0.0.1:{self.port}/v1"), "the intake is ready", 120)

    def send(self, *events: dict[str, Any]) -> float:
        """Returns the moment before it was sent, in seconds since the epoch."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/events", json.dumps({"events": events}).encode(), method="POST"
        )
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        at_s = time.time()
        with urllib.request.urlopen(request, timeout=60) as answer:
            refused = json.loads(answer.read())["refused"]
        assert not refused, refused
        return at_s

    def ended(self, number: int) -> bool:
        return sum(run.ended for run in self.store.runs()[0]) >= number

    def shown(self, number: int) -> bool:
        """Prefect shows so many flow runs with their verdict."""
        body = json.dumps({"flow_runs": {"state": {"name": {"any_": ["SUCCEEDED"]}}}}).encode()
        request = urllib.request.Request(f"{self.server.api_url}/flow_runs/count", body, method="POST")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.read()) >= number

    def cpu_s(self) -> tuple[float, float]:
        """Of the dispatcher, and of Prefect's server with its children."""
        return group_cpu_s(self.child.pid), group_cpu_s(self.server.process.pid)

    def close(self) -> None:
        self.child.terminate()
        self.child.wait(60)


def group_cpu_s(leader: int) -> float:
    """Of the process and of all that are of its process group (a server is started as a leader)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            if leader in (pid, int(rest[2])):
                ticks += int(rest[11]) + int(rest[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def until(condition: Any, what: str, within_s: float = 60.0, every_s: float = 0.2) -> None:
    give_up_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(every_s)


def event(number: int, host: str, **attributes: object) -> dict[str, Any]:
    return {"id": f"e{number}", "name": "bench.flow", "host": host, "time_ns": time.time_ns(), "attributes": attributes}


# --- what is measured ---


def singles(folder: Path, server: Server, count: int) -> dict[str, list[float]]:
    """ms from an event to `body`, `change`, `verdict`, one event after the other, each for a host of its own."""
    prefix = folder / "host"  # this machine under many names
    for directory in ("etc/osremed", "var/lib/osremed/undo", "run/osremed"):
        (prefix / directory).mkdir(parents=True)
    given = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "osremed_prefix": str(prefix),
        "osremed_command": [sys.executable, "-m", "osremed"],
    }  # fmt: skip
    hosts = {f"host-{number}": given for number in range(2 * count)}  # half of them may be worked on
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    words = ["-m", "osremed", "dispatcher", "--runbooks", str(folder / "runbooks"), "--inventory"]
    plane = Plane(folder, server, *words, str(folder / "hosts.json"), "--collections", str(ROOT / "collections"))
    found: dict[str, list[float]] = {"body": [], "change": [], "verdict": []}
    # The one who keeps the deadline of a change.
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT], cwd=ROOT, env={**os.environ, "OSREMED_PREFIX": str(prefix)}
    )
    try:
        until((prefix / "run/osremed/agent.json").exists, "the agent")
        for number, host in enumerate(list(hosts)[:count]):
            with subprocess.Popen(["sleep", "600"]) as child:
                score = Path(f"/proc/{child.pid}/oom_score_adj")
                ticks = procfs.stat(child.pid).value.start_time_ticks  # type: ignore[union-attr]
                at_s = plane.send(event(number, host, pid=child.pid, start_time_ticks=ticks))
                until(lambda score=score: score.read_text().strip() == "500", "the change", every_s=0.002)
                found["change"].append(1e3 * (time.time() - at_s))
                until(lambda number=number: plane.ended(number + 1), "the run's end", every_s=0.02)
                child.kill()
            run = next(run for run in plane.store.runs()[0] if run.host == host)
            lines = plane.store.happenings(run.run_id)
            assert run.state.value == "SUCCEEDED", run.reason
            for what, kind in (("body", "raised"), ("verdict", "verified")):
                found[what].append(next(at_ns for at_ns, each in lines if each.kind == kind) / 1e6 - 1e3 * at_s)
    finally:
        agent.terminate()
        agent.wait(60)
        plane.close()
    return found


def storm(folder: Path, server: Server, count: int) -> dict[str, float]:
    """ms a run, of `count` at once: wall to the end of all and until Prefect shows them, CPU of both sides."""
    plane = Plane(folder, server, __file__, "--dispatcher", str(folder / "runbooks"), str(count))
    try:
        before = plane.cpu_s()
        at_s = plane.send(*[event(number, f"host-{number}", pid=2, start_time_ticks=1) for number in range(count)])
        until(lambda: plane.ended(count), "all have ended", 600)
        ended_s = time.time() - at_s
        until(lambda: plane.shown(count), "Prefect shows all", 600)
        shown_s = time.time() - at_s
        cpu_s = [after - begin for after, begin in zip(plane.cpu_s(), before, strict=True)]
    finally:
        plane.close()
    told = {"ended": ended_s, "shown": shown_s, "dispatcher CPU": cpu_s[0], "server CPU": cpu_s[1]}
    return {what: 1e3 * each / count for what, each in told.items()}


def serve(runbooks: str, count: int, state: str, api_url: str, port: int) -> None:
    """A dispatcher whose hosts are replayed."""
    paths = ControlPaths(state)
    os.makedirs(paths.prefect, exist_ok=True)
    os.environ.update(prefect_environment(paths.prefect, api_url=api_url))
    from functools import partial  # noqa: PLC0415

    from osremed.flows.dispatcher import Dispatcher, DispatcherSettings  # noqa: PLC0415 Prefect reads its settings now
    from osremed.flows.leading import leading  # noqa: PLC0415
    from osremed.flows.verbs import publish_into  # noqa: PLC0415
    from osremed.runbook.cases import ReplayedHost, load_case  # noqa: PLC0415
    from osremed.runbook.operate import Operator  # noqa: PLC0415

    case = os.path.join(runbooks, "bench", "cases", "asked.yaml")
    hosts = frozenset(f"host-{number}" for number in range(2 * count))  # half of them may be worked on
    operator = Operator(ReplayedHost(load_case(case).given), RunStore(paths.runs), SystemClock(), hosts)
    settings = DispatcherSettings(paths, runbooks, api_url, "127.0.0.1", port)
    with leading(paths.lock, standby=False) as lead:
        Dispatcher(settings, operator, partial(publish_into, operator.store), lambda: None, lead).serve()


def trial(store: str, runs: int, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        told: dict[str, Any] = {}
        for part, measure, number in (("singles", singles, count), ("storm", storm, runs)):
            folder = Path(name, part)
            (folder / "runbooks/bench/cases").mkdir(parents=True)
            os.chmod(name, 0o711)  # for the user that PostgreSQL runs as
            (folder / "runbooks/bench/runbook.yaml").write_text(BOOK)
            (folder / "runbooks/bench/cases/asked.yaml").write_text(CASE)
            with prefect(folder, store) as server:
                told[part] = measure(folder, server, number)
        return told


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--dispatcher"]:
        runbooks, count, *named = arguments[1:]
        given = dict(zip(named[::2], named[1::2], strict=True))
        serve(runbooks, int(count), given["--state"], given["--api-url"], int(given["--port"]))
        return 0
    runs, count = [int(each) for each in arguments] + [RUNS, SINGLES][len(arguments) :]
    stores = ["SQLite", *(["PostgreSQL"] if find("initdb") else [])]
    trials: dict[str, list[dict[str, Any]]] = {store: [] for store in stores}
    for _ in range(ROUNDS):
        for store in stores:
            trials[store].append(trial(store, runs, count))
    for store, found in trials.items():
        for what, goal in (("body", 0.0), ("change", GOAL_MS), ("verdict", 0.0)):
            samples = [each for one in found for each in one["singles"][what]]
            tell(f"event to the {what} of its run, Prefect on {store}", "ms", {"osremed": samples},
                 {"": goal} if goal else None)  # fmt: skip
            print(f"{store}: event to {what}: {median(samples):.0f} ms ({min(samples):.0f} to {max(samples):.0f})")
        for what in found[0]["storm"]:
            samples = [one["storm"][what] for one in found]
            tell(f"{what} of a run, {runs} at once, Prefect on {store}", "ms", {"osremed": samples})
            print(
                f"{store}: {runs} runs at once, {what}: {median(samples):.1f} ms a run", [round(x, 1) for x in samples]
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
