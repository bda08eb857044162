"""Verbs about runbooks: lint, test, schema. They need neither root nor a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from osremed import __version__
from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode
from osremed.core.files import write_atomic
from osremed.runbook.cases import run_cases
from osremed.runbook.catalog import load_entry, runbook_files
from osremed.runbook.document import json_schema
from osremed.runbook.faults import Fault, rule_of
from osremed.runbook.lint import lint_text
from osremed.runbook.mend import mend_diff, mend_file
from osremed.runbook.sarif import Shown, as_sarif
from osremed.runbook.text import read_text


def _files(paths: Iterable[str]) -> list[str]:
    """Runbook files of files, runbook folders and folders of runbooks."""
    files: list[str] = []
    for path in paths:
        inside = os.path.join(path, "runbook.yaml")
        if os.path.isfile(inside):
            files.append(inside)
        elif os.path.isdir(path):
            files.extend(runbook_files(path))
        else:
            files.append(path)
    return files


def _errors_of(path: str) -> Sequence[BadInput]:
    try:
        errors = lint_text(read_text(path))[1]
        if not errors:
            load_entry(path)
        return errors
    except BadInput as error:
        return (error,)


def lint(*, paths: Sequence[str], fix: bool = False, diff: bool = False, sarif: str | None = None) -> Answer:
    """Every error of every file; exit code 2 if there is one. `fix` first writes what can be mended without a doubt;
    `diff` shows it, and alone writes nothing."""
    files = _files(paths)
    diffs = {path: lines for path in files if (lines := mend_diff(path))} if diff else {}
    mends = {path: mend_file(path) for path in files} if fix else {}
    errors = [error for path in files for error in _errors_of(path)]
    document = {
        "files": files,
        "mended": mends,
        "diffs": {path: "\n".join(lines) for path, lines in diffs.items()},
        "errors": [_error_as_json(error) for error in errors],
    }
    if sarif:
        shown = [Shown(rule_of(error), error.where, error.what, error.hint) for error in errors]
        write_atomic(sarif, json.dumps(as_sarif(shown, __version__), indent=2).encode("utf-8"))
    lines = [line for each in diffs.values() for line in each]
    lines += [f"{path}: {count} mended" for path, count in mends.items() if count]
    lines += [f"{error}\n  rule: {rule_of(error)}" for error in errors]
    lines.append(f"{len(files)} runbooks, {len(errors)} errors")
    return Answer(document, "\n".join(lines), ExitCode.BAD_INPUT if errors else ExitCode.OK)


def _error_as_json(error: BadInput) -> dict[str, Any]:
    fix = error.fix if isinstance(error, Fault) else None
    told = {"rule": rule_of(error), "where": error.where, "what": error.what, "hint": error.hint}
    return {**told, "fix": fix.new if fix else None}


def test(*, paths: Sequence[str]) -> Answer:
    """Replays the cases beside the runbooks; exit code 1 if one does not hold."""
    results = [result for path in _files(paths) for result in run_cases(load_entry(path))]
    failed = [result for result in results if result.differences]
    lines = []
    for result in results:
        lines.append(f"{'FAILED' if result.differences else 'ok':<7}{result.path}")
        lines += [f"       {difference}" for difference in result.differences]
    lines.append(f"{len(results)} cases, {len(failed)} failed")
    document = {"cases": [{"path": result.path, "differences": list(result.differences)} for result in results]}
    return Answer(document, "\n".join(lines), ExitCode.FAILED if failed else ExitCode.OK)


def schema() -> Answer:
    """JSON Schema of a runbook, for editors; the same as docs/reference/runbook.schema.json."""
    document = json_schema()
    return Answer(document, json.dumps(document, indent=2))
