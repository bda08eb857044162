"""One roll-out of the live host policies: of one set from begin to end, one at a time, kept in hosts.json.

`set` and `at_ns` there are of what was brought last, `checked` of what was only compared; `brought` is what the hosts
have of the rules.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from osremed.core.action import Executor
from osremed.core.errors import BadInput
from osremed.core.files import exclusive_lock
from osremed.core.record import record
from osremed.gitops import live
from osremed.gitops.hosts import HostResult, abandoned, assigned, brought_by, policies_of, roll_out
from osremed.gitops.live import Home


class Fleet(Executor, Protocol):
    """An executor that knows its inventory."""

    @property
    def hosts(self) -> frozenset[str]: ...

    @property
    def groups(self) -> Mapping[str, frozenset[str]]: ...


@record
class RollOut:
    """What became of the set that was live at the begin."""

    set: str
    at_ns: int
    results: tuple[HostResult, ...]


def bring(home: Home, fleet: Fleet, *, check: bool = False) -> RollOut:
    """Brings the policies of the set that is live now; when another one goes live meanwhile, no further wave is begun.
    BadInput while another roll-out is at work."""
    with _alone(home):
        name = live.live_digest(home)
        wanted = assigned(policies_of(home, name), fleet.groups)
        told = live.read_json(home.hosts)
        brought = told.get("brought", ())
        gone = abandoned(brought, wanted, fleet.hosts)
        undo = f"gitops-{name[:12]}-{time.time_ns() // 1_000_000}"  # another roll-out of the same set does not meet it
        results = roll_out(fleet, (*wanted, *gone), name=undo, check=check, halted=lambda: _superseded(home, name))
        done = RollOut(name, time.time_ns(), results)
        looked = {"set": done.set, "at_ns": done.at_ns}
        kept = {"checked": looked} if check else {**looked, "brought": brought_by(results, brought)}
        shown = {"check": check, "hosts": [each.as_json() for each in results]}
        live.write_json(home.hosts, {**told, **kept, **shown})
        return done


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    os.makedirs(home.directory, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(home.path("hosts.lock"), wait=False))
        except BlockingIOError:
            hint = "try again when it has ended"
            raise BadInput("another roll-out to the hosts is at work", where=home.directory, hint=hint) from None
        yield


def _superseded(home: Home, name: str) -> str:
    """Why the rest of the hosts is not to get this set any more; "" while it is live."""
    try:
        now = live.live_digest(home)
    except BadInput as error:
        return str(error)
    return "" if now == name else f"set {now[:12] or 'none'} is live now, and {name[:12]} no more"


def is_due(home: Home, how: Literal["check", "apply"], every_s: float) -> bool:
    """Whether the live set was not brought to the hosts yet, or longer than `every_s` ago; for `check`: neither brought
    nor compared."""
    told: Mapping[str, Any] = live.read_json(home.hosts)
    known = [told, told.get("checked", {})] if how == "check" else [told]
    last = max(known, key=lambda each: int(each.get("at_ns", 0)))
    name = live.live_digest(home)
    if last.get("set") != name:
        return bool(policies_of(home, name) or told.get("brought"))
    return bool(time.time_ns() - last.get("at_ns", 0) >= every_s * 1e9)
