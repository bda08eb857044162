"""Completion in the shells themselves, and the manual page through groff."""

import shutil
import subprocess

import pytest

from osremed.cli.complete import SHELLS, places
from osremed.cli.manual import manual, roff
from osremed.core.errors import ExitCode
from osremed.verbs.model import Arg, Verb
from osremed.verbs.table import VERBS

_HARMFUL = (
    Verb(
        ("its",), "x:y", "help with 'quotes', [brackets], a: colon, $(date) and `date`", (Arg("--ox", "it's [x]: y"),)
    ),
)


def _shell(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; make system-test installs it")
    return path


def _bash(line):
    script = SHELLS["bash"](VERBS)
    words = line.split(" ")
    array = " ".join(f"'{word}'" for word in ["osremed", *words])
    drive = f'{script}\nCOMP_WORDS=({array}); COMP_CWORD={len(words)}; _osremed; printf "%s\\n" "${{COMPREPLY[@]}}"'
    ended = subprocess.run([_shell("bash"), "--norc", "-c", drive], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return set(ended.stdout.split())


def _fish(line, folder):
    script = folder / "osremed.fish"
    script.write_text(SHELLS["fish"](VERBS))
    drive = f"source {script}; complete -C 'osremed {line}'"
    ended = subprocess.run(
        [_shell("fish"), "--no-config", "-c", drive], capture_output=True, text=True, check=True, cwd=folder
    )
    assert ended.stderr == ""
    return {row.split("\t")[0] for row in ended.stdout.splitlines()}


#: zsh's own completers need a terminal: what would be handed to them is printed instead.
_ZSH = """
compdef() { : }
_arguments() { shift; for row in "$@"; do print -r -- "${row%%\\[*}"; done }
_describe() { local name=$2; for row in "${(@P)name}"; do print -r -- "${row%%:*}"; done }
"""


def _zsh(line):
    words = ["osremed", *line.split(" ")]
    array = " ".join(f"'{word}'" for word in words)
    drive = f"{_ZSH}\n{SHELLS['zsh'](VERBS)}\nwords=({array}); CURRENT={len(words)}; _osremed"
    ended = subprocess.run([_shell("zsh"), "-f", "-c", drive], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return set(ended.stdout.split("\n"))


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request, tmp_path):
    _shell(request.param)
    return {"bash": _bash, "zsh": _zsh, "fish": lambda line: _fish(line, tmp_path)}[request.param]


def test_the_first_word_is_a_verb(complete):
    assert {verb.words[0] for verb in VERBS} <= complete("")


def test_what_follows_a_group_are_its_verbs(complete):
    found = complete("agent undo ")
    assert {"list", "confirm", "revert"} <= found
    assert "panorama" not in found


def test_a_verb_with_verbs_below_offers_those(complete):
    assert {"history", "grew"} <= complete("panorama ")


def test_what_follows_a_verb_are_its_own_options(complete):
    found = complete("runs list --")
    assert {"--limit", "--before", "--state", "--debug"} <= found
    assert "--sarif" not in found


def test_outputs_are_offered_where_an_output_is_wanted():
    assert _bash("runs list -o ") >= {"table", "json", "jsonl", "yaml", "name"}
    assert _bash("runs list -o j") == {"json", "jsonl"}


@pytest.mark.parametrize("name", list(SHELLS))
def test_a_help_text_cannot_break_out_of_the_script(name, tmp_path):
    script = tmp_path / "script"
    script.write_text(SHELLS[name](_HARMFUL))
    ended = subprocess.run([_shell(name), "-n", str(script)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_places_are_every_beginning_of_a_verb_once():
    found = [place.words for place in places(VERBS)]
    assert len(found) == len(set(found))
    assert {verb.words for verb in VERBS} <= set(found)


def test_the_manual_has_every_verb_option_and_exit_code_and_groff_takes_it(tmp_path):
    page = tmp_path / "osremed.1"
    page.write_text(manual(VERBS, "1.0"))
    command = [_shell("groff"), "-man", "-Tascii", "-ww", "-rLL=200n", str(page)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env={"GROFF_NO_SGR": "1"})
    assert ended.stderr == ""
    text = " ".join(part for line in ended.stdout.splitlines() for part in _plain(line).split())
    for verb in VERBS:
        assert f"osremed {' '.join(verb.words)}" in text
        assert all(arg.name in text for arg in verb.all_args)
    for code in ExitCode:
        assert f" {int(code)} " in text


def _plain(line):
    """Without the overstrikes of bold and underlined."""
    kept = []
    for character in line:
        if character == "\b":
            kept.pop()
        else:
            kept.append(character)
    return "".join(kept)


def test_text_is_no_request_of_roff():
    assert roff(".sp 99") == "\\&.sp 99"
    assert roff("a\\fB-x") == "a\\efB\\-x"
