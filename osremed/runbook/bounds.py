"""The part of Jinja2 a runbook may use: nothing in it can loop without end or grow without bound.

An expression reads documents of bounded size in a bounded number of steps: no loops, no calls but a few methods, no
literal that holds a variable, numbers that stay small, text that stays short. What is outside is refused when linted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from osremed.core.errors import BadInput

MAX_TEXT = 64 << 10  #: characters a single filter may make
_MAX_INTEGER = 1 << 128
_MAX_DIGITS = 12
_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Assign, nodes.If)
#: Filters that give back at most what they were given.
_PLAIN = (
    "abs attr capitalize count d default dictsort e escape first float groupby int items last length list lower map max"
    " min reject rejectattr reverse select selectattr sort string sum title tojson trim truncate unique upper"
)
METHODS = frozenset(("startswith", "endswith", "lower", "upper", "strip", "split", "count", "find"))


def _refuse(what: str) -> NoReturn:
    raise SecurityError(what)


def _number(name: str, operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def bounded(left: Any, right: Any) -> Any:
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            _refuse(f"`{name}` is for numbers, not for {type(left).__name__} and {type(right).__name__}")
        result = operation(left, right)
        if isinstance(result, int) and abs(result) > _MAX_INTEGER:
            _refuse(f"`{name}` gives a number above 2**128")
        return result

    return bounded


BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": _number("+", lambda left, right: left + right),
    "-": _number("-", lambda left, right: left - right),
    "*": _number("*", lambda left, right: left * right),
    "%": _number("%", lambda left, right: left % right),
}


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if not 0 <= precision <= _MAX_DIGITS:
        _refuse(f"round takes 0 to {_MAX_DIGITS} digits")
    return FILTERS["round"](value, precision, method)


def _replace(text: Any, old: str, new: str) -> str:
    given = str(text)
    if len(given) + given.count(old) * len(new) > MAX_TEXT:
        _refuse(f"replace makes more than {MAX_TEXT} characters")
    return given.replace(old, new)


def _join(values: Any, between: str = "", attribute: str | None = None) -> str:
    items = [str(item if attribute is None else item[attribute]) for item in values]
    if sum(map(len, items)) + len(items) * len(between) > MAX_TEXT:
        _refuse(f"join makes more than {MAX_TEXT} characters")
    return between.join(items)


#: The filters by name; those that could grow are ours, with a bound.
BOUNDED_FILTERS: dict[str, Any] = {
    **{name: FILTERS[name] for name in _PLAIN.split()},
    "round": _round,
    "replace": _replace,
    "join": _join,
}


def parse_bounded(source: str, environment: Environment) -> nodes.Template:
    """The parsed template. BadInput for anything outside the bounded part, TemplateSyntaxError if it does not parse."""
    template = environment.parse(source)
    for node in _walk(template):
        why = _outside(node)
        if why:
            raise BadInput(f"expression {why[0]}", hint=why[1])
    return template


def _walk(node: nodes.Node) -> list[nodes.Node]:
    found, waiting = [], [node]
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting.extend(current.iter_child_nodes())
    return found


def _outside(node: nodes.Node) -> tuple[str, str] | None:
    for is_outside, what, hint in _RULES:
        if is_outside(node):
            return what.format(name=getattr(node, "name", "")), hint
    return None


def _constant(node: nodes.Node) -> bool:
    plain = (nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Const, nodes.Neg)
    return all(isinstance(each, plain) for each in _walk(node))


def _known_call(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr in METHODS
    return isinstance(node, nodes.Name) and node.name == "finding"


#: (which nodes, what is wrong with them, what to write instead)
_RULES: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (
        lambda node: isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS),
        "uses a statement other than set and if",
        "filters such as map, select and join go through a list",
    ),
    (lambda node: isinstance(node, nodes.Pow), "uses **", "write the number out"),
    (lambda node: isinstance(node, nodes.Concat), "uses ~", "use a template: text {{ value }} text"),
    (
        lambda node: isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)) and not _constant(node),
        "puts a variable into a list",
        "lists and mappings in expressions hold plain values",
    ),
    (
        lambda node: isinstance(node, nodes.Getattr) and node.attr.startswith("_"),
        "reads a name with an underscore first",
        "documents have no such keys",
    ),
    (
        lambda node: isinstance(node, nodes.Filter) and node.name not in BOUNDED_FILTERS,
        "uses the filter {name!r}",
        f"filters: {', '.join(sorted(BOUNDED_FILTERS))}",
    ),
    (
        lambda node: isinstance(node, nodes.Test) and node.name not in TESTS,
        "uses the test {name!r}",
        f"tests: {', '.join(sorted(TESTS))}",
    ),
    (
        lambda node: isinstance(node, nodes.Call) and not _known_call(node.node),
        "calls something",
        f"methods: {', '.join(sorted(METHODS))}",
    ),
)
