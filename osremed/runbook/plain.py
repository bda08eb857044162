"""Plain conditions as plain functions: ten times as fast as a template, with the same answer or none.

Only comparisons, `and`, `or`, `not`, constants, keys of documents and `default`. Wherever a function made here raises,
the template is asked, and says what is wrong in its words.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes

#: Data -> value of one part of a condition.
Part = Callable[[Mapping[str, Any]], Any]


class NotPlain(Exception):
    """The condition has a part that only a template can evaluate."""


_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, container: item in container,
    "notin": lambda item, container: item not in container,
}


def _const(node: nodes.Const) -> Part:
    value = node.value
    return lambda _data: value


def _list(node: nodes.List) -> Part:
    if not all(isinstance(item, nodes.Const) for item in node.items):
        raise NotPlain
    values = [item.value for item in node.items if isinstance(item, nodes.Const)]
    return lambda _data: values


def _name(node: nodes.Name) -> Part:
    return operator.itemgetter(node.name)


def _attribute(node: nodes.Getattr) -> Part:
    of, key = plain(node.node), node.attr

    def read(data: Mapping[str, Any]) -> Any:
        document = of(data)
        if not isinstance(document, dict):
            raise LookupError(key)
        return document[key]

    return read


def _default(node: nodes.Filter) -> Part:
    """`document.key | default('x')`: only of a key, and only of a document that is there."""
    if node.name not in ("default", "d") or len(node.args) != 1 or node.kwargs or node.dyn_args or node.dyn_kwargs:
        raise NotPlain
    if not isinstance(node.node, nodes.Getattr):
        raise NotPlain
    of, key, otherwise = plain(node.node.node), node.node.attr, plain(node.args[0])

    def read(data: Mapping[str, Any]) -> Any:
        document = of(data)
        if not isinstance(document, dict):
            raise LookupError(key)
        return document[key] if key in document else otherwise(data)

    return read


def _compare(node: nodes.Compare) -> Part:
    if len(node.ops) != 1:
        raise NotPlain
    compare, left, right = _COMPARE[node.ops[0].op], plain(node.expr), plain(node.ops[0].expr)
    return lambda data: compare(left(data), right(data))


def _and(node: nodes.And) -> Part:
    left, right = plain(node.left), plain(node.right)
    return lambda data: left(data) and right(data)


def _or(node: nodes.Or) -> Part:
    left, right = plain(node.left), plain(node.right)
    return lambda data: left(data) or right(data)


def _not(node: nodes.Not) -> Part:
    inner = plain(node.node)
    return lambda data: not inner(data)


_PARTS: Mapping[type[nodes.Node], Callable[[Any], Part]] = {
    nodes.Const: _const,
    nodes.List: _list,
    nodes.Name: _name,
    nodes.Getattr: _attribute,
    nodes.Filter: _default,
    nodes.Compare: _compare,
    nodes.And: _and,
    nodes.Or: _or,
    nodes.Not: _not,
}


def plain(node: nodes.Node) -> Part:
    """The function of a parsed condition. NotPlain if a part of it is not."""
    make = _PARTS.get(type(node))
    if make is None:
        raise NotPlain
    return make(node)
