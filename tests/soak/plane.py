"""The control plane of the soak, on this machine: Prefect and the dispatcher, each is killed and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osremed.core.journal import read_journal
from osremed.demo.control import Control, start_dispatcher
from osremed.demo.place import Place, wait_for
from osremed.demo.shipped import acting, find_shipped
from osremed.flows.server import Server, free_port, prefect_is_up, start_server, stop_server
from osremed.flows.settings import ControlPaths
from tests.soak.hosts import INTAKE_PORT
from tests.support.ansible_environment import ansible_environment
from tests.testbed.vm import Vm

ROOT = Path(__file__).resolve().parents[2]


class Plane:
    """`close` ends what runs. Ports stay the same over restarts: hosts know one address."""

    def __init__(self, directory: Path) -> None:
        self.place = Place(str(directory))
        self.directory = directory
        self.inventory = directory / "hosts.json"
        self.shipped = acting(find_shipped(""), self.place.state, "near-oom")
        self.intake_port, self._prefect_port = free_port(), free_port()
        self._server: Server | None = None
        self._control: Control | None = None

    def write_inventory(self, hosts: Sequence[tuple[str, Vm]], **variables: Any) -> None:
        rows = {name: {**vm.variables(), **variables} for name, vm in hosts}
        self.inventory.write_text(json.dumps({"osremed": {"hosts": rows}}, indent=1))

    @property
    def control(self) -> Control:
        """Of the dispatcher that was started last."""
        assert self._control is not None
        return self._control

    @property
    def paths(self) -> ControlPaths:
        return ControlPaths(os.path.join(self.place.state, "control"))

    def start_prefect(self) -> None:
        self._server = start_server(str(self.directory / "prefect"), port=self._prefect_port)

    def kill_prefect(self) -> None:
        assert self._server is not None
        os.killpg(self._server.process.pid, signal.SIGKILL)
        self._server.process.wait(30)

    def start_dispatcher(self) -> None:
        assert self._server is not None
        self._control = start_dispatcher(
            self.place, self._server, str(self.inventory), self.shipped, port=self.intake_port
        )

    def kill_dispatcher(self) -> None:
        """It alone, not what it has started on hosts."""
        os.kill(self.control.dispatcher_pid, signal.SIGKILL)
        wait_for("the dispatcher is gone", lambda: not self.place.is_alive("dispatcher"), 30)

    def until_ready(self) -> None:
        wait_for("the intake is ready", lambda: prefect_is_up(f"http://127.0.0.1:{self.intake_port}/v1"), 120)

    def token(self) -> str:
        return Path(self.paths.token).read_text().strip()

    def play(self, playbook: str, **variables: Any) -> None:
        """A playbook on all hosts; RuntimeError with its words when it fails."""
        environ = ansible_environment(self.directory / "ansible")
        argv = ["ansible-playbook", "-i", str(self.inventory), str(ROOT / f"playbooks/{playbook}.yml")]
        ended = subprocess.run(
            [*argv, "-e", json.dumps(variables)], check=False, env=environ, cwd=ROOT, capture_output=True, text=True,
            timeout=1200, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(f"{playbook}: {ended.stdout[-4000:]}{ended.stderr[-2000:]}")

    def roll_out(self, zipapp: Path, **variables: Any) -> None:
        """What the README tells a person to do, on all hosts at once and with the patience that emulated ones need."""
        usual = {
            "osremed_host_zipapp": str(zipapp), "osremed_host_version": "soak", "rollout_serial": ["100%"],
            "rollout_soak_s": 1, "agent_intake_url": f"http://127.0.0.1:{INTAKE_PORT}", "agent_token": self.token(),
            "agent_start_s": 300, "fastoom_start_s": 120,
        }  # fmt: skip
        self.play("site", **{**usual, **variables})

    def taken(self) -> list[tuple[str, str]]:
        """(host, id) of every event the intake has taken, in order, as often as it is there."""
        return [(str(each.record["host"]), str(each.record["id"])) for each in read_journal(self.paths.intake).entries]

    def runs(self) -> list[dict[str, Any]]:
        """Those that are whole; a damaged one has the state `damaged`."""
        runs, damaged = self.control.store.runs()
        rows = [
            {"id": run.run_id, "runbook": run.runbook, "state": run.state.value, "ended": run.ended} for run in runs
        ]
        return rows + [{"id": each, "runbook": "", "state": "damaged", "ended": False} for each in damaged]

    def has_no_open_run(self) -> bool:
        """Denies, as a person does, what waits for one."""
        open_runs = [run for run in self.runs() if not run["ended"]]
        for run in open_runs:
            if run["state"] == "AWAITING_APPROVAL":
                self._osremed("runs", "deny", run["id"], "--reason", "the soak is over")
        return not open_runs

    def has_decided_all(self) -> bool:
        """Every event that was taken has its answers: a run of it has begun if one does."""
        decided = {str(each.record.get("event", "")) for each in read_journal(self.paths.decisions).entries}
        return decided.issuperset(event_id for _host, event_id in self.taken())

    def audit(self) -> tuple[int, str]:
        """Exit code and words of `osremed audit verify`."""
        return self._osremed("audit", "verify")

    def _osremed(self, *words: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "osremed", *words, "--state", self.paths.state]
        ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120, cwd=ROOT)
        return ended.returncode, (ended.stdout + ended.stderr).strip()

    def dispatcher_rss_kib(self) -> int:
        status = Path(f"/proc/{self.control.dispatcher_pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def close(self) -> None:
        self.place.close()
        if self._server is not None:
            stop_server(self._server)
