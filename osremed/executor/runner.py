"""AnsibleExecutor: one Call is one ansible-runner run in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ansible_runner import interface
from ansible_runner.exceptions import AnsibleRunnerException

from osremed.core.action import Call, Outcome, Status
from osremed.core.clock import Clock, SystemClock
from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.executor import stragglers
from osremed.executor.child import take_leave_at_once
from osremed.executor.environment import environment_of, find_program, only_ours, write_config
from osremed.executor.inventory import Hosts, read_hosts, remember_names
from osremed.executor.outcome import Seen, outcome_of, with_ending
from osremed.executor.play import render_ending, render_play, task_timeout_s
from osremed.executor.warm import WarmPlaybook

_LOG = Log("executor")
_TEXT_TAIL = 2000
#: How long it may take to end on a host what a call left there.
_ENDING_S = 20
_ENDED_HERE = (Status.TIMED_OUT, Status.CANCELLED)
_REREAD_REST_S = 10.0


class AnsibleExecutor:
    """Runs calls with the ansible-playbook of this interpreter's environment. Safe from several threads at once.

    `inventory` is a path; `collections_path` one or more directories, colon-separated; everything temporary lies under
    `work_dir`, which several executors may share. `settings` are further ANSIBLE_* variables. BadInput if the inventory
    cannot be read; Unavailable without ansible-playbook."""

    def __init__(
        self,
        inventory: str,
        collections_path: str,
        work_dir: str,
        *,
        grace_s: float = 20.0,
        settings: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._inventory = os.path.abspath(inventory)
        self._work_dir = os.path.abspath(work_dir)
        self._calls_dir = os.path.join(self._work_dir, "calls", stragglers.owner_name())
        self._grace_s = grace_s
        self._clock = clock or SystemClock()
        self._environ = environment_of(self._work_dir, collections_path, settings or {})
        self._inventory_command = find_program("ansible-inventory", self._environ["PATH"])
        program = find_program("ansible-playbook", self._environ["PATH"])
        take_leave_at_once()
        self._lock = threading.Lock()
        self._running: dict[str, tuple[str, threading.Event]] = {}
        self._sweep()
        self._warm = WarmPlaybook(os.path.join(self._calls_dir, f"warm-{uuid.uuid4().hex}"), collections_path, program)
        self._hosts = self._read_hosts()

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts of the inventory when it was last read."""
        return self._hosts.names

    @property
    def groups(self) -> Mapping[str, frozenset[str]]:
        """The groups of the inventory when it was last read, each with its hosts and those of its children."""
        return self._hosts.groups

    def reread_hosts(self) -> frozenset[str]:
        """The hosts of the inventory as it is now; as it was, when it cannot be read."""
        try:
            self._hosts = self._read_hosts()
        except BadInput as error:
            _LOG.error("the inventory cannot be read anew, the one before stays", error=str(error))
        return self._hosts.names

    def run(self, call: Call) -> Outcome:
        started_ns = self._clock.wall_ns()
        name = uuid.uuid4().hex
        try:
            play = render_play(call, name)
            local = self._is_local(call.host)
            directory = self._prepare(play)
        except (BadInput, OSError) as error:
            return self._ended(Status.REFUSED, str(error), started_ns)
        cancelled = threading.Event()
        with self._lock:
            self._running[directory] = (call.host, cancelled)
        outcome = self._attempt(call.host, task_timeout_s(call), directory, local, cancelled)
        if local or outcome.status not in _ENDED_HERE:
            return outcome
        return with_ending(outcome, self._end_there(call.host, name))

    def _attempt(self, host: str, limit_s: int, directory: str, local: bool, cancelled: threading.Event) -> Outcome:
        """Plays what was prepared in `directory`, and leaves nothing of it on this machine."""
        started_ns = self._clock.wall_ns()
        try:
            seen = self._play(host, limit_s, directory, local, cancelled)
            return outcome_of(seen, started_ns, self._clock.wall_ns())
        except (AnsibleRunnerException, OSError) as error:
            # It may have begun: what it did is not known.
            return self._ended(Status.CANCELLED, f"the run broke off: {error}", started_ns)
        finally:
            with self._lock:
                self._running.pop(directory, None)
            stragglers.end_marked(directory)
            shutil.rmtree(directory, ignore_errors=True)

    def _end_there(self, host: str, name: str) -> Outcome:
        """Ends what the call of this name left running on a host: without its ssh connection a module goes on."""
        try:
            directory = self._prepare(render_ending(host, name, _ENDING_S))
        except OSError as error:
            return self._ended(Status.REFUSED, str(error), self._clock.wall_ns())
        return self._attempt(host, _ENDING_S, directory, False, threading.Event())  # a cancel does not reach it

    def warm_up(self) -> None:
        """For who will call: the first call needs not wait for what Ansible imports."""
        with contextlib.suppress(AnsibleRunnerException, OSError):  # the first call will say it
            directory = self._prepare("[]")
            runner = self._runner(directory, False, 1, lambda _event: False, threading.Event())
            self._warm.begin(runner.config.env)
            shutil.rmtree(directory, ignore_errors=True)

    def cancel(self, host: str | None = None) -> int:
        """Ends the calls in flight on `host`, or all of them; how many were told. They return CANCELLED within seconds,
        unless their result came first."""
        with self._lock:
            told = [event for on, event in self._running.values() if host is None or on == host]
        for event in told:
            event.set()
        return len(told)

    def close(self) -> None:
        """Ends the calls in flight, waits for nothing, and removes this process's directory of calls if it is empty."""
        self.cancel()
        self._warm.close()
        with contextlib.suppress(OSError):
            os.rmdir(self._calls_dir)

    def _play(self, host: str, limit_s: int, directory: str, local: bool, cancelled: threading.Event) -> Seen:
        events: list[tuple[str, Mapping[str, Any]]] = []

        def keep(event: dict[str, Any]) -> bool:
            data = event.get("event_data", {})
            if data.get("host") == host:
                events.append((event["event"], data.get("res") or {}))
            return False  # nothing is written to disk that is not needed

        runner = self._runner(directory, local, limit_s + round(self._grace_s), keep, cancelled)
        self._warm.begin(runner.config.env)
        runner.run()
        return Seen(tuple(events), runner.status, runner.rc if runner.rc is not None else -1, _tail(runner))

    def _runner(
        self,
        directory: str,
        local: bool,
        timeout_s: int,
        keep: Callable[[dict[str, Any]], bool],
        cancelled: threading.Event,
    ) -> Any:
        environ = {
            **self._environ,
            stragglers.MARK: directory,
            "ANSIBLE_LOCAL_TEMP": os.path.join(directory, "tmp"),
            "PATH": os.pathsep.join(filter(None, (self._warm.path, self._environ["PATH"]))),
        }
        if local:
            environ["ANSIBLE_REMOTE_TEMP"] = os.path.join(directory, "remote")
        runner = interface.init_runner(
            private_data_dir=directory,
            playbook="call.yml",
            inventory=self._inventory,
            ident="call",
            quiet=True,
            suppress_env_files=True,
            rotate_artifacts=1,
            timeout=timeout_s,
            settings={"pexpect_timeout": 1},
            envvars=environ,
            event_handler=keep,
            cancel_callback=cancelled.is_set,  # without one, runner takes over SIGINT and SIGTERM
        )
        runner.config.env = only_ours(runner.config.env, environ)
        return runner

    def _is_local(self, host: str) -> bool:
        """BadInput for a host the inventory does not name, after one fresh look at it."""
        if host not in self._hosts.names:
            self._hosts = self._read_hosts()
        if host not in self._hosts.names:
            raise BadInput(f"host {host!r} is not in the inventory", where=self._inventory)
        return host in self._hosts.local

    def _read_hosts(self) -> Hosts:
        found = read_hosts(self._inventory_command, self._inventory, self._environ)
        remember_names(self._work_dir, found)
        return found

    def _prepare(self, play: str) -> str:
        directory = os.path.join(self._calls_dir, uuid.uuid4().hex)
        for path in (directory, os.path.join(directory, "project"), os.path.join(directory, "remote")):
            os.mkdir(path, 0o700)
        with open(os.path.join(directory, "project", "call.yml"), "x", encoding="utf-8") as stream:
            stream.write(play)
        return directory

    def _sweep(self) -> None:
        """Ends and removes what executors of this directory left when they were killed."""
        owners = os.path.dirname(self._calls_dir)
        for path in (self._work_dir, owners, self._calls_dir):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for name in os.listdir(owners):
            if not stragglers.owner_lives(name):
                stragglers.end_marked(os.path.join(owners, name))
                shutil.rmtree(os.path.join(owners, name), ignore_errors=True)
        write_config(self._environ)

    def _ended(self, status: Status, detail: str, started_ns: int) -> Outcome:
        return Outcome(status, detail=detail, started_ns=started_ns, ended_ns=self._clock.wall_ns())


def _tail(runner: Any) -> str:
    with runner.stdout as stream:
        return str(stream.read())[-_TEXT_TAIL:].strip()


class Inventory:
    """The hosts an executor knows, looked at afresh before one is called unknown; but not for each of many names that
    nobody knows, or whoever sends them holds up everybody: no more than a tenth of the time goes into looking."""

    def __init__(self, executor: AnsibleExecutor, now_s: Callable[[], float] = time.monotonic) -> None:
        self._executor, self._now_s = executor, now_s
        self._not_before_s = now_s()

    def __contains__(self, host: object) -> bool:
        began_s = self._now_s()
        if host in self._executor.hosts or began_s < self._not_before_s:
            return host in self._executor.hosts
        found = host in self._executor.reread_hosts()
        ended_s = self._now_s()
        self._not_before_s = ended_s + max(_REREAD_REST_S, 9 * (ended_s - began_s))
        return found

    def __len__(self) -> int:
        return len(self._executor.hosts)
