"""Faults as SARIF 2.1.0, which code hosts show beside the line of a change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from osremed.core.record import record
from osremed.runbook.faults import RULES

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@record
class Shown:
    """One result: `rule` is a key of RULES, `where` is file:line:column, relative to the repository."""

    rule: str
    where: str
    what: str
    hint: str = ""


def as_sarif(results: Sequence[Shown], version: str) -> dict[str, Any]:
    """The document."""
    names = sorted({each.rule for each in results})
    rules = [{"id": name, "shortDescription": {"text": f"{RULES[name]}."}} for name in names]
    driver = {"name": "osremed", "semanticVersion": version, "rules": rules}
    shown = [_result(each, names.index(each.rule)) for each in results]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": shown}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(each: Shown, index: int) -> dict[str, Any]:
    found = re.fullmatch(r"(.*?)(?::(\d+))?(?::(\d+))?", each.where, re.DOTALL)
    path, line, column = found.groups() if found else (each.where, None, None)
    region = {"startLine": int(line or 1), "startColumn": int(column or 1)}
    location: dict[str, Any] = {"artifactLocation": {"uri": quote(path)}, "region": region}
    text = f"{each.what}. {each.hint}" if each.hint else each.what
    return {
        "ruleId": each.rule,
        "ruleIndex": index,
        "level": "error",
        "message": {"text": text},
        "locations": [{"physicalLocation": location}],
    }
