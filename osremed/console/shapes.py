"""How a record becomes the type of what a document says of it; a Reading is its bare value, or the object that says why
there is none."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Union

from pydantic import BaseModel, ConfigDict, create_model

from osremed.core.reading import Missing, Reason, Value

EXACT = ConfigDict(extra="forbid")


class MissingValue(BaseModel):
    """Why there is no value."""

    model_config = EXACT
    missing: Reason
    source: str
    detail: str


def said_of(kind: Any) -> Any:
    """The type a record's field has in a document."""
    if kind is Missing:
        return MissingValue
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return shape(kind)
    origin, inner = typing.get_origin(kind), tuple(said_of(each) for each in typing.get_args(kind))
    if origin is Value:
        return inner[0]
    if origin in (Union, types.UnionType):
        return Union[inner]
    return kind if origin is None or not inner else origin[inner]


def made(name: str, doc: str, fields: Mapping[str, Any], config: ConfigDict = EXACT) -> type[BaseModel]:
    """A model of these fields, each of them always there."""
    needed: dict[str, Any] = {key: (kind, ...) for key, kind in fields.items()}
    model: type[BaseModel] = create_model(name, __config__=config, __doc__=doc, **needed)
    return model


@functools.cache
def shape(record: type, *more: tuple[str, Any]) -> type[BaseModel]:
    """A model with the record's fields as a document has them, and `more` (name, type)."""
    hints = typing.get_type_hints(record)
    fields = {each.name: said_of(hints[each.name]) for each in dataclasses.fields(record)}
    name = f"{record.__name__}Row" if more else record.__name__
    return made(name, " ".join((record.__doc__ or "").split()), {**fields, **dict(more)})


def rows(record: type, *more: tuple[str, Any]) -> Any:
    return list[shape(record, *more)]  # type: ignore[misc]


class Exact(BaseModel):
    model_config = EXACT
