#!/usr/bin/env python3
"""Which phrases of the command line are translated: all of them are listed here and nowhere else.

Prints, for each language, the entries its catalogue lacks, ready to be filled in; 1 if there are any.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from osremed.cli.parser import SUMMARY  # noqa: E402
from osremed.cli.verbs import all_codes, lowered  # noqa: E402
from osremed.core.codes import EXITS  # noqa: E402
from osremed.core.language import said, speak  # noqa: E402
from osremed.runbook.faults import RULES  # noqa: E402
from osremed.verbs.catalogue import LANGUAGES, answers, catalogue  # noqa: E402
from osremed.verbs.table import GROUPS, VERBS  # noqa: E402

_ERRORS = frozenset({"OsremedError", "BadInput", "NotFound", "Unavailable"})
_CHECKS = frozenset({"Check", "_read", "_try"})
#: Whose errors and words are the command line's own.
_OWN = ("osremed/cli", "osremed/verbs", "osremed/agent/doctor.py")
#: What the answers of verbs and reports say: only what is said(), filled() or, in rooms that load no catalogue, fill().
_TOLD = (
    *("osremed/report", "osremed/flows/verbs.py", "osremed/flows/fleet.py", "osremed/fastoom/verbs.py"),
    *("osremed/fastoom/explain.py", "osremed/fastoom/replay.py", "osremed/panorama/document.py"),
    *("osremed/panorama/render.py", "osremed/panorama/past.py"),
    *("osremed/panorama/balance.py", "osremed/panorama/invisible.py", "osremed/panorama/scope.py"),
    *("osremed/panorama/heaps/growth.py", "osremed/panorama/heaps/render.py"),
    *("osremed/timeline/render.py", "osremed/timeline/verbs.py", "osremed/timeline/ranksverb.py"),
    *("osremed/timeline/traceverbs.py", "osremed/agent/verbs.py", "osremed/flows/control_verbs.py"),
    *("osremed/flows/replay_verb.py", "osremed/runbook/replay.py", "osremed/runbook/replayfleet.py"),
    *("osremed/gitops/verbs.py", "osremed/flows/gitops_verbs.py"),
    *("osremed/core/flamepage.py", "osremed/hotspot/flame.py", "osremed/timeline/gpuflame.py"),
    *("osremed/opinion/verbs.py", "osremed/opinion/text.py", "osremed/core/policyfile.py"),
    *("osremed/flows/undo_verbs.py", "osremed/flows/canary_verbs.py", "osremed/flows/start.py"),
    *("osremed/runbook/canary.py", "osremed/runbook/preview.py", "osremed/runbook/verbs.py"),
    *("osremed/notify/verbs.py", "osremed/console/verbs.py"),
    *("osremed/hotspot/render.py", "osremed/hotspot/detect.py", "osremed/hotspot/verbs.py"),
)
#: Whose faults of runbooks are translated: what and hint, given to Fault or put into a name of that kind before.
_FAULTS = (
    "osremed/runbook/lint.py",
    "osremed/runbook/sane.py",
    "osremed/runbook/shape.py",
    "osremed/runbook/parts.py",
    "osremed/runbook/rulefile.py",
)
_TEMPLATES = "osremed/report/templates"
#: Pages whose marked phrases are put in by `core.pagewords`.
_PAGES = ("osremed/core/flame/flame.js", "osremed/panorama/page.html", "osremed/panorama/page.js")
#: Tables whose words are looked up by what stands in them: module -> (name, place in a row; None: values of a mapping;
#: -1: the rows, or the only one, are the words).
_TABLES = {
    "osremed/report/assemble.py": (("_EVENT_MOMENTS", 1), ("_RUN_MOMENTS", None)),
    "osremed/report/memory.py": (("_KINDS", None),),
    "osremed/runbook/canary.py": (("_FATES", None),),
    "osremed/runbook/replaymodes.py": (("WORDS", None),),
    "osremed/runbook/verbs.py": (("_UNUSED", -1),),
    "osremed/timeline/render.py": (("_GPU_HEADER", -1), ("_INCIDENT_HEADER", -1)),
    "osremed/timeline/traceverbs.py": tuple(
        (name, -1) for name in ("_SHARES", "_KERNELS", "_LAUNCHES", "_IDLE", "_OPERATORS", "_CHANGES")
    ),
    "osremed/flows/control_verbs.py": (("_GRADES", 0),),
    "osremed/hotspot/flame.py": (("_STATES", 1), ("_WIDTHS", -1), ("_FUNCTIONS", -1), ("_CHANGES", -1)),
    "osremed/panorama/balance.py": (("_NODE_LINES", 0), ("_RARE_LINES", 0)),
}
#: What is looked up by what a record holds: labels of moments, kinds of findings, how files were looked for.
_WORDS = {
    "osremed/report/assemble.py": ("event",),
    "osremed/panorama/balance.py": ("compressed swap devices", "ZFS cache pages"),
    "osremed/panorama/invisible.py": ("socket queues", "packet rings", "pipes", "perf rings", "io_uring rings"),
    "osremed/panorama/heaps/render.py": (
        "process_vm_readv; nothing stopped or injected",
        "vtables and malloc chunks by process_vm_readv; nothing stopped or injected",
        "the JVM's own counters; nothing stopped",
    ),
    "osremed/panorama/render.py": ("growing", "stable", "reclaimable", "unknown", "line", "process", "group", "kernel"),
    "osremed/panorama/past.py": ("page cache of files", "vmalloc"),
    "osremed/panorama/page.js": ("of (element)", "gaps (readings)", "what (kind)"),
    "osremed/runbook/lint.py": ("`approval` of the remedy it follows",),
    "osremed/runbook/parts.py": ("repairs", "repairs nothing", "used at {1}", "{1}; used at {2}"),
    "osremed/runbook/shape.py": (
        *(f"unknown {kind} {{1}}" for kind in ("collector", "action", "probe", "part")),
        *("known: {1}", "did you mean {1}?"),
    ),
    "osremed/runbook/canary.py": ("under way", "done", "stopping", "stopped", "STOPPING", "STOPPED"),
    "osremed/agent/verbs.py": ("reverted", "already_previous", "conflict"),
    "osremed/flows/control_verbs.py": ("decisions", "hands"),
    "osremed/timeline/traceverbs.py": (
        *("data loading", "synchronisation", "launching", "operator", "python", "annotation", "unrecorded"),
    ),
    "osremed/panorama/document.py": (
        "open and mapped files of the scope",
        "all cached files (BPF walk over all inodes)",
    ),
}
#: Where a phrase is said that fills a gap of a sentence. The sentence has words whatever fills it, so this is asked for
#: by itself, word for word.
_IN_GAP = "in a sentence of osremed explain "
_SAID = re.compile(r"""\b_\((?:"([^"]+)"|'([^']+)')""")
#: What argparse says (Lib/argparse.py, 3.9 to 3.13). {1}, {2} stand for what is filled in.
ARGPARSE = (
    *("the following arguments are required: {1}", "unrecognized arguments: {1}", "argument {1}: {2}"),
    *("expected one argument", "expected at least one argument", "expected at most one argument"),
    *("expected {1} arguments", "invalid choice: {1} (choose from {2})", "invalid {1} value: {2}"),
    *("ignored explicit argument {1}", "ambiguous option: {1} could match {2}"),
)


