"""What a set of rules must pass before it goes live: schema, lint, cases, policies, no secrets.

It runs in a process of its own with bounded time and memory, so that no rule can hold up who looks at it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput, OsremedError
from osremed.core.record import record
from osremed.gitops.live import read_set
from osremed.gitops.objects import merged
from osremed.gitops.policy import check_policy
from osremed.gitops.shelf import PARTS, is_part_file, is_runbook, shelf_of
from osremed.gitops.tree import Files
from osremed.runbook.cases import run_cases
from osremed.runbook.catalog import CatalogEntry
from osremed.runbook.faults import Fault, rule_of
from osremed.runbook.parts import Shelf, check, lint_part
from osremed.runbook.rulefile import FOLDER

_CPU_S = 120
_MEMORY_BYTES = 1 << 30
_SECRET_KEY = rb"['\"]?[\w-]*(?:password|passwd|secret|token|api_?key)[\w-]*['\"]?[ \t]*:[ \t]*['\"]?"
#: What a secret looks like in a rule. A rule names a secret (a Prefect block, a variable, a file), it never holds one.
_SECRETS = (
    re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(rb"\b(?:ghp|gho|ghs|glpat|xox[abp])[-_][A-Za-z0-9-]{16,}"),
    re.compile(rb"(?im)^[ \t-]*" + _SECRET_KEY + rb"[^\s'\"{$][^\n]{3,}"),
    re.compile(rb"(?i)\{(?:[^\n}]*,)?[ \t]*" + _SECRET_KEY + rb"[^\s'\"{$,}][^\n,}]{3,}"),  # {on: one, line: …}
    re.compile(rb"://[^/\s:@]+:[^/\s@{$]+@"),
)


@record
class Problem:
    """`rule` is a key of `osremed.runbook.faults.RULES`; `where` is file:line:column."""

    rule: str
    where: str
    what: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        return {"rule": self.rule, "where": self.where, "what": self.what, "hint": self.hint}

    def __str__(self) -> str:
        text = f"{self.where}: {self.what} [{self.rule}]"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


@record
class Verdict:
    """`runbooks`, `cases` and `policies` are counts of what was looked at."""

    problems: tuple[Problem, ...]
    runbooks: int
    cases: int
    policies: int


def judge(directory: str) -> Verdict:
    """Every problem of the rules in a folder, in this process."""
    files = read_set(directory)
    problems = list(_layout(files))
    problems += _secrets(files)
    runbooks = sorted(path for path in files if is_runbook(path))
    cases = 0
    shelf = shelf_of(files)
    for name, content in shelf.files.items():
        problems += [_problem(error) for error in lint_part(content, shelf.path(name))]
    for path in runbooks:
        entry, errors = _lint(files[path], path, directory, shelf)
        told = {(problem.where, problem.what) for problem in problems}
        problems += [_problem(error) for error in errors if (error.where, error.what) not in told]
        if entry is not None:
            results = list(_cases(directory, entry))
            cases += len(results)
            problems += [problem for found in results for problem in found]
    policies = sorted(path for path in files if path.startswith("policies/"))
    names = frozenset(path.split("/")[1] for path in runbooks)
    for path in policies:
        try:
            check_policy(files[path], path, names)
        except BadInput as error:
            problems.append(Problem("policy", error.where or path, error.what, error.hint))
    try:
        merged({path: content for path, content in files.items() if path.startswith("prefect/")})
    except BadInput as error:
        problems.append(Problem("prefect", error.where, error.what, error.hint))
    return Verdict(tuple(problems), len(runbooks), cases, len(policies))


def _problem(error: BadInput) -> Problem:
    return Problem(rule_of(error), error.where, error.what, error.hint)


def _layout(files: Files) -> Iterator[Problem]:
    for path in sorted(files):
        head, _slash, rest = path.partition("/")
        name, _slash, inside = rest.partition("/")
        if is_part_file(path):
            continue
        if (head, name) == ("runbooks", FOLDER):
            yield Problem("layout", path, f"has no place in {PARTS}", f"{PARTS}<part>.yaml")
        elif head == "runbooks" and f"runbooks/{name}/runbook.yaml" not in files:
            yield Problem("layout", path, f"no runbooks/{name}/runbook.yaml beside it", "a runbook is a folder")
        elif head == "runbooks" and not re.fullmatch(r"runbook\.yaml|README\.md|cases/[^/]+\.yaml", inside):
            yield Problem("layout", path, "has no place in a runbook", "runbook.yaml, README.md, cases/<case>.yaml")
        elif head in {"policies", "prefect"} and (inside or not name.endswith(".yaml")):
            yield Problem("layout", path, f"has no place in {head}/", f"{head}/<name>.yaml")


def _lint(content: bytes, path: str, directory: str, shelf: Shelf) -> tuple[CatalogEntry | None, Sequence[BadInput]]:
    try:
        checked = check(content, path, shelf)
    except BadInput as error:
        return None, (error,)
    book = checked.runbook
    if book is None:
        return None, checked.faults
    folder = path.split("/")[1]
    if book.name != folder:
        what = f"runbook {book.name!r} lies in folder {folder!r}"
        return None, (Fault("folder-name", what, where=path, hint="rename one of them"),)
    kept = checked.content
    return CatalogEntry(book, kept, sha256_hex(kept), os.path.join(directory, path), checked.parts), ()


def _cases(directory: str, entry: CatalogEntry) -> Iterator[list[Problem]]:
    """One item a case. A runbook without a case is a problem: nobody has said what it should do."""
    path = os.path.relpath(entry.path, directory)
    results = list(run_cases(entry))
    if not results:
        yield [Problem("no-case", path, "has no case", f"add runbooks/{entry.runbook.name}/cases/<what-happens>.yaml")]
    for result in results:
        where = os.path.relpath(result.path, directory)
        yield [Problem("case", where, difference) for difference in result.differences]


def _secrets(files: Files) -> Iterator[Problem]:
    hint = "name where it is kept: a variable, a file on the controller, an Ansible Vault or Prefect secret"
    for path, content in sorted(files.items()):
        for pattern in _SECRETS:
            found = pattern.search(content)
            if found:
                line = content.count(b"\n", 0, found.start()) + 1
                yield Problem("secret", f"{path}:{line}:1", "looks like a secret", hint)
                break


def judge_apart(directory: str) -> Verdict:
    """`judge` in a child process: at most 120 s of CPU and 1 GiB of memory."""
    argv = [sys.executable, "-m", "osremed.gitops.gate", directory]
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=3 * _CPU_S, preexec_fn=_limit, check=False, env=_environment()
        )
        return _verdict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        problem = Problem("layout", directory, f"the rules were not read within {3 * _CPU_S} s")
    except (ValueError, KeyError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        problem = Problem("layout", directory, f"the rules could not be read within the limits: {said[-1]}")
    return Verdict((problem,), 0, 0, 0)


def _environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _verdict(document: dict[str, Any]) -> Verdict:
    problems = tuple(Problem(**each) for each in document["problems"])
    return Verdict(problems, document["runbooks"], document["cases"], document["policies"])


def verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    problems = [problem.as_json() for problem in verdict.problems]
    return {
        "problems": problems,
        "runbooks": verdict.runbooks,
        "cases": verdict.cases,
        "policies": verdict.policies,
    }


def _main() -> int:
    try:
        verdict = judge(sys.argv[1])
    except OsremedError as error:
        verdict = Verdict((Problem("layout", error.where, error.what, error.hint),), 0, 0, 0)
    sys.stdout.write(json.dumps(verdict_as_json(verdict)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
