"""What the schema says against a document, as faults with their place, a hint and, beyond doubt, the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from osremed.core.errors import BadInput
from osremed.runbook.faults import Fault, Fix, respelled, spelled_unit
from osremed.runbook.text import Path, Text

_Model = TypeVar("_Model", bound=BaseModel)


def choices(word: object, known: Iterable[str]) -> str:
    """A hint: the known word that is close, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> Fault:
    what, hint = f"unknown {kind} {name!r}", choices(name, known)
    return Fault(f"unknown-{kind}", what, where=where, hint=hint, fix=respelled(name, known))


def shaped(model: type[_Model], text: Text, path: Path = ()) -> tuple[_Model | None, tuple[BadInput, ...]]:
    """The value at `path` as a `model`, or what keeps it from being one."""
    value = text.data
    for part in path:
        value = value[part]
    try:
        return model.model_validate(value), ()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        return None, tuple(_explain(item, text, model, path) for item in found)


def _explain(error: Any, text: Text, root: type[BaseModel], prefix: Path) -> BadInput:
    """The fault that an error of validation is; `prefix` is where the value of `root` stands in the text."""
    path: Path = (*prefix, *error["loc"])
    kind, key = error["type"], str(error["loc"][-1]) if error["loc"] else ""
    if kind == "extra_forbidden":
        model = _model_at(tuple(error["loc"][:-1]), root)
        names = [field.alias or name for name, field in model.model_fields.items()] if model else []
        where = text.where(path, key=True)
        fix = respelled(key, names)
        return Fault("unknown-key", f"unknown key {key!r}", where=where, hint=choices(key, names), fix=fix)
    if kind == "missing":
        whole = root.__name__.lower()
        parent = ".".join(str(part) for part in path[:-1]) or f"the {whole}"
        hint = f"every {whole} declares it; see docs/reference/runbook.md"
        return Fault("missing-key", f"{parent} lacks {key!r}", where=text.where(path[:-1]), hint=hint)
    message = error["msg"].removeprefix("Value error, ")
    dotted = ".".join(str(part) for part in path)
    fix = _respelled_value(kind, error)
    return Fault("bad-value", f"{dotted}: {message}", where=text.where(path), fix=fix)


def _model_at(path: Path, root: type[BaseModel]) -> type[BaseModel] | None:
    """The model whose fields are the keys at `path`, for hints about unknown keys."""
    model: Any = root
    for part in path:
        if isinstance(part, int):
            continue
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        model = next((kind for kind in _models_in(fields.get(part)) if kind), None)
        if model is None:
            return None
    return model if isinstance(model, type) else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _respelled_value(kind: str, error: Any) -> Fix | None:
    if kind == "literal_error":
        return respelled(error["input"], re.findall(r"'([^']*)'", error["msg"]))
    return spelled_unit(error["input"]) if kind == "value_error" else None
