"""What people have said to the automation: stop here, go on there, seen. One file, read before every step of a run.

A file that cannot be read stops everything: nobody knows what was said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from osremed.core.errors import BadInput
from osremed.core.files import exclusive_lock, read_bytes, write_atomic


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Freeze(_Model):
    """No run of `runbook` (empty: any) changes `host` (empty: any) until `until_ns` (0: until it is lifted)."""

    runbook: str = ""
    host: str = ""
    by: str
    reason: str
    since_ns: int
    until_ns: int = 0

    def covers(self, runbook: str, host: str, now_ns: int) -> bool:
        mine = self.runbook in {"", runbook} and self.host in {"", host}
        return mine and not 0 < self.until_ns <= now_ns

    @property
    def scope(self) -> str:
        return f"{self.runbook or 'every runbook'} on {self.host or 'every host'}"


class Controls(_Model):
    """`resets`: runbook -> when its breaker was closed by hand; `acknowledged`: half-undone runs that were seen to."""

    freezes: tuple[Freeze, ...] = ()
    resets: Mapping[str, int] = Field(default_factory=dict)
    acknowledged: tuple[str, ...] = ()


def frozen_by(said: Controls | None, runbook: str, host: str, now_ns: int, *, before_ns: int | None = None) -> str:
    """What is frozen there, by whom and why, in words; "" when nothing is. None is what cannot be read. With
    `before_ns` only a freeze that was there by then counts."""
    if said is None:
        return "the file of freezes cannot be read, so everything is frozen"
    for each in said.freezes:
        if each.covers(runbook, host, now_ns) and (before_ns is None or each.since_ns <= before_ns):
            return f"{each.scope} is frozen by {each.by}: {each.reason}"
    return ""


def read_controls(path: str) -> Controls:
    """Nothing said if there is no file. BadInput if it cannot be read."""
    try:
        return Controls.model_validate_json(read_bytes(path))
    except FileNotFoundError:
        return Controls()
    except (OSError, ValidationError) as error:
        hint = "mend it, or move it away: without it nothing is frozen"
        raise BadInput("what people have said cannot be read", where=path, hint=hint) from error


def change_controls(path: str, change: Callable[[Controls], Controls]) -> Controls:
    """Reads, changes and writes as one step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with exclusive_lock(f"{path}.lock"):
        changed = change(read_controls(path))
        document: dict[str, Any] = changed.model_dump()
        write_atomic(path, json.dumps(document, indent=2).encode("utf-8"), mode=0o600)
    return changed
