"""The units that the role control_plane writes, as Ansible makes them of its variables: no host is asked."""

from __future__ import annotations

import functools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from osremed import __version__
from osremed.cli.parser import build_parser
from osremed.verbs.table import VERBS
from tests.support.ansible_environment import ansible_environment
from tests.support.control_plane_texts import told_of

pytestmark = pytest.mark.ansible
DISPATCHERS = ["osremed-dispatcher.service", "osremed-standby.service"]


@pytest.fixture
def made(tmp_path):
    return functools.partial(told_of, tmp_path)


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


CERTIFICATE = "/etc/osremed/tls.pem"


def test_without_tls_no_proxy_is_wanted_and_the_console_trusts_none(made):
    told = made()
    assert "osremed-proxy.service" in told["other"]
    assert not words_of(told["texts"]["osremed-console.service"]).behind_proxy


def test_with_tls_the_console_is_behind_a_proxy_that_runs_as_a_user_of_its_own_without_secrets(made):
    told = made(control_plane_tls=True)
    assert "osremed-proxy.service" in told["wanted"]
    assert words_of(told["texts"]["osremed-console.service"]).behind_proxy
    unit = told["texts"]["osremed-proxy.service"]
    assert "DynamicUser=yes" in unit
    assert "CapabilityBoundingSet=\n" in unit
    assert "EnvironmentFile" not in unit
    for unit, text in told["texts"].items():
        assert "\nSystemCallErrorNumber=EPERM\n\n[Install]\n" in text, unit


def test_a_port_below_1024_gives_the_proxy_the_one_capability_for_it(made):
    unit = made(control_plane_tls=True, control_plane_tls_port=443)["texts"]["osremed-proxy.service"]
    assert "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in unit


def test_a_new_certificate_is_read_again_and_nothing_is_started_anew(made):
    given = {"control_plane_tls": True, "control_plane_tls_certificate_from": __file__}
    told = made(**given, wrote=(CERTIFICATE,))
    assert (told["restarted"], told["reloaded"]) == ([], ["osremed-proxy.service"])
    told = made(**given, wrote=("/etc/osremed/control.env", CERTIFICATE))
    assert told["restarted"] == told["wanted"]
    assert told["reloaded"] == [], "who is started anew reads it anyway"


def test_prefect_without_users_is_not_shown_to_others(made):
    assert ":4200" not in made(control_plane_tls=True)["proxy"]
    told = made(control_plane_tls=True, control_plane_prefect_auth="ana:word")
    assert ":4200" in told["proxy"]
    assert told["environment"]["PREFECT_SERVER_UI_SERVE_BASE"] == "/prefect"
    assert "word" not in told["proxy"]


def test_backups_of_which_none_would_stay_are_refused_before_the_host_is_touched(tmp_path):
    role = {"name": "osremed.host.control_plane", "tasks_from": "preflight.yml", "rolespec_validate": False}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": role}]}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.json"]
    given = {"control_plane_backup_keep": 0, "control_plane_wheelhouse": "x.tar", "__control_plane_found_sha256": ""}
    argv += ["-e", json.dumps(given)]
    environ = ansible_environment(tmp_path)
    ended = subprocess.run(argv, check=False, env=environ, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode != 0
    said = " ".join(ended.stdout.split())
    assert "control_plane_backup_keep is 0: at least 1 archive has to stay" in said, said[-2000:] + ended.stderr[-500:]
    assert "Nothing was touched" in said
