"""Parameters of a part: values put in the place of `parameters.<name>`, as literals of the template language.

A value is data, or one whole `{{ expression }}`, put in with parentheses: it then means there what it means at the use,
for the template around it may not set a name that it reads. Everything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from jinja2 import TemplateError

from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.runbook.actions import COLLECTORS
from osremed.runbook.expressions import lexed, names_set, names_used
from osremed.runbook.faults import Fault
from osremed.runbook.shape import choices
from osremed.runbook.text import Path, Place, Text

NAME = "parameters"
_HINT = "a literal, or one whole expression such as \"{{ 'node-' ~ event.node }}\""
_MARKUP = ("{{", "{%", "{#")
#: What an expression may name somewhere in a runbook; where, lint knows.
_NAMES = frozenset({"event", "host", "finding", "risk", *COLLECTORS})
_BRACED = re.compile(r"\{[{%].*?\bparameters\b", re.DOTALL)
_EXPECTED = re.compile(r"\bparameters\s*\.\s*(\w+)")


@record
class Given:
    """A value, and where it stands: `path` in `text`. `open`: a part alone, nobody has given it yet."""

    data: Any
    text: Text
    path: Path
    open: bool = False

    @property
    def where(self) -> str:
        return self.text.where(self.path)


def value_faults(value: Any, text: Text, path: Path) -> Iterator[BadInput]:
    """What keeps a value from standing in the place of a parameter."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if any(mark in key for mark in _MARKUP):
                what = "a key is no template"
                yield Fault("part-parameter", what, where=text.where((*path, key), key=True), hint=_HINT)
            yield from value_faults(item, text, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from value_faults(item, text, (*path, index))
    elif isinstance(value, str) and any(mark in value for mark in _MARKUP):
        where = text.where(path)
        try:
            expression = _expression(value)
            names = names_used(expression) if expression is not None else frozenset()
        except TemplateError as error:
            yield Fault("part-parameter", f"does not parse: {error.message}", where=where, hint=_HINT)
        except BadInput as error:
            yield Fault("part-parameter", error.what, where=where, hint=error.hint)
        else:
            if expression is None:
                yield Fault("part-parameter", "text around an expression has no place there", where=where, hint=_HINT)
            for name in sorted(names - _NAMES):
                hint = choices(name, _NAMES)
                yield Fault("part-parameter", f"undefined name {name!r} in expression", where=where, hint=hint)


def _expression(value: str) -> str | None:
    """What stands in a string that is one `{{ … }}` and nothing else."""
    tokens = lexed(value.strip())
    ends = [kind for kind, _text in tokens if kind.endswith(("_begin", "_end")) or kind == "data"]
    if ends != ["variable_begin", "variable_end"] or (tokens[0][1], tokens[-1][1]) != ("{{", "}}"):
        return None
    return "".join(text for _kind, text in tokens[1:-1]).strip()


def literal(value: Any) -> str:
    """A sound value, as the template language writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        text = format(Decimal(repr(value)), "f")
        return f"({text})" if value < 0 else text
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_quoted(key)}: {literal(item)}' for key, item in value.items())}}}"
    expression = _expression(value) if "{{" in value else None
    return f"({expression})" if expression is not None else _quoted(value)


def _quoted(text: str) -> str:
    for raw, written in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(raw, written)
    return f"'{text}'"


def _read_by(value: Any) -> frozenset[str]:
    """The names that the expressions in a sound value read."""
    if isinstance(value, (list, Mapping)):
        items = value.values() if isinstance(value, Mapping) else value
        return frozenset().union(*map(_read_by, items))
    expression = _expression(value) if isinstance(value, str) and "{{" in value else None
    return names_used(expression) if expression is not None else frozenset()


class Filling:
    """A part with its parameters filled in: `faults` and `used` tell what was met on the way."""

    def __init__(self, part: Text, values: Mapping[str, Given], declared: Mapping[str, Any]) -> None:
        self._part, self._values, self._declared = part, values, declared
        self._places: dict[Path, Place] = {}
        self._keys: dict[Path, Place] = {}
        self.faults: list[BadInput] = []
        self.used: set[str] = set()

    def fill(self, sections: tuple[str, ...]) -> Text:
        data = {key: self._walk(value, (key,)) for key, value in self._part.data.items() if key in sections}
        return Text(self._part.source, data, self._places, self._keys)

    def _walk(self, value: Any, path: Path) -> Any:
        self._places[path] = self._part.place(path)
        if path in self._part.keys:
            self._keys[path] = self._part.keys[path]
        if isinstance(value, dict):
            return {key: self._walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._walk(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or NAME not in value:
            return value
        try:
            return self._string(value, path)
        except TemplateError as error:
            self._fault(f"expression does not parse: {error.message}", path, rule="bad-template")
            return value

    def _string(self, value: str, path: Path) -> Any:
        kind = _kind(path)
        if kind == "expect":
            return _EXPECTED.sub(lambda found: self._number(found[1], path), value)
        if kind == "condition":
            return self._spliced(f"{{{{ {value} }}}}", path)[3:-3]
        if kind == "template":
            return self._spliced(value, path)
        if kind == "arguments":
            return self._argument(value, path)
        if _BRACED.search(value):
            hint = "parameters stand in conditions, in templates (`with`, summary, expected_gain) and in `expect`"
            self._fault("no template is read here", path, hint)
        return value

    def _argument(self, value: str, path: Path) -> Any:
        tokens = [token for token in lexed(value.strip()) if token[0] != "whitespace"]
        whole = [text for _kind, text in tokens]
        if len(whole) == 5 and whole[:3] == ["{{", NAME, "."] and whole[4] == "}}":
            given = self._given(whole[3], path)
            if given is None or (isinstance(given.data, str) and "{" in given.data and not _read_by(given.data)):
                return self._spliced(value, path)
            self._copy(given.data, given, given.path, path)
            return given.data
        return self._spliced(value, path)

    def _copy(self, value: Any, given: Given, old: Path, new: Path) -> None:
        """Places of a value that stands elsewhere."""
        self._places[new] = given.text.place(old)
        if isinstance(value, (dict, list)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                self._copy(item, given, (*old, key), (*new, key))

    def _spliced(self, source: str, path: Path) -> str:
        tokens = lexed(source)
        solid = [index for index, (kind, _text) in enumerate(tokens) if kind != "whitespace"]
        texts = [text for _kind, text in tokens]
        sets = names_set(source)
        for at, index in enumerate(solid):
            kind, text = tokens[index]
            if kind != "name" or text != NAME or (at and tokens[solid[at - 1]] == ("operator", ".")):
                continue
            after = solid[at + 1 : at + 3]
            if len(after) < 2 or tokens[after[0]] != ("operator", ".") or tokens[after[1]][0] != "name":
                self._fault("`parameters` is no value of its own", path, "write parameters.<name>")
                continue
            given = self._given(tokens[after[1]][1], path)
            if given is None:
                continue
            for name in sorted(sets & _read_by(given.data)) if not given.open else ():
                what = f"the value reads {name!r}, which the template at {self._part.where(path)} sets"
                self.faults.append(Fault("part-parameter", what, where=given.where, hint="rename it in the part"))
            texts[index : after[1] + 1] = [literal(given.data), *[""] * (after[1] - index)]
        return "".join(texts)

    def _number(self, name: str, path: Path) -> str:
        given = self._given(name, path)
        if given is None or given.open:
            return "0"
        if isinstance(given.data, bool) or not isinstance(given.data, (int, float)):
            hint = f"it stands in `expect` at {self._part.where(path)}: give a number"
            self.faults.append(Fault("part-parameter", f"{name} is not a number", where=given.where, hint=hint))
            return "0"
        return format(Decimal(repr(given.data)), "f")

    def _given(self, name: str, path: Path) -> Given | None:
        self.used.add(name)
        if name not in self._declared:
            hint = choices(name, self._declared) if self._declared else "declare it in `parameters`"
            self._fault(f"the part has no parameter {name!r}", path, hint)
        return self._values.get(name)

    def _fault(self, what: str, path: Path, hint: str = "", rule: str = "part-parameter") -> None:
        self.faults.append(Fault(rule, what, where=self._part.where(path), hint=hint))


def _kind(path: Path) -> str:
    """What a string at `path` of a part is read as."""
    key, rest = path[0], path[2:]
    if (key == "collect" and len(rest) > 1) or (len(rest) > 1 and rest[0] == "with"):
        return "arguments"
    if rest in {("when",), ("approval", "required")}:
        return "condition"
    if key == "diagnose" and rest in {("summary",), ("expected_gain",)}:
        return "template"
    return "expect" if key == "verify" and rest == ("expect",) else "text"
