"""What the fields of a runbook are made of: quantities with units, names, expressions, and the strict model under
them all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from osremed.core.errors import BadInput
from osremed.core.units import parse_duration_s, parse_ratio


def _duration(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit, a duration needs one; write for example {value}s or {value}m")
    try:
        return parse_duration_s(value)
    except BadInput as error:
        raise ValueError(f"{error.what}; {error.hint}") from error


def _fleet(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_ratio(value)
        except BadInput as error:
            raise ValueError(f"{error.what}; write a number of hosts, or a share such as 5%") from error
    if isinstance(value, (bool, float)):
        raise ValueError(f"{value!r} is neither a number of hosts nor a share; write for example 2 or 5%")
    return value


def _confidence(value: object) -> float:
    try:
        return parse_ratio(str(value))
    except BadInput as error:
        raise ValueError(f"{error.what}; write for example 90%") from error


def _margin(value: object) -> object:
    return _confidence(value) if isinstance(value, str) else value


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    Field(ge=0, le=30 * 86400),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s?(ms|s|m|h|d)$", "examples": ["10m", "500ms"]}),
]
Share = Annotated[
    int | float,
    BeforeValidator(_fleet),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"}]}
    ),
]
Margin = Annotated[
    float,
    BeforeValidator(_margin),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "%$"}]}),
]
Confidence = Annotated[float, BeforeValidator(_confidence), WithJsonSchema({"type": "string", "pattern": "%$"})]
Count = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
TimeOfDay = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, str_strip_whitespace=True)