def _texts(node: ast.expr) -> Iterator[str]:
    """The text of a literal, {1}, {2} where values are put in; nothing for what is not a literal, or has no words."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text, gaps = "", 0
    for part in parts:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            text += part.value
        elif isinstance(part, ast.FormattedValue):
            gaps += 1
            text += f"{{{gaps}}}"
        else:
            return
    if re.search("[A-Za-z]{2}", text):
        yield text


def _spoken(call: ast.Call) -> Iterator[str]:
    """What is said by a call of said() or filled(), an error's constructor, or a check of the doctor (name, hint)."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in _ERRORS or name in ("said", "filled", "fill", "BalanceLine"):
        yield from (text for each in call.args[:1] for text in _texts(each))
    if name in _ERRORS:
        hints = (each.value for each in call.keywords if each.arg == "hint")
        yield from (text for each in hints for text in _texts(each))
    if name in _CHECKS:
        yield from (text for each in (*call.args[:1], *call.args[4:5]) for text in _texts(each))


def _sources(places: Iterable[str]) -> Iterator[str]:
    for place in (os.path.join(ROOT, each) for each in places):
        if place.endswith(".py"):
            yield place
            continue
        yield from (os.path.join(place, name) for name in sorted(os.listdir(place)) if name.endswith(".py"))


