"""Old rules, new rules -> what changes, in words; and whether so much may change at once. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.record import record
from osremed.core.textdiff import unified
from osremed.gitops.bolder import bolder
from osremed.gitops.shelf import checked, is_part_file, is_runbook
from osremed.gitops.tree import Files, digest_of
from osremed.runbook.parts import parts_used
from osremed.runbook.text import dump, parse_text

_MAX_DIFF_LINES = 400


@record
class Change:
    """`kind` is added, changed or removed; `rule` is runbooks/<name>, runbooks/parts/<name>.yaml or
    policies/<name>.yaml; `diff` is unified text."""

    kind: str
    rule: str
    diff: str

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "rule": self.rule, "diff": self.diff}


@record
class Plan:
    """`refused` says why it may not go live by itself; empty when it may. `bolder`: what acts unasked from then on."""

    old: str
    new: str
    changes: tuple[Change, ...]
    refused: str
    bolder: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return self.old == self.new

    def as_json(self) -> dict[str, Any]:
        changes = [change.as_json() for change in self.changes]
        told = {"old": self.old, "new": self.new, "refused": self.refused}
        return {**told, "bolder": list(self.bolder), "changes": changes}


def rule_of(path: str) -> str:
    """The rule a file belongs to: runbooks/<name> whole, a policy or a part by its file."""
    return path if is_part_file(path) else "/".join(path.split("/")[:2])


def _by_rule(files: Files) -> Mapping[str, Files]:
    rules: dict[str, dict[str, bytes]] = {}
    for path, content in files.items():
        rules.setdefault(rule_of(path), {})[path] = content
    return rules


def plan(old: Files, new: Files, *, max_removed: float) -> Plan:
    """What the new set changes. Refused if it is empty, or if more than that share of the live rules vanish."""
    before, after = map(_by_rule, _with_flattened(old, new))
    changes = tuple(_changes(before, after))
    removed = [change.rule for change in changes if change.kind == "removed"]
    refused = ""
    if not any(path.startswith("runbooks/") for path in new):
        refused = "the new set has no runbook: an empty set is a mistake, not a wish"
    elif len(removed) > max_removed * len(before):
        share = f"{len(removed)} of {len(before)} rules"
        refused = f"{share} would vanish, at most {max_removed:.0%} may: {', '.join(removed[:5])}"
    return Plan(digest_of(old) if old else "", digest_of(new), changes, refused, bolder(old, new))


def _with_flattened(old: Files, new: Files) -> tuple[Files, Files]:
    """Both sets, and beside each runbook that uses parts, in one or the other, what it is with them in it: a changed
    part is a change of every runbook that uses it. What is faulty stands there as it is written alone."""
    before, after = dict(old), dict(new)
    for path in old:
        if is_runbook(path) and path in new and any(parts_used(side[path], path) for side in (old, new)):
            flat = [checked(side, path) for side in (old, new)]
            if not any(each.faults for each in flat):
                name = f"{path}, with its parts"
                before[name], after[name] = (dump(parse_text(each.content, path).data) for each in flat)
    return before, after


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
