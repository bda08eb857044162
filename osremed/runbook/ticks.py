"""Ticks: what a person says of a step they were asked to do, bound to one step of one plan, written beside the run. The
first answer holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from osremed.core.canonical import canonical_json
from osremed.core.clock import Clock, rfc3339
from osremed.core.errors import BadInput
from osremed.core.files import exclusive_lock, read_bytes, write_atomic
from osremed.core.record import record
from osremed.runbook.model import PersonAsked, Run
from osremed.runbook.operator import Operator
from osremed.runbook.store import RunDirectory

_POLL_S = 0.5
_WORDS_CHARS = 4096


@record
class Tick:
    done: bool
    by: str
    words: str


@contextlib.contextmanager
def ticking(
    directory: RunDirectory, run: Run, number: int, clock: Clock, *, done: bool, by: str, words: str
) -> Iterator[PersonAsked]:
    """The step that is ticked; written at the end of it, when all is well, and nobody else answers meanwhile. BadInput
    if the run does not wait for just that one, waits no longer, or has its answer already."""
    asked = run.asked
    if asked is None or run.plan is None:
        raise BadInput(f"run {run.run_id} is {run.state.value}, it waits for no person's step")
    if number != asked.number:
        hint = f"step {asked.number} is: {asked.instruction}"
        raise BadInput(f"run {run.run_id} waits for step {asked.number}, not for step {number}", hint=hint)
    if clock.wall_ns() >= asked.deadline_ns:
        raise BadInput(f"step {number} of run {run.run_id} was waited for until {rfc3339(asked.deadline_ns)}")
    if len(words) > _WORDS_CHARS:
        raise BadInput(f"{len(words)} characters of words, at most {_WORDS_CHARS} are kept")
    document = {"plan_digest": run.plan.digest, "done": done, "by": by, "words": words}
    with exclusive_lock(directory.answers):
        if first := read_tick(directory, number, run.plan.digest):
            said = "done" if first.done else "not done"
            what = f"step {number} of run {run.run_id} has its answer already: {said}, says {first.by}"
            raise BadInput(f"{what}: {first.words}" if first.words else what, hint="the first answer holds")
        yield asked
        write_atomic(directory.tick(number), canonical_json(document), mode=0o600)


def write_tick(
    directory: RunDirectory, run: Run, number: int, clock: Clock, *, done: bool, by: str, words: str
) -> PersonAsked:
    """`ticking`, with nothing to do meanwhile."""
    with ticking(directory, run, number, clock, done=done, by=by, words=words) as asked:
        return asked


def read_tick(directory: RunDirectory, number: int, plan_digest: str) -> Tick | None:
    """What was said of this step of this very plan, or None."""
    path = directory.tick(number)
    try:
        document = json.loads(read_bytes(path))
        by, words, plan = (_text(document[name]) for name in ("by", "words", "plan_digest"))
        done = document["done"] is True
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"not a tick: {error!r}", where=path) from error
    return Tick(done, by, words) if plan == plan_digest else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


async def until_ticked(operator: Operator, run: Run, asked: PersonAsked, directory: RunDirectory) -> Tick | None:
    """The answer; None when nobody gave one in time. One that was given while nobody looked still counts."""
    digest = run.plan.digest if run.plan else ""
    while (tick := read_tick(directory, asked.number, digest)) is None:
        if operator.clock.wall_ns() >= asked.deadline_ns:
            return None
        await operator.pause(_POLL_S)
    return tick
