"""The units that the role control_plane writes, as Ansible makes them of its variables: no host is asked."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from osremed import __version__
from osremed.cli.parser import build_parser
from osremed.verbs.table import VERBS
from tests.support.ansible_environment import ROOT, ansible_environment

pytestmark = pytest.mark.ansible
ROLE = ROOT / "collections/ansible_collections/osremed/host/roles/control_plane"
DISPATCHERS = ["osremed-dispatcher.service", "osremed-standby.service"]


@pytest.fixture
def made(tmp_path):
    """(variables of the role -> what it would write and start, as if runbooks had changed)."""

    def make(**variables):
        told = {
            "wanted": "{{ __control_plane_wanted_units }}",
            "other": "{{ __control_plane_other_units }}",
            "restarted": "{{ __control_plane_restarted }}",
            "texts": "{{ dict(__control_plane_unit_texts | map(attribute='path') | map('basename')"
            " | zip(__control_plane_unit_texts | map(attribute='content'))) }}",
        }
        out = tmp_path / "told.json"
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
            "vars": {
                "__control_plane_wrote": {"changed": True, "paths": ["/etc/osremed/runbooks/x/runbook.yaml"]},
                **{f"told_{name}": text for name, text in told.items()},
            },
            "tasks": [
                {
                    "ansible.builtin.copy": {
                        "dest": str(out),
                        "content": "{{ {" + ", ".join(f"'{name}': told_{name}" for name in told) + "} | to_json }}",
                    }
                }
            ],
        }
        book = tmp_path / "play.json"
        book.write_text(json.dumps([play]))
        (tmp_path / "templates").symlink_to(ROLE / "templates")
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(book)]
        argv += ["-e", json.dumps({**variables, "ansible_python_interpreter": sys.executable})]
        ended = subprocess.run(
            argv, check=False, env=ansible_environment(tmp_path), capture_output=True, text=True, timeout=120, cwd=ROOT
        )
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
        return json.loads(out.read_text())

    return make


def words_of(text):
    """What the unit starts, as the command line reads it."""
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    _program, *words = shlex.split(line.removeprefix("ExecStart="))
    return build_parser(VERBS, __version__).parse_args(words)


def test_without_a_standby_one_dispatcher_is_wanted_and_leads_or_ends(made):
    told = made()
    assert [unit for unit in told["wanted"] if unit in DISPATCHERS] == DISPATCHERS[:1]
    assert DISPATCHERS[1] in told["other"]
    assert told["restarted"] == DISPATCHERS[:1]
    given = words_of(told["texts"][DISPATCHERS[0]])
    assert (given.standby, given.keep_runs, given.keep_for, given.keep_undo) == (False, 10_000, "365d", "30d")


def test_with_a_standby_two_are_told_the_same_and_either_may_lead(made):
    told = made(control_plane_standby=True, control_plane_keep_runs=500, control_plane_keep_for="90d")
    assert [unit for unit in told["wanted"] if unit in DISPATCHERS] == DISPATCHERS
    assert told["restarted"] == DISPATCHERS  # either may be the one that has read the runbooks
    given = [words_of(told["texts"][unit]) for unit in DISPATCHERS]
    assert given[0] == given[1]
    assert (given[0].standby, given[0].keep_runs, given[0].keep_for) == (True, 500, "90d")
    assert all("Restart=always" in told["texts"][unit] for unit in DISPATCHERS)
