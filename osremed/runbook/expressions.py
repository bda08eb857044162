"""Conditions and templates of a runbook: Jinja2, sandboxed, strict about undefined names.

An expression is checked when the runbook is linted (syntax, names, bounds) and evaluated against plain data. One that
cannot be evaluated, say because the evidence it asks for is Missing, is neither true nor false: ExpressionFailed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.environment import TemplateExpression
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from osremed.core.errors import BadInput, OsremedError
from osremed.runbook.bounds import BINARY, BOUNDED_FILTERS, parse_bounded
from osremed.runbook.plain import NotPlain, Part, plain

_WHOLE = re.compile(r"\{\{(.*)\}\}", re.DOTALL)
_RISKS = ("low", "medium", "high")
#: What an expression without a value for its data raises.
_NO_VALUE = (TemplateError, SecurityError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError)


class ExpressionFailed(OsremedError):
    """The expression has no value for this data."""

    code = "input.expression"


class Risk(str):
    """`low` < `medium` < `high`, comparable with those words: `risk >= 'medium'`."""

    __slots__ = ()
    __hash__ = str.__hash__

    def _ranks(self, other: object) -> tuple[int, int]:
        if other not in _RISKS:
            raise TypeError(f"risk is compared with {other!r}; use one of {', '.join(_RISKS)}")
        return _RISKS.index(str(self)), _RISKS.index(str(other))

    def __lt__(self, other: object) -> bool:
        mine, theirs = self._ranks(other)
        return mine < theirs

    def __le__(self, other: object) -> bool:
        mine, theirs = self._ranks(other)
        return mine <= theirs

    def __gt__(self, other: object) -> bool:
        return not self <= other

    def __ge__(self, other: object) -> bool:
        return not self < other


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset(BINARY)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Documents first: `event.items` is the attribute of that name, never the method of dict."""
        if isinstance(obj, Mapping):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


_ENVIRONMENT = _Environment(undefined=StrictUndefined, autoescape=False)
_ENVIRONMENT.binop_table = {**_ENVIRONMENT.binop_table, **BINARY}
_ENVIRONMENT.filters = BOUNDED_FILTERS
_ENVIRONMENT.globals.clear()


@lru_cache(maxsize=4096)
def _names(source: str) -> frozenset[str]:
    """The names a bounded template reads. BadInput or TemplateSyntaxError for anything else."""
    return frozenset(meta.find_undeclared_variables(parse_bounded(source, _ENVIRONMENT)))


def _check(source: str, allowed: Iterable[str], where: str) -> None:
    known = sorted(allowed)
    try:
        undefined = sorted(_names(source) - set(known))
    except BadInput as error:
        raise BadInput(error.what, where=where, hint=error.hint) from None
    except TemplateError as error:
        raise BadInput(f"expression does not parse: {error.message}", where=where) from error
    if undefined:
        hint = f"names here are {', '.join(known)}"
        raise BadInput(f"undefined name {undefined[0]!r} in expression", where=where, hint=hint)


def check_condition(expression: str, *, allowed: Iterable[str], where: str) -> None:
    """BadInput at `where` unless the condition parses and uses only `allowed` names."""
    if "{{" in expression or "{%" in expression:
        raise BadInput("a condition is a bare expression", where=where, hint="leave out the {{ }}")
    _check(f"{{{{ {expression} }}}}", allowed, where)


def check_template(value: Any, *, allowed: Iterable[str], where: str) -> None:
    """BadInput at `where` unless every string inside `value` parses and uses only `allowed` names."""
    if isinstance(value, str):
        _check(value, allowed, where)
    elif isinstance(value, Mapping):
        for item in value.values():
            check_template(item, allowed=allowed, where=where)
    elif isinstance(value, list):
        for item in value:
            check_template(item, allowed=allowed, where=where)


def lexed(source: str) -> list[tuple[str, str]]:
    """(kind, text) of each token of a template; joined they are the source. TemplateSyntaxError if there are none."""
    source = "\n".join(source.splitlines()) if "\r" in source else source
    found, at = [], 0
    for _line, kind, token in _ENVIRONMENT.lexer.tokeniter(source, None):
        start = source.index(token, at)
        found += [("data", source[at:start])] if start > at else []  # white space that a `{{-` takes away
        found.append((kind, token))
        at = start + len(token)
    return [*found, ("data", source[at:])] if at < len(source) else found


def names_set(source: str) -> frozenset[str]:
    """The names that a template gives a value to. TemplateSyntaxError if it does not parse."""
    found = _ENVIRONMENT.parse(source).find_all(nodes.Name)
    return frozenset(name.name for name in found if name.ctx != "load")


def names_used(expression: str) -> frozenset[str]:
    """The top-level names a condition reads."""
    return _names(f"{{{{ {expression} }}}}")


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> TemplateExpression:
    return _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)


def _value(expression: str, data: Mapping[str, Any]) -> Any:
    try:
        result = _compiled(expression)(**data)
        if isinstance(result, StrictUndefined):
            result._fail_with_undefined_error()
        if isinstance(result, Iterator):  # what `map` and `select` give
            result = list(result)
    except _NO_VALUE as error:
        raise ExpressionFailed(f"`{expression}` has no value: {error}") from error
    return result


@lru_cache(maxsize=4096)
def _plainly(expression: str) -> Part | None:
    """None for what only Jinja can evaluate, or refuse."""
    try:
        output = _ENVIRONMENT.parse(f"{{{{ {expression} }}}}").body
        shown = output[0].nodes if len(output) == 1 and isinstance(output[0], nodes.Output) else []
        return plain(shown[0]) if len(shown) == 1 else None
    except (TemplateError, NotPlain, RecursionError):
        return None


def condition_holds(expression: str, data: Mapping[str, Any]) -> bool:
    """True or False. ExpressionFailed when it has no value, or one that is not a truth value."""
    evaluate = _plainly(expression)
    try:
        result = evaluate(data) if evaluate else _value(expression, data)
    except (*_NO_VALUE, RecursionError):
        result = _value(expression, data)  # which says why
    if not isinstance(result, bool):
        raise ExpressionFailed(f"`{expression}` gives {result!r}, not true or false")
    return result


def render(value: Any, data: Mapping[str, Any]) -> Any:
    """`value` with its templates filled in. A string that is one `{{ … }}` keeps the type of its result; others become
    text. ExpressionFailed when a name has no value."""
    if isinstance(value, Mapping):
        return {key: render(item, data) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, data) for item in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    whole = _WHOLE.fullmatch(value.strip())
    if whole and "{{" not in whole.group(1):
        return _value(whole.group(1).strip(), data)
    try:
        return _ENVIRONMENT.from_string(value).render(**data)
    except _NO_VALUE as error:
        raise ExpressionFailed(f"`{value}` has no value: {error}") from error
