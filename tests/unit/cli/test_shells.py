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


def _bash(line, verbs=VERBS):
    script = SHELLS["bash"](verbs)
    words = line.split(" ")
    array = " ".join(f"'{word}'" for word in ["osremed", *words])
    drive = f'{script}\nCOMP_WORDS=({array}); COMP_CWORD={len(words)}; _osremed; printf "%s\\n" "${{COMPREPLY[@]}}"'
    ended = subprocess.run([_shell("bash"), "--norc", "-c", drive], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return set(ended.stdout.split())


def _fish(line, folder, verbs=VERBS):
    script = folder / "osremed.fish"
    script.write_text(SHELLS["fish"](verbs))
    drive = f"source {script}; complete -C 'osremed {line}'"
    ended = subprocess.run(
        [_shell("fish"), "--no-config", "-c", drive], capture_output=True, text=True, check=True, cwd=folder
    )
    assert ended.stderr == ""
    return {row.split("\t")[0] for row in ended.stdout.splitlines()}


#: zsh's own completers need a terminal: what would be handed to them is printed instead.
_ZSH = """
compdef() { : }
_arguments() {
  shift
  for row in "$@"; do
    print -r -- "${row%%\\[*}"
    if [[ $row == 1:name:* ]]; then eval "${row#1:name:}"; fi
  done
}
compadd() { print -rl -- "${(@P)2}" }
_describe() { local name=$2; for row in "${(@P)name}"; do print -r -- "${row%%:*}"; done }
"""


def _zsh(line, verbs=VERBS):
    words = ["osremed", *line.split(" ")]
    array = " ".join(f"'{word}'" for word in words)
    drive = f"{_ZSH}\n{SHELLS['zsh'](verbs)}\nwords=({array}); CURRENT={len(words)}; _osremed"
    ended = subprocess.run([_shell("zsh"), "-f", "-c", drive], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return set(ended.stdout.split("\n"))


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request, tmp_path):
    _shell(request.param)
    fish = lambda line, verbs=VERBS: _fish(line, tmp_path, verbs)  # noqa: E731
    return {"bash": _bash, "zsh": _zsh, "fish": fish}[request.param]


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


def _named(folder):
    """A verb whose argument and option are names in folders: two good names, and what must not be offered."""
    for name in ("near-oom", "gpu.lost", "$(touch harm)", "a b", "-rf"):
        (folder / "names" / name).mkdir(parents=True)
    (folder / "names/a-file").write_text("")
    names = (str(folder / "names"), str(folder / "not-there"))
    return (Verb(("show",), "x:y", "show", (Arg("which", "which", names=names), Arg("--of", "of", names=names))),)


def test_names_in_a_folder_are_offered_and_no_name_is_run(complete, tmp_path):
    found = complete("show ", _named(tmp_path))
    assert {"near-oom", "gpu.lost"} <= found
    assert not found & {"a", "b", "a-file", "-rf", "$(touch", "$(touch harm)", "a b"}
    assert not (tmp_path / "harm").exists()


def test_names_that_are_lines_of_a_file_are_offered_and_no_line_is_run(complete, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("web-17\ndb.example.org\n$(touch harm)\na b\n-rf\n\n`id`\nwéb\n")
    names = (str(hosts), str(tmp_path / "no"))
    verbs = (Verb(("show",), "x:y", "show", (Arg("host", "host", names=names), Arg("--x", "x"))),)
    found = complete("show ", verbs)
    assert {"web-17", "db.example.org"} <= found
    assert not found & {"a", "b", "a b", "-rf", "$(touch", "$(touch harm)", "`id`", "wéb"}
    assert "db.example.org" not in complete("show w", verbs) or complete is _zsh
    assert not (tmp_path / "harm").exists()


def test_hosts_of_the_inventory_are_offered_wherever_a_host_is_asked_for():
    for verb in VERBS:
        for arg in verb.all_args:
            if arg.name in ("--host", "--hosts") and "address" not in arg.help:
                assert arg.names, verb.words


def test_an_option_that_names_something_offers_the_names(tmp_path):
    verbs = _named(tmp_path)
    assert _bash("show --of ", verbs) == {"near-oom", "gpu.lost"}
    assert _bash("show --of ne", verbs) == {"near-oom"}
    assert _fish("show --of ", tmp_path, verbs) >= {"near-oom", "gpu.lost"}
    assert f"--of[of]:value: _osremed_names {tmp_path}/names" in SHELLS["zsh"](verbs)


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
