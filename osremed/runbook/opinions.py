"""A second opinion: what a model made of evidence. That of a run lies beside it, and nothing is decided by it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes, write_atomic
from osremed.core.record import record
from osremed.runbook.store import RunDirectory


@record
class Hypothesis:
    """`confidence` 0..1 is the model's own word; `evidence` are ids of what it was shown, each of them exists."""

    claim: str
    confidence: float
    evidence: tuple[str, ...]
    disproved_by: str


@record
class Reworded:
    """A finding of the rules in other words. The rules' own stands."""

    finding: str
    words: str


@record
class Suggestion:
    """A runbook that is in force, with attributes it takes. Nothing begins it but a person with `command`."""

    runbook: str
    host: str
    attributes: Mapping[str, str | int | float | bool]
    why: str
    command: str


@record
class Asked:
    """A question the model put to osremed. `id` is what the opinion cites."""

    id: str
    tool: str
    arguments: Mapping[str, Any]


@record
class Opinion:
    """`shown` are the ids of the documents the model was given, `dropped` says of each part of its answer that is not
    here why. `summary` and all below are the model's words. `prompt_sha256` names what was sent first."""

    call: str
    model: str
    about: str
    by: str
    at_ns: int
    summary: str
    hypotheses: tuple[Hypothesis, ...]
    reworded: tuple[Reworded, ...]
    suggestion: Suggestion | None
    shown: tuple[str, ...]
    asked: tuple[Asked, ...]
    dropped: tuple[str, ...]
    tokens: int
    seconds: float
    prompt_sha256: str


_OPINION: TypeAdapter[Opinion] = TypeAdapter(Opinion)


def opinion_as_json(opinion: Opinion) -> dict[str, Any]:
    document: dict[str, Any] = _OPINION.dump_python(opinion, mode="json")
    return document


def _path(directory: RunDirectory) -> str:
    return os.path.join(directory.path, "opinion.json")


def write_opinion(directory: RunDirectory, opinion: Opinion) -> None:
    """The newest takes the place of the one before; all of them are in the audit."""
    write_atomic(_path(directory), _OPINION.dump_json(opinion), mode=0o600)


def read_opinion(directory: RunDirectory) -> Opinion | None:
    """None if none was asked for. BadInput for a damaged one."""
    try:
        return _OPINION.validate_json(read_bytes(_path(directory)))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        hint = "move it away and ask again"
        what = f"not an opinion: {error.errors()[0]['msg']}"
        raise BadInput(what, where=_path(directory), hint=hint) from error
