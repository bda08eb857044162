"""FakeExecutor: an Executor whose hosts and modules are given, for tests that are about something else.

It keeps the contract of the real one (tests/ansible/test_executor_contract.py runs against both)."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from osremed.core.action import Call, Outcome, Status
from osremed.core.clock import Clock, SystemClock
from osremed.core.record import field, record


@record
class Did:
    """What a fake module did. `failed` is its message when it said no; `takes_s` is really waited."""

    changed: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)
    diff: str = ""
    failed: str = ""
    takes_s: float = 0.0


FakeModule = Callable[[Mapping[str, Any], bool], Did]


class FakeExecutor:
    """`modules`: full name -> function of (args, check). `calls` lists every call that was accepted, in order."""

    def __init__(
        self,
        hosts: set[str] | frozenset[str],
        modules: Mapping[str, FakeModule],
        *,
        unreachable: set[str] | frozenset[str] = frozenset(),
        clock: Clock | None = None,
    ) -> None:
        self._hosts, self._modules, self._unreachable = hosts, modules, unreachable
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._running: list[tuple[str, threading.Event]] = []
        self._scripted: dict[str, deque[Outcome]] = {}
        self.calls: list[Call] = []

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(self._hosts)

    def script(self, module: str, *outcomes: Outcome) -> None:
        """The next calls of `module` end with these, without running it."""
        self._scripted.setdefault(module, deque()).extend(outcomes)

    def run(self, call: Call) -> Outcome:
        started_ns = self._clock.wall_ns()

        def ended(status: Status, detail: str = "", did: Did | None = None) -> Outcome:
            did = did or Did()
            return Outcome(status, did.changed, dict(did.result), did.diff, detail, started_ns, self._clock.wall_ns())

        try:
            args = json.loads(json.dumps(dict(call.args), allow_nan=False))
        except (TypeError, ValueError) as error:
            return ended(Status.REFUSED, f"args: {error}")
        if call.host not in self._hosts:
            return ended(Status.REFUSED, f"host {call.host!r} is not in the inventory")
        if call.module not in self._modules:
            return ended(Status.REFUSED, f"no module {call.module!r}")
        with self._lock:
            self.calls.append(call)
            scripted = self._scripted.get(call.module)
            if scripted:
                return scripted.popleft()
        if call.host in self._unreachable:
            return ended(Status.UNREACHABLE, f"{call.host} cannot be reached")
        did = self._modules[call.module](args, call.check)
        if self._wait(call, min(did.takes_s, call.timeout_s)):
            return ended(Status.CANCELLED, "ended on request")
        if did.takes_s > call.timeout_s:
            return ended(Status.TIMED_OUT, f"Timed out after {call.timeout_s:g} s")
        if did.failed:
            return ended(Status.FAILED, did.failed, did)
        return ended(Status.OK, did=did)

    def _wait(self, call: Call, seconds: float) -> bool:
        """True if the call was cancelled meanwhile."""
        running = (call.host, threading.Event())
        with self._lock:
            self._running.append(running)
        try:
            return running[1].wait(seconds)
        finally:
            with self._lock:
                self._running.remove(running)

    def cancel(self, host: str | None = None) -> int:
        with self._lock:
            told = [event for on, event in self._running if host is None or on == host]
        for event in told:
            event.set()
        return len(told)

    def close(self) -> None:
        self.cancel()
