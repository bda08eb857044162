"""Old rules, new rules -> what changes, in words; and whether so much may change at once. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.record import record
from osremed.core.textdiff import unified
from osremed.gitops.tree import Files, digest_of

_MAX_DIFF_LINES = 400


@record
class Change:
    """`kind` is added, changed or removed; `rule` is runbooks/<name> or policies/<name>; `diff` is unified text."""

    kind: str
    rule: str
    diff: str

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "rule": self.rule, "diff": self.diff}


@record
class Plan:
    """`refused` says why it may not go live by itself; empty when it may."""

    old: str
    new: str
    changes: tuple[Change, ...]
    refused: str

    @property
    def empty(self) -> bool:
        return self.old == self.new

    def as_json(self) -> dict[str, Any]:
        changes = [change.as_json() for change in self.changes]
        return {"old": self.old, "new": self.new, "refused": self.refused, "changes": changes}


def rule_of(path: str) -> str:
    """The rule a file belongs to: runbooks/<name> whole, a policy by its file."""
    parts = path.split("/")
    return "/".join(parts[:2])


def _by_rule(files: Files) -> Mapping[str, Files]:
    rules: dict[str, dict[str, bytes]] = {}
    for path, content in files.items():
        rules.setdefault(rule_of(path), {})[path] = content
    return rules


def plan(old: Files, new: Files, *, max_removed: float) -> Plan:
    """What the new set changes. Refused if it is empty, or if more than that share of the live rules vanish."""
    before, after = _by_rule(old), _by_rule(new)
    changes = tuple(_changes(before, after))
    removed = [change.rule for change in changes if change.kind == "removed"]
    refused = ""
    if not any(path.startswith("runbooks/") for path in new):
        refused = "the new set has no runbook: an empty set is a mistake, not a wish"
    elif len(removed) > max_removed * len(before):
        share = f"{len(removed)} of {len(before)} rules"
        refused = f"{share} would vanish, at most {max_removed:.0%} may: {', '.join(removed[:5])}"
    return Plan(digest_of(old) if old else "", digest_of(new), changes, refused)


def _changes(before: Mapping[str, Files], after: Mapping[str, Files]) -> Iterator[Change]:
    for rule in sorted({*before, *after}):
        old, new = before.get(rule, {}), after.get(rule, {})
        if old != new:
            kind = "changed" if old and new else "added" if new else "removed"
            yield Change(kind, rule, _diff(old, new) if kind == "changed" else "")


def _diff(old: Files, new: Files) -> str:
    lines: list[str] = []
    for path in sorted({*old, *new}):
        before, after = old.get(path, b""), new.get(path, b"")
        lines += unified(_text(before), _text(after), path)
    if len(lines) > _MAX_DIFF_LINES:
        lines = [*lines[:_MAX_DIFF_LINES], f"… {len(lines) - _MAX_DIFF_LINES} more lines"]
    return "\n".join(lines)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
