"""Every question to a model is in the audit before it is asked, and again when it has been answered; a day's limits are
counted from there. A question whose process died counts with all it might have used."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from osremed.core.errors import OsremedError, Unavailable
from osremed.core.journal import read_journal
from osremed.core.record import record
from osremed.opinion.policy import Limits
from osremed.runbook.audit import written_by_hand

_VERB = "opinion"
_DAY_NS = 86400 * 10**9


@record
class Used:
    calls: int
    tokens: int


@dataclass
class Bill:
    """Filled while a question is under way. `estimated`: the endpoint did not say, so tokens are what bytes suggest."""

    tokens: int = 0
    estimated: bool = False
    requests: int = 0
    tools: tuple[str, ...] = ()  #: each time the model wanted one
    invented: tuple[str, ...] = ()  #: of them those that are not there
    outcome: str = "interrupted"


def used_today(hands: str, now_ns: int) -> Used:
    """Since midnight UTC."""
    since_ns = now_ns - now_ns % _DAY_NS
    tokens: dict[str, int] = {}
    for entry in read_journal(hands).entries if os.path.isdir(hands) else ():
        said = entry.record
        if said.get("verb") == _VERB and said.get("at_ns", 0) >= since_ns:
            tokens[str(said["call"])] = int(said["tokens"])
    return Used(len(tokens), sum(tokens.values()))


@contextlib.contextmanager
def billed(hands: str, limits: Limits, call: str, facts: Mapping[str, Any]) -> Iterator[Bill]:
    """One question. Unavailable if the day's limits leave no room for it; then nothing is sent."""
    with written_by_hand(hands) as audit:
        used = used_today(hands, time.time_ns())
        if used.calls >= limits.calls_a_day or used.tokens + limits.tokens > limits.tokens_a_day:
            what = f"today's limit is reached: {used.calls} questions, {used.tokens} tokens"
            hint = "limits.calls_a_day and limits.tokens_a_day of the settings; a day ends at midnight UTC"
            raise Unavailable(what, hint=hint, code="unavailable.opinion-limit")
        audit.append({"verb": _VERB, "step": "asked", "call": call, "tokens": limits.tokens, **facts})
    bill, began_s = Bill(), time.monotonic()
    try:
        yield bill
        bill.outcome = "answered"
    except OsremedError as error:
        bill.outcome = error.what
        raise
    finally:
        ended = {**facts, **asdict(bill), "seconds": round(time.monotonic() - began_s, 3)}
        with written_by_hand(hands) as audit:
            audit.append({"verb": _VERB, "step": "ended", "call": call, **ended})
