"""A run that there was -> a case that replays it: its event, as much of its evidence as makes the difference, what was
measured, what people said, and how it ended."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from osremed.core.action import Status
from osremed.core.errors import BadInput, OsremedError
from osremed.core.evidence import Bundle
from osremed.runbook.cases import Case, CaseResult, replay_case
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.document import Runbook
from osremed.runbook.model import (
    Applied,
    Approved,
    Happening,
    PersonAnswered,
    ProbeResult,
    Run,
    Verified,
)

_ROWS = (1, 2, 4, 8, 16, 32)  #: of each list of the evidence, as long as fewer tell the same
_APART_S = (5.0, 2.0, 1.0)  #: of samples, as long as fewer tell the same
_DIGITS = 6
_MOST_TRIES = 1000  #: each replays the run, in some milliseconds; what is left then stays in the case


def case_of(run: Run, happenings: Iterable[Happening], bundle: Bundle, entry: CatalogEntry) -> dict[str, Any]:
    """The document of the case. `entry` is the runbook that the run had. BadInput where the run goes on, and where its
    replay ends otherwise: with words that say how."""
    if not run.ended:
        raise BadInput(f"run {run.run_id} has not ended: it is {run.state.value}", hint="a case says how a run ends")
    whole = _document(run, list(happenings), bundle, entry.runbook)
    found = _replayed(entry, whole)
    if found.differences:
        raise BadInput(f"a replay of run {run.run_id} ends otherwise: {'; '.join(found.differences)}", hint=_HINT)
    return _smaller(whole, lambda document: _replayed(entry, document) == found)


_HINT = "what guards, windows and other runs did is not in a case: write the case by hand, from `osremed runs show`"


class _Indented(yaml.SafeDumper):
    """Rows of a list stand further in than what they belong to."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 the base names it
        super().increase_indent(flow, False)


def as_text(case: Mapping[str, Any], run: Run) -> str:
    """YAML, with a first line that says where it comes from."""
    head = f"# Recorded: run {run.run_id} of {run.runbook}, whose end was {run.state.value}.\n"
    return head + yaml.dump(dict(case), Dumper=_Indented, sort_keys=False, allow_unicode=True, width=110)


def _document(run: Run, happenings: Sequence[Happening], bundle: Bundle, runbook: Runbook) -> dict[str, Any]:
    given: dict[str, Any] = {
        "event": {"name": run.event.name, "attributes": copy.deepcopy(dict(run.event.attributes))},
        "evidence": copy.deepcopy(dict(bundle.items)),
        "gaps": {name: gap.reason.value for name, gap in bundle.gaps.items()},
        **_happened(happenings, runbook),
    }
    expect: dict[str, Any] = {
        "findings": [finding.name for finding in run.findings],
        "plan": [{"action": step.action, "with": dict(step.args)} for step in (run.plan.steps if run.plan else ())],
        "state": run.state.value,
    }
    return {"given": {name: value for name, value in given.items() if value not in ({}, [], None)}, "expect": expect}


def _happened(happenings: Sequence[Happening], runbook: Runbook) -> dict[str, Any]:
    approved = [each for each in happenings if isinstance(each, Approved)]
    applied = [each.outcome.status for each in happenings if isinstance(each, Applied)]
    turns = [_samples(each.results) for each in happenings if isinstance(each, Verified)]
    failed = next((status for status in applied if status is not Status.OK), None)
    watched = approved[-1].watched if approved else ()
    return {
        "approval": True if approved else None,
        "apply": failed.value if failed else None,
        "watched": {watch.probe: round(value, _DIGITS) for watch, value in zip(runbook.watch, watched, strict=False)},
        "samples": turns[0] if turns else {},
        "then": turns[1:],
        "person": [each.done for each in happenings if isinstance(each, PersonAnswered)],
    }


def _samples(results: Sequence[ProbeResult]) -> dict[str, list[list[float | None]]]:
    """By probe. What is verified comes before what is watched."""
    found: dict[str, list[list[float | None]]] = {}
    for result in results:
        found.setdefault(result.probe, [[float(each["at_s"]), _figure(each.get("value"))] for each in result.samples])
    return found


def _figure(value: Any) -> float | None:
    return round(float(value), _DIGITS) if isinstance(value, (int, float)) else None


def _replayed(entry: CatalogEntry, document: Mapping[str, Any]) -> CaseResult:
    try:
        return replay_case(entry, Case.model_validate(document), "the case")
    except (OsremedError, ValueError) as error:
        return CaseResult("the case", (str(error),))


# --- as small as it can be ---


def _smaller(whole: dict[str, Any], tells_the_same: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Without what makes no difference: rows of lists and samples, then what is in the evidence and in the event."""
    found = next((cut for rows in _ROWS if tells_the_same(cut := _with_rows(whole, rows))), whole)
    found = next((thin for apart_s in _APART_S if tells_the_same(thin := _thinned(found, apart_s))), found)
    tries = 0
    for path in list(_removable(found)):
        if tries < _MOST_TRIES and _is_there(found, path):
            tries += 1
            smaller = _without(found, path)
            found = smaller if tells_the_same(smaller) else found
    return found


def _with_rows(document: dict[str, Any], rows: int) -> dict[str, Any]:
    given = document["given"]
    return {**document, "given": {**given, "evidence": _cut(given.get("evidence", {}), rows)}}


def _thinned(document: dict[str, Any], apart_s: float) -> dict[str, Any]:
    given = document["given"]
    turns = {
        "samples": _apart(given.get("samples", {}), apart_s),
        "then": [_apart(turn, apart_s) for turn in given.get("then", [])],
    }
    return {**document, "given": {**given, **{name: turn for name, turn in turns.items() if name in given}}}


def _apart(samples: Mapping[str, list[list[float]]], apart_s: float) -> dict[str, list[list[float]]]:
    """The first, the last, and between them some that are so far apart."""
    found = {}
    for probe, rows in samples.items():
        kept = rows[:1]
        for row in rows[1:-1]:
            if row[0] - kept[-1][0] >= apart_s:
                kept.append(row)
        found[probe] = kept + rows[1:][-1:]
    return found


def _cut(value: Any, rows: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _cut(item, rows) for key, item in value.items()}
    return [_cut(item, rows) for item in value[:rows]] if isinstance(value, list) else value


def _removable(document: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Paths into the document, the outer before the inner ones."""
    given = document["given"]
    for name, item in given.get("evidence", {}).items():
        if isinstance(item, Mapping):
            yield from _below(item, ("given", "evidence", name))
    yield from _below(given["event"]["attributes"], ("given", "event", "attributes"))


def _below(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Rows from the last to the first: what is taken away moves none that is still to come."""
    keys = list(value) if isinstance(value, Mapping) else reversed(range(len(value))) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from _below(value[key], (*path, key))


def _is_there(document: Any, path: tuple[Any, ...]) -> bool:
    """False where it went with something around it."""
    try:
        for key in path:
            document = document[key]
    except (KeyError, IndexError):
        return False
    return True


def _without(document: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    made = copy.deepcopy(document)
    at: Any = made
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return made
