"""What an effect may use: the executor, the store, the clock, and what people have said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from osremed.core.action import Call, Executor, Outcome
from osremed.core.clock import Clock
from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.runbook.controls import Controls, read_controls
from osremed.runbook.guardpolicy import Restrict, unrestricted
from osremed.runbook.model import Run
from osremed.runbook.store import RunStore

CALL_TIMEOUT_S = 60.0


class Hosts(Protocol):
    """The names in the executor's inventory, and how many."""

    def __contains__(self, host: object, /) -> bool: ...
    def __len__(self) -> int: ...


@record
class Operator:
    """Everything an effect may use."""

    executor: Executor
    store: RunStore
    clock: Clock
    hosts: Hosts
    controls: str = ""  #: file of what people have said (`controls`); "" where there are no people, as in a case
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep  #: between two looks for an approval
    restrict: Restrict = unrestricted  #: guards of groups of hosts

    def said(self) -> Controls | None:
        """None when it cannot be read."""
        try:
            return read_controls(self.controls) if self.controls else Controls()
        except BadInput:
            return None


async def call_module(operator: Operator, module: str, args: Mapping[str, Any], run: Run, timeout_s: float) -> Outcome:
    call = Call(f"osremed.host.{module}", args, run.host, timeout_s)
    return await asyncio.to_thread(operator.executor.run, call)
