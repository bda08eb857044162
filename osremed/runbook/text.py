"""YAML with places: strict text -> plain data plus the line and column of every key and value.

Stricter than YAML 1.1: `on`, `yes`, `no` are words, not booleans; duplicate keys, aliases, tags and multiple documents
are errors; a file has at most 256 KiB and 32 levels. `dump` writes what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import yaml

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.record import record

Path = tuple[str | int, ...]
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_MAX_BYTES = 256 << 10
_MAX_DEPTH = 32


@record
class Place:
    """`source`: the file, where that is not the one of the text around it."""

    line: int
    column: int
    source: str = ""


@record
class Text:
    """Parsed text. `places` maps the path of each key and item to where its value begins, `keys` to its key."""

    source: str
    data: Any
    places: Mapping[Path, Place]
    keys: Mapping[Path, Place]

    def where(self, path: Path, *, key: bool = False) -> str:
        """`file:line:column` of the value (or key) at `path`, or of the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        table = self.keys if key and path in self.keys else self.places
        place = table.get(path, Place(1, 1))
        return f"{place.source or self.source}:{place.line}:{place.column}"

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of the value (or key) at `path`, with its file."""
        found = (self.keys if key else self.places).get(path, Place(1, 1))
        return Place(found.line, found.column, found.source or self.source)


#: libyaml's parser where PyYAML was built with it: the same nodes and marks, ten times as fast.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """SafeLoader whose only implicit scalars are null, true/false, integers and floats as JSON writes them."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^-?(?:0|[1-9][0-9]{0,17})$", list("-0123456789")),
    ("float", r"^-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}$", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


class _Walk:
    def __init__(self, source: str, loader: _Loader) -> None:
        self.source, self.loader = source, loader
        self.places: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}

    def fail(self, what: str, node: yaml.Node, hint: str = "") -> BadInput:
        place = _place(node.start_mark)
        return BadInput(what, where=f"{self.source}:{place.line}:{place.column}", hint=hint)

    def build(self, node: yaml.Node, path: Path) -> Any:
        if len(path) > _MAX_DEPTH:
            raise self.fail(f"nested deeper than {_MAX_DEPTH} levels", node)
        self.places[path] = _place(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag in _TAGS:
            try:
                return self.loader.construct_object(node)
            except (ValueError, yaml.YAMLError) as error:
                raise self.fail(f"unreadable value: {error}", node) from error
        raise self.fail(f"tag {node.tag!r} is not allowed", node, "write plain values")

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail("a key must be a word", key_node, 'quote a template: "{{ ... }}"')
            key = str(key_node.value)
            if key in result:
                first = self.keys[(*path, key)]
                raise self.fail(
                    f"duplicate key {key!r}, first given in line {first.line}", key_node, "keep one of them"
                )
            self.keys[(*path, key)] = _place(key_node.start_mark)
            result[key] = self.build(value_node, (*path, key))
        return result


def parse_text(content: bytes, source: str) -> Text:
    """The data with its places. BadInput with file:line:column for anything that is not one strict YAML document."""
    if len(content) > _MAX_BYTES:
        raise BadInput(f"{len(content)} bytes, at most {_MAX_BYTES} are read", where=source)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8: {error.reason} at byte {error.start}", where=source) from error
    loader = None
    try:
        loader = _Loader(text)
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                place = _place(event.start_mark)
                where = f"{source}:{place.line}:{place.column}"
                raise BadInput("anchors and aliases are not allowed", where=where, hint="write the value out")
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise BadInput(f"not YAML: {error.problem or error.context}", where=where) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"not YAML: {error}", where=source) from error
    if node is None:
        raise BadInput("the file is empty", where=f"{source}:1:1")
    walk = _Walk(source, loader)
    data = walk.build(node, ())
    return Text(source, data, walk.places, walk.keys)


def read_text(path: str) -> Text:
    """`parse_text` of a file. BadInput if it cannot be read."""
    try:
        content = read_bytes(path, limit_bytes=_MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error
    return parse_text(content, path)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 the base class names it
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    """Without an exponent, which strict text does not read."""
    text = format(Decimal(repr(value)), "f")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text if "." in text else f"{text}.0")


_Dumper.add_representer(float, _float)


def dump(data: Any) -> bytes:
    """YAML that `parse_text` reads back to an equal value."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text.encode("utf-8")
