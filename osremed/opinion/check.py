"""The form a model answers in, and what of its answer stands. Pure: no word of it is believed that cannot be looked up.

The model may have been told by a process name or a log line what to say. So what counts is decided here: citations
exist, a runbook is one in force and takes the attributes by its own conditions, values come from the run or the rule.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from osremed.core.errors import BadInput
from osremed.core.event import event_from_json
from osremed.core.record import record
from osremed.opinion.documents import Document, exists
from osremed.opinion.veil import Veil
from osremed.runbook.catalog import CatalogEntry, match
from osremed.runbook.model import Run
from osremed.runbook.opinions import Hypothesis, Reworded, Suggestion

_Words = Annotated[str, StringConstraints(min_length=1, max_length=1200)]
_Citation = Annotated[str, StringConstraints(min_length=1, max_length=300)]
_ATTRIBUTE = re.compile(rb"\bevent\.([a-z_][a-z0-9_]{0,63})\b")
_QUOTED = re.compile(r"'([^'\n]{0,200})'|\"([^\"\n]{0,200})\"")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class SaidHypothesis(_Form):
    claim: _Words = Field(description="a possible cause, in one or two sentences with figures")
    confidence: float = Field(ge=0, le=1)
    evidence: list[_Citation] = Field(
        max_length=12, description="ids of documents that show it, or id#/json/pointer to a place in one"
    )
    disproved_by: _Words = Field(description="what would have to be seen for this to be wrong")


class SaidRewording(_Form):
    finding: _Citation = Field(description="id#/json/pointer of a finding of the rules")
    words: _Words = Field(description="the same finding, said plainly")


class SaidSuggestion(_Form):
    runbook: str = Field(max_length=63, description="the name of one of the runbooks that were given")
    attributes: dict[str, str | int | float | bool] = Field(description="attributes of its event", max_length=20)
    why: _Words


class Reply(_Form):
    """What the evidence may mean. It is read by a person; nothing is done with it."""

    summary: _Words = Field(description="the answer, in a few sentences")
    hypotheses: list[SaidHypothesis] = Field(max_length=6)
    reworded: list[SaidRewording] = Field(default_factory=list, max_length=12)
    suggestion: SaidSuggestion | None = Field(default=None, description="only of a runbook that was given")


@record
class Standing:
    """What of a reply stands, told with the originals; `dropped` says why the rest does not."""

    summary: str
    hypotheses: tuple[Hypothesis, ...]
    reworded: tuple[Reworded, ...]
    suggestion: Suggestion | None
    dropped: tuple[str, ...]


def standing(
    reply: Reply, documents: Sequence[Document], veil: Veil, run: Run | None, catalog: Mapping[str, CatalogEntry]
) -> Standing:
    """Without a run, or with an empty catalog, no suggestion stands."""
    dropped: list[str] = []
    hypotheses = [
        Hypothesis(veil.lifted(each.claim), each.confidence, tuple(each.evidence), veil.lifted(each.disproved_by))
        for each in reply.hypotheses
        if _is_cited(each.evidence, documents, f"hypothesis {veil.lifted(each.claim)[:80]!r}", dropped)
    ]
    reworded = [
        Reworded(each.finding, veil.lifted(each.words))
        for each in reply.reworded
        if _is_cited([each.finding], documents, "a finding in other words", dropped)
    ]
    suggestion = None
    if reply.suggestion is not None:
        try:
            suggestion = _suggested(reply.suggestion, veil, run, catalog)
        except BadInput as error:
            dropped.append(f"suggestion of runbook {reply.suggestion.runbook[:63]!r}: {error.what}")
    return Standing(veil.lifted(reply.summary), tuple(hypotheses), tuple(reworded), suggestion, tuple(dropped))


def _is_cited(citations: Sequence[str], documents: Sequence[Document], what: str, dropped: list[str]) -> bool:
    if not citations:
        dropped.append(f"{what}: it cites nothing")
        return False
    invented = [each for each in citations if not exists(each, documents)]
    if invented:
        dropped.append(f"{what}: it cites {invented[0]!r}, which is not there")
    return not invented


def _suggested(said: SaidSuggestion, veil: Veil, run: Run | None, catalog: Mapping[str, CatalogEntry]) -> Suggestion:
    """BadInput says which bound of the runbook it breaks."""
    if run is None:
        raise BadInput("nobody asked about a run")
    entry = catalog.get(said.runbook)
    if entry is None:
        raise BadInput("no runbook of this name was given")
    attributes = veil.lifted(said.attributes)
    known = {each.decode() for each in _ATTRIBUTE.findall(entry.content)}
    sources = {*_values(run.event.attributes), *_values(_compared(entry))}
    for key, value in attributes.items():
        if key not in known:
            raise BadInput(f"it has no attribute {key[:63]!r}")
        if _as_value(value) not in sources:
            raise BadInput(f"{key} is {str(value)[:80]!r}, which neither the run's event nor the runbook names")
    event = {"id": "suggested", "name": entry.runbook.events[0], "host": run.host, "time_ns": time.time_ns()}
    found = match(entry, event_from_json({**event, "attributes": attributes}))
    if not found.matched:
        raise BadInput(f"the runbook does not want it: {found.why}")
    words = ["osremed", "runs", "start", said.runbook, "--host", run.host]
    command = shlex.join([*words, "--attributes", json.dumps(attributes, sort_keys=True), "--check"])
    return Suggestion(said.runbook, run.host, attributes, veil.lifted(said.why), command)


def _compared(entry: CatalogEntry) -> list[str]:
    """The words its triggers compare attributes with."""
    wheres = [clause.where or "" for trigger in entry.runbook.on for clause in trigger.clauses]
    return [one or two for where in wheres for one, two in _QUOTED.findall(where)]


def _as_value(value: Any) -> str:
    return json.dumps(value)  # 1, 1.0, True and "1" are four


def _values(node: Any) -> set[str]:
    """Every value in a document, at any depth."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            waiting.extend(each.values())
        elif isinstance(each, (list, tuple)):
            waiting.extend(each)
        else:
            found.add(_as_value(each))
    return found
