"""Verbs about runbooks: lint, test, schema. They need neither root nor a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from osremed import __version__
from osremed.core.answer import Answer
from osremed.core.columns import padded
from osremed.core.errors import BadInput, ExitCode
from osremed.core.files import write_atomic
from osremed.core.language import filled, said
from osremed.runbook.cases import run_cases
from osremed.runbook.catalog import load_entry, runbook_files
from osremed.runbook.document import json_schema, part_schema
from osremed.runbook.faults import Fault, rule_of
from osremed.runbook.mend import faults_of, mend_diff, mend_file
from osremed.runbook.parts import is_part, lies_in_parts, parts_used, read_shelf
from osremed.runbook.rulefile import FOLDER, read_rule
from osremed.runbook.sarif import Shown, as_sarif
from osremed.runbook.text import parse_text

_UNUSED = "no runbook uses this part"


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


def _with_parts(paths: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """(runbooks, parts, parts that no runbook uses): folders of runbooks have their parts with them."""
    runbooks: list[str] = []
    parts: list[str] = []
    unused: list[str] = []
    for path in paths:
        if _is_folder_of_parts(path):
            parts += map((shelf := read_shelf(path)).path, shelf.files)
        elif os.path.isfile(path) and _is_part(path):
            parts.append(path)
        else:
            found = _files([path])
            runbooks += found
            if os.path.isdir(path) and not os.path.isfile(os.path.join(path, "runbook.yaml")):
                shelf = read_shelf(os.path.join(path, FOLDER))
                used = frozenset[str]().union(*(parts_used(_content(each), each) for each in found))
                parts += map(shelf.path, shelf.files)
                unused += [shelf.path(name) for name in shelf.files if name not in used]
    return runbooks, list(dict.fromkeys(parts)), unused


def _is_folder_of_parts(path: str) -> bool:
    if os.path.basename(os.path.abspath(path)) != FOLDER or not os.path.isdir(path):
        return False
    return any(_is_part(os.path.join(path, name)) for name in sorted(os.listdir(path)) if name.endswith(".yaml"))


def _is_part(path: str) -> bool:
    try:
        return lies_in_parts(path) or is_part(parse_text(read_rule(path), path))
    except BadInput:
        return False


def _content(path: str) -> bytes:
    try:
        return read_rule(path)
    except BadInput:
        return b""


def _errors_of(path: str) -> Sequence[BadInput]:
    try:
        content = read_rule(path)
        text, errors = parse_text(content, path), faults_of(content, path)
        if not errors and not is_part(text):
            load_entry(path)
        return errors
    except BadInput as error:
        return (error,)


def lint(*, paths: Sequence[str], fix: bool = False, diff: bool = False, sarif: str | None = None) -> Answer:
    """Every error of every file, of runbooks and of the parts beside them; exit code 2 if there is one. `fix` first
    writes what can be mended without a doubt; `diff` shows it, and alone writes nothing. A part that no runbook uses is
    a notice."""
    runbooks, parts, unused = _with_parts(paths)
    files = [*runbooks, *parts]
    diffs = {path: lines for path in files if (lines := mend_diff(path))} if diff else {}
    mends = {path: mend_file(path) for path in (*parts, *runbooks)} if fix else {}
    errors = _once(error for path in (*parts, *runbooks) for error in _errors_of(path))
    notices = [{"where": path, "what": _UNUSED} for path in unused]
    document = {
        "files": files,
        "mended": mends,
        "diffs": {path: "\n".join(lines) for path, lines in diffs.items()},
        "errors": [_error_as_json(error) for error in errors],
        "notices": notices,
    }
    if sarif:
        shown = [Shown(rule_of(error), error.where, error.what, error.hint) for error in errors]
        write_atomic(sarif, json.dumps(as_sarif(shown, __version__), indent=2).encode("utf-8"))
    lines = [line for each in diffs.values() for line in each]
    lines += [filled("{1}: {2} mended", path, str(count)) for path, count in mends.items() if count]
    lines += [_error_as_text(error) for error in errors]
    lines += [f"{path}: {filled(_UNUSED)}" for path in unused]
    books, wrong = str(len(runbooks)), str(len(errors))
    lines.append(
        filled("{1} runbooks, {2} parts, {3} errors", books, str(len(parts)), wrong)
        if parts
        else filled("{1} runbooks, {2} errors", books, wrong)
    )
    return Answer(document, "\n".join(lines), ExitCode.BAD_INPUT if errors else ExitCode.OK)


def _once(errors: Iterable[BadInput]) -> list[BadInput]:
    """A fault of a part is met in the part and in each runbook that uses it: told once."""
    told: dict[tuple[str, str], BadInput] = {}
    for error in errors:
        told.setdefault((error.where, error.what), error)
    return list(told.values())


def _error_as_text(error: BadInput) -> str:
    what = f"{error.where}: {said(error.what)}" if error.where else said(error.what)
    hint = [filled("  hint: {1}", said(error.hint))] if error.hint else []
    return "\n".join([what, *hint, filled("  rule: {1}", rule_of(error))])


def _error_as_json(error: BadInput) -> dict[str, Any]:
    fix = error.fix if isinstance(error, Fault) else None
    told = {"rule": rule_of(error), "where": error.where, "what": error.what, "hint": error.hint}
    return {**told, "fix": fix.new if fix else None}


def test(*, paths: Sequence[str]) -> Answer:
    """Replays the cases beside the runbooks; exit code 1 if one does not hold."""
    for path in paths:
        if os.path.isfile(path) and lies_in_parts(path):
            hint = "the runbooks that use it are tested with it in them"
            raise BadInput("a part has no cases of its own", where=path, hint=hint)
    results = [result for path in _files(paths) for result in run_cases(load_entry(path))]
    failed = [result for result in results if result.differences]
    lines = []
    for result in results:
        mark = filled("FAILED") if result.differences else filled("ok")
        lines.append(f"{padded(mark, 7)}{result.path}")
        lines += [f"       {difference}" for difference in result.differences]
    lines.append(filled("{1} cases, {2} failed", str(len(results)), str(len(failed))))
    document = {"cases": [{"path": result.path, "differences": list(result.differences)} for result in results]}
    return Answer(document, "\n".join(lines), ExitCode.FAILED if failed else ExitCode.OK)


def schema(*, part: bool = False) -> Answer:
    """JSON Schema of a runbook, or of a `part`, for editors; the same as in docs/reference."""
    document = part_schema() if part else json_schema()
    return Answer(document, json.dumps(document, indent=2))
