"""A change of rules as a comment under a pull request: what changes, how far it reaches, what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from osremed.gitops.gate import Problem
from osremed.gitops.plan import Plan
from osremed.gitops.shelf import checked
from osremed.gitops.tree import Files
from osremed.runbook.actions import STEPS
from osremed.runbook.document import Runbook
from osremed.runbook.replay import Replayed

_SHOWN = 30
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>()#!|~"})


def escaped(text: str) -> str:
    """Foreign text as Markdown shows it: on one line, nothing in it is markup."""
    return " ".join(text.split()).translate(_ESCAPED)


def fenced(text: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}diff", text, fence]


def markdown_of(
    change: Plan,
    problems: Sequence[Problem],
    files: Files,
    replayed: Replayed | None = None,
    free: Sequence[str] = (),
) -> str:
    """The comment. `replayed`: what both sets of rules make of past events; `free`: what acts unasked from now on."""
    lines = ["## Remediation rules", ""]
    lines += [f"**{len(problems)} problems: this would not go live**" if problems else "Every check passes.", ""]
    lines += [f"- `{problem.rule}` {escaped(problem.where)}: {escaped(problem.what)}" for problem in problems]
    lines += ["", *(f"- **unasked from now on**: {escaped(each)}" for each in free)] if free else []
    lines += ["", "| rule | change | risk | reach |", "|---|---|---|---|"]
    for each in change.changes:
        risk, reach = _weight(each.rule, files)
        lines.append(f"| {escaped(each.rule)} | {each.kind} | {risk} | {escaped(reach)} |")
    for each in change.changes:
        if each.diff:
            lines += ["", f"<details><summary>{escaped(each.rule)}</summary>", "", *fenced(each.diff), "", "</details>"]
    if replayed is not None:
        lines += ["", *_decisions(replayed)]
    return "\n".join(lines) + "\n"


def _decisions(replayed: Replayed) -> Iterator[str]:
    count = len(replayed.differences)
    unasked = "" if replayed.fleet else " Neither guards nor policies of groups were asked."
    yield f"Of {replayed.decisions} decisions on {replayed.events} past events {count} would be others.{unasked}"
    if replayed.differences:
        yield from ("", "| event | host | runbook | until now | from now on |", "|---|---|---|---|---|")
    for each in replayed.differences[:_SHOWN]:
        row = (each.event, each.host, each.runbook, each.old, each.new)
        yield f"| {' | '.join(map(escaped, row))} |"
    if len(replayed.differences) > _SHOWN:
        yield f"\n… and {len(replayed.differences) - _SHOWN} more"


def _weight(rule: str, files: Files) -> tuple[str, str]:
    """(the highest risk of its actions and whether it acts unasked, how many hosts at once); dashes for what is not a
    sound runbook."""
    path = f"{rule}/runbook.yaml"
    if path not in files:
        return "-", "-"
    book = checked(files, path).runbook
    if book is None:
        return "-", "-"
    if book.looks_only:
        return "none", _reach(book)
    unasked = ", unasked" if book.mode == "auto" else ""
    return max(_risks(book), key=("low", "medium", "high").index) + unasked, _reach(book)


def _risks(book: Runbook) -> Iterator[str]:
    for remedy in book.remediate:
        yield STEPS[remedy.action].risk


def _reach(book: Runbook) -> str:
    share, storm = book.guards.concurrency.fleet, book.guards.storm
    at_once = f"{share} hosts" if isinstance(share, int) else f"{share:.0%} of the hosts"
    return f"{at_once} at once, {storm.max_runs} runs per {storm.per:g} s"
