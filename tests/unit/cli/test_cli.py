"""The command line: data on stdout, talk on stderr, a hint for each error, the documented exit codes."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.cli.main import main
from osremed.core.answer import Answer
from osremed.verbs.load import load
from osremed.verbs.model import ELSEWHERE
from osremed.verbs.table import VERBS

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("verb", VERBS, ids=[" ".join(verb.words) for verb in VERBS])
def test_every_verb_of_the_table_exists_and_takes_the_arguments_of_the_table(verb):
    import inspect

    parameters = inspect.signature(load(verb)).parameters
    assert {arg.dest for arg in verb.args} <= set(parameters)
    needed = {name for name, each in parameters.items() if each.default is inspect.Parameter.empty}
    assert needed <= {arg.dest for arg in verb.args}


@pytest.mark.parametrize("verb", VERBS, ids=[" ".join(verb.words) for verb in VERBS])
def test_every_verb_has_a_page_of_help_with_each_of_its_arguments(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*verb.words, "--help"])
    page = capsys.readouterr().out
    assert ended.value.code == 0, page
    assert all(arg.name in page for arg in verb.all_args)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.elsewhere], ids=lambda verb: verb.elsewhere)
def test_a_verb_for_another_host_has_a_function_there_and_takes_all_that_the_local_one_does(verb):
    import inspect

    parameters = inspect.signature(load(verb, elsewhere=True)).parameters
    named = {name for name, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
    assert named <= {arg.name.lstrip("-") for arg in (*ELSEWHERE, *verb.args)}
    assert {arg.name.lstrip("-") for arg in ELSEWHERE} <= named


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-verb"],
        ["fastoom"],
        ["probe", "memory.available_ratio"],
        ["panorama", "--files", "many"],
        ["fastoom", "run", "--wrong"],
        ["fastoom", "run", "--policy"],
        [],
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_word_on_stderr(words, capsys):
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(words))
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err


def test_json_is_for_machines_and_alone_on_stdout(capsys):
    assert main(["runbook", "lint", str(ROOT / "runbooks"), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == []


def test_help_needs_no_third_party_module():
    code = (
        "import sys; sys.argv=['osremed','--help']\n"
        "from osremed.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('prefect','pydantic','yaml','jinja2','asyncio') if m in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"


def test_a_reader_that_goes_away_is_not_an_error():
    command = f"{sys.executable} -m osremed runbook schema | head -c 10"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 0
    assert ended.stderr == b""


def test_a_reader_that_goes_away_does_not_make_a_refusal_good(tmp_path):
    (tmp_path / "runbook.yaml").write_text("kind: nothing\n")
    command = f"{sys.executable} -m osremed runbook lint {tmp_path} | true"
    ended = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, check=False)
    assert ended.returncode == 2


def test_a_pipe_that_breaks_elsewhere_is_an_error_like_any_other(monkeypatch, capsys):
    def asks(**_given):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(sys.modules["osremed.cli.main"], "load", lambda _verb, **_how: asks)
    assert main(["doctor"]) == 1
    assert "Broken pipe [failed.system]" in capsys.readouterr().err


def test_a_caller_that_closed_the_output_is_served(tmp_path):
    command = f"{sys.executable} -m osremed explain input >&-"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("output", ["text", "json", "jsonl", "yaml", "table"])
def test_a_path_that_is_not_utf8_is_told_escaped(monkeypatch, capfd, output):
    answer = Answer({"path": "/srv/\udcff"}, "/srv/\udcff")
    monkeypatch.setattr(sys.modules["osremed.cli.main"], "load", lambda _verb, **_how: lambda **_given: answer)
    assert main(["doctor", "-o", output]) == 0
    told = capfd.readouterr().out
    assert "/srv/" in told
    if output == "json":
        assert json.loads(told) == answer.document


def test_the_host_plane_says_where_control_verbs_are(tmp_path):
    pyz = ROOT / "dist/osremed-host.pyz"
    if not pyz.exists():
        pytest.skip("dist/osremed-host.pyz is not built; make zipapp builds it")
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(pyz), "runs", "list"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 7
    assert "belongs to the control plane" in ended.stderr
    assert "osremed[control]" in ended.stderr


def test_without_root_the_demo_says_so_and_what_still_works():
    if os.geteuid() != 0:
        argv = [sys.executable, "-m", "osremed", "demo", "near-oom"]
    else:
        code = "import os; from osremed.demo.near_oom import near_oom; os.setuid(65534); near_oom(collections='')"
        argv = [sys.executable, "-c", code]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "needs root" in ended.stderr
    assert "osremed doctor" in ended.stderr
