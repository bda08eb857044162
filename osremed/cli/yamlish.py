"""JSON documents as YAML 1.2, without a library: a host has none. Strings are quoted, so no word is mistaken for a
number, a date or a truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        mantissa, e, power = json.dumps(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa or not e else '.0'}{e}{power}"  # YAML 1.1 wants the point
    if not isinstance(value, str):
        return json.dumps(value) if value not in ({}, []) else ("{}" if isinstance(value, dict) else "[]")
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else _escaped(each) for each in quoted)


def _escaped(character: str) -> str:
    """YAML has \\U for what JSON writes as a pair of surrogates."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.match(key) and key.lower() not in _WORDS else _scalar(key)


def _lines(value: Any, indent: str) -> Iterator[str]:
    """The lines of an object or list that is not empty."""
    pairs = [(f"{_key(str(key))}:", each) for key, each in value.items()] if isinstance(value, dict) else None
    for head, each in pairs if pairs is not None else [("-", each) for each in value]:
        if not isinstance(each, (dict, list, tuple)) or not each:
            yield f"{indent}{head} {_scalar(each)}"
            continue
        below = list(_lines(each, f"{indent}  "))
        if head == "-":
            yield f"{indent}- {below[0].lstrip(' ')}"
            yield from below[1:]
        else:
            yield f"{indent}{head}"
            yield from below


def yaml(document: Any) -> str:
    """The document; no newline at the end."""
    if not isinstance(document, (dict, list, tuple)) or not document:
        return _scalar(document)
    return "\n".join(_lines(document, ""))
