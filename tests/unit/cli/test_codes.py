"""Every error has a code, every code an explanation; and what each exit code is for."""

import ast
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from osremed.cli.main import main
from osremed.cli.verbs import all_codes
from osremed.core.codes import CODES, EXITS
from osremed.core.errors import BadInput, ExitCode, OsremedError
from osremed.core.reading import Reason
from osremed.core.units import parse_bytes
from osremed.flows.verbs import _EXIT
from osremed.runbook.faults import RULES, Fault
from osremed.runbook.guards import GUARDS
from osremed.runbook.model import ENDED, RunState
from osremed.verbs.load import load
from osremed.verbs.table import VERBS
from tests.support.console_state import ROOT, past

_TREES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "osremed").rglob("*.py"))}


def _calls():
    for tree in _TREES.values():
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _word(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def test_every_kind_of_error_has_a_code_in_the_table():
    for verb in VERBS:
        load(verb)  # every room that has errors of its own
    for kind in _subclasses(OsremedError):
        assert kind.code in CODES, kind


def test_every_code_given_in_the_sources_is_in_the_table():
    given = {
        _word(keyword.value)
        for call in _calls()
        for keyword in call.keywords
        if keyword.arg == "code"
        and getattr(call.func, "id", "").startswith(("BadInput", "NotFound", "Unav", "Osremed"))
    }
    assert len(given) >= 6
    assert given <= set(CODES)


def test_every_reason_to_refuse_has_a_code():
    assert {f"guard.{name}" for name, _ in GUARDS} <= set(CODES)
    refused = {_word(c.args[0]) for c in _calls() if getattr(c.func, "id", "") == "Refused" and c.args} - {None}
    refused |= {_word(c.args[0]) for c in _calls() if getattr(c.func, "id", "") == "_attempt"} - {None}
    assert {"CheckFailed", "FetchFailed", "approval", "evidence"} <= refused
    assert all(f"guard.{each}" in CODES or f"gitops.{each}" in CODES for each in refused)


def test_every_reason_for_a_missing_value_has_a_code_and_no_code_is_for_nothing():
    assert {name for name in CODES if name.startswith("missing.")} == {f"missing.{each.value}" for each in Reason}
    guards = {name for name, _ in GUARDS} | {
        "evidence",
        "preview",
        "watch",
        "plan",
        "approval",
        "person",
        "engine",
        "bounds",
    }
    assert {name for name in CODES if name.startswith("guard.")} == {f"guard.{name}" for name in guards}


def test_a_fault_of_a_runbook_has_the_code_of_its_rule():
    assert Fault("no-case", "x").code == "runbook.no-case"
    assert {f"runbook.{rule}" for rule in RULES} <= set(all_codes())


def test_a_quantity_without_a_unit_says_so_by_its_code():
    with pytest.raises(BadInput) as wrong:
        parse_bytes("512")
    assert wrong.value.code == "input.unit"


@pytest.mark.parametrize("name", list(all_codes()))
def test_every_code_is_explained_in_sentences(name, capsys):
    assert main(["explain", name]) == 0
    assert name in capsys.readouterr().out
    code = all_codes()[name]
    assert code.means.endswith(".")
    assert code.do.endswith(".") or name.startswith("exit.")


def test_the_last_word_of_a_code_is_enough_and_another_word_gets_the_nearest(capsys):
    assert main(["explain", "[cooldown]", "-o", "name"]) == 0
    assert capsys.readouterr().out == "guard.cooldown\n"
    assert main(["explain", "coldown"]) == 3
    assert "did you mean cooldown?" in capsys.readouterr().err


def test_an_error_shows_its_code_and_the_trace_only_with_debug(capsys):
    wrong = ["runs", "show", "x", "--state", "/nowhere"]
    assert main(wrong) == 3
    told = capsys.readouterr().err
    assert told.splitlines()[0].endswith("[not-found]")
    assert "Traceback" not in told
    assert main([*wrong, "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_one_line_with_its_place_and_debug_shows_the_trace():
    code = (
        "import sys; from osremed.cli import main; import osremed.cli.verbs as v; v.all_codes = lambda: 1 / 0; main()"
    )
    said = []
    for more in ([], ["--debug"]):
        ended = subprocess.run(
            [sys.executable, "-c", code, "explain", *more], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert ended.returncode == 1
        said.append(ended.stderr)
    assert "ZeroDivisionError" in said[0].splitlines()[0]
    assert said[0].splitlines()[0].endswith("[bug]")
    assert "Traceback" not in said[0]
    assert "Traceback" in said[1]


# Exit codes


def test_every_exit_code_means_something_and_every_end_of_a_run_has_one():
    assert set(EXITS) == set(ExitCode)
    assert set(_EXIT) >= ENDED
    assert _EXIT[RunState.AWAITING_APPROVAL] is ExitCode.AWAITING


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with past(tmp_path_factory.mktemp("past")) as found:
        yield found


def test_a_run_that_was_kept_undone_or_waits_ends_its_verb_so(kept, capsys):
    for run_id, code in ((kept.kept, 0), (kept.undone, 4), (kept.waiting, 6)):
        assert main(["runs", "show", run_id, "--state", kept.state]) == code
    capsys.readouterr()


def test_what_is_wrong_not_there_or_not_here_ends_with_its_own_code(kept, tmp_path, capsys, monkeypatch):
    assert main(["runs", "list", "--limit", "-1", "--state", kept.state]) == ExitCode.BAD_INPUT
    assert main(["runs", "show", "0" * 16, "--state", kept.state]) == ExitCode.NOT_FOUND
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    assert main(["fastoom", "status"]) == ExitCode.UNAVAILABLE
    unreadable = tmp_path / "journal"
    unreadable.mkdir()
    assert main(["completion", "tcsh"]) == ExitCode.BAD_INPUT
    assert main(["fastoom", "explain", "--policy", str(unreadable)]) == ExitCode.BAD_INPUT
    capsys.readouterr()


def test_an_audit_with_a_fault_ends_with_1(tmp_path, capsys):
    with past(tmp_path) as found:
        segment = next((tmp_path / "control" / "decisions").glob("*.jsonl"))
        segment.write_bytes(segment.read_bytes().replace(b"near-oom", b"near-ooo"))
        assert main(["audit", "verify", "--state", found.state]) == ExitCode.FAILED
    capsys.readouterr()


def test_an_interrupted_verb_ends_with_130():
    # A test that runs in the background was born with SIGINT ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); print('ready', flush=True)\n"
        "from osremed.cli import main; sys.exit(main())"
    )
    words = ["probe", "memory.available_ratio", "--expect", "value > 1", "--within", "60s"]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert child.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while not _is_probing(child.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, told) == (130, "")


def _is_probing(pid):
    """Its imports are done: it sleeps between two looks."""
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        return "sleep" in file.read()


def test_help_costs_little_more_than_python_itself():
    def cpu_s(*words):
        best = []
        for _ in range(3):
            before = os.times()
            subprocess.run([sys.executable, *words], capture_output=True, check=True, cwd=ROOT)
            after = os.times()
            best.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return min(best)

    assert cpu_s("-m", "osremed", "--help") < 8 * cpu_s("-c", "import json, argparse")


def test_the_reference_of_codes_has_each(capsys):
    page = (ROOT / "docs/reference/errors.md").read_text()
    assert [name for name in all_codes() if not name.startswith("exit.") and f"| `{name}` |" not in page] == []
    assert main(["explain", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["codes"]) == len(all_codes())