def phrases() -> Iterator[tuple[str, str]]:
    """(phrase, where it is said)."""
    yield SUMMARY, "osremed --help"
    yield from ((text, f"osremed {' '.join(words)} --help") for words, text in GROUPS.items())
    for verb in VERBS:
        where = f"osremed {' '.join(verb.words)} --help"
        yield verb.help, where
        yield from ((arg.help, where) for arg in verb.all_args)
    for name, code in all_codes().items():
        yield from ((text, f"osremed explain {name}") for text in (code.means, code.do) if text)
    yield from ((lowered(text), f"{_IN_GAP}runbook.{rule}") for rule, text in RULES.items())
    yield from ((text, f"{_IN_GAP}exit.{int(code)}") for code, text in EXITS.items())
    yield from ((text, "argparse") for text in ARGPARSE)
    for path in _sources((*_OWN, *_TOLD)):
        where = os.path.relpath(path, ROOT)
        errors = not any(where.startswith(each) for each in _TOLD)
        yield from ((text, where) for text in _in_module(path, errors=errors))
    for where in _FAULTS:
        yield from ((text, where) for text in _of_faults(os.path.join(ROOT, where)))
    for where, tables in _TABLES.items():
        yield from ((text, where) for text in _in_tables(os.path.join(ROOT, where), dict(tables)))
    yield from ((text, where) for where, words in _WORDS.items() for text in words)
    templates = (f"{_TEMPLATES}/{name}" for name in sorted(os.listdir(os.path.join(ROOT, _TEMPLATES))))
    for where in (*templates, *_PAGES):
        with open(os.path.join(ROOT, where), encoding="utf-8") as file:
            yield from ((one or two, where) for one, two in _SAID.findall(file.read()))


def _in_module(path: str, *, errors: bool) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        calls = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.Call)]
    for call in calls:
        if errors or not (isinstance(call.func, ast.Name) and call.func.id in _ERRORS):
            yield from _spoken(call)


def _of_faults(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Fault":
            given = [*node.args[1:2], *(each.value for each in node.keywords if each.arg == "hint")]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("what", "hint", "why"):
            given = [node.value]
        else:
            continue
        either = (part for each in given for part in _either(each))
        yield from (text for part in either for text in _texts(part))


def _either(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.IfExp):
        yield from (*_either(node.body), *_either(node.orelse))
    else:
        yield node


def _in_tables(path: str, tables: Mapping[str, int | None]) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        nodes = ast.parse(file.read()).body
    plain = ((target, node.value) for node in nodes if isinstance(node, ast.Assign) for target in node.targets)
    typed = ((node.target, node.value) for node in nodes if isinstance(node, ast.AnnAssign) and node.value)
    found = {target.id: value for target, value in (*plain, *typed) if isinstance(target, ast.Name)}
    for name, place in tables.items():
        table = found[name]
        if isinstance(table, ast.Dict):  # its keys may be no literals
            yield from map(ast.literal_eval, table.values)
            continue
        rows = ast.literal_eval(table)
        rows = [rows] if isinstance(rows, str) else rows
        yield from rows if place is None or place < 0 else (row[place] for row in rows)


def _is_answer(where: str) -> bool:
    """Whether what is said there is looked up by the phrase alone."""
    return where.startswith((*_TOLD, *_TABLES, _TEMPLATES, *_PAGES))


def missing(language: str) -> dict[str, str]:
    """Phrase -> where it is said, of those the language has no words for."""
    found, told = catalogue(language), answers(language)
    speak(found)
    try:
        needed = [(text, where) for text, where in phrases() if text not in found and text not in told]
        exact = (_is_answer, lambda where: where.startswith(_IN_GAP))
        return {text: where for text, where in needed if any(each(where) for each in exact) or said(text) == text}
    finally:
        speak({})


def main() -> int:
    gone = {language: missing(language) for language in LANGUAGES}
    for language, entries in gone.items():
        for phrase, where in entries.items():
            quoted = phrase.replace("\\", "\\\\").replace('"', '\\"')
            kind = ".answers" if _is_answer(where) else ""
            print(f'#. osremed/verbs/locale/{language}{kind}.po: {where}\nmsgid "{quoted}"\nmsgstr ""\n')
    return 1 if any(gone.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
