"""Old rules, new rules -> who may act by itself from now on, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from osremed.core.errors import BadInput
from osremed.gitops.shelf import is_runbook
from osremed.gitops.tree import Files
from osremed.runbook.guardpolicy import KIND, GuardPolicy, kind_of, parse_guard_policy
from osremed.runbook.text import parse_text


def bolder(old: Files, new: Files) -> tuple[str, ...]:
    """What acts unasked that asked before; what is faulty says nothing. A mode that a policy gave and gives no more
    counts, too: where it held a runbook back, that is free."""
    before, after = _freed(old), _freed(new)
    held_before, held_after = _held(old), _held(new)
    free = [what for what in after if what not in before]
    return (*free, *(f"{what} no more" for what in held_before if what not in held_after))


def _freed(files: Files) -> list[str]:
    own = [path.split("/")[1] for path in sorted(files) if is_runbook(path) and _mode(files[path], path) == "auto"]
    return [f"{name} acts by itself" for name in own] + [
        f"{name} acts by itself on {policy.hosts} (policies/{policy.metadata.name}.yaml)"
        for policy in _policies(files)
        if policy.mode == "auto"
        for name in policy.runbooks
    ]


def _held(files: Files) -> list[str]:
    return [
        f"policies/{policy.metadata.name}.yaml asks about {name} on {policy.hosts}"
        for policy in _policies(files)
        if policy.mode == "suggest"
        for name in policy.runbooks or ["all runbooks"]
    ]


def _mode(content: bytes, path: str) -> str:
    try:
        data = parse_text(content, path).data
    except BadInput:
        return ""
    return str(data.get("mode", "")) if isinstance(data, dict) else ""


def _policies(files: Files) -> Iterator[GuardPolicy]:
    for path in sorted(files):
        if path.startswith("policies/"):
            try:
                if kind_of(files[path], path) == KIND:
                    yield parse_guard_policy(files[path], path)
            except BadInput:
                continue
