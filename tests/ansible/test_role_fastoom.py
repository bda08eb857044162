"""The role fastoom on this machine, below a prefix and without a service."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "collections/ansible_collections/osremed/host/roles/fastoom"

#: Knows the verbs that the role uses; refuses the sensitivity `high`.
STANDIN = f"""#!{sys.executable}
import json, sys
words = sys.argv[1:]
if words[:2] == ["fastoom", "check"]:
    with open(words[2]) as stream:
        sys.exit(2 if json.load(stream)["sensitivity"] == "high" else 0)
sys.exit(words != ["--help"])
"""


def tree(path):
    """Every entry below `path` with what it holds."""
    found = {}
    for entry in sorted(path.rglob("*")):
        name = str(entry.relative_to(path))
        if entry.is_symlink():
            found[name] = os.readlink(entry)
        else:
            found[name] = entry.read_bytes() if entry.is_file() else "directory"
    return found


def make_lab(directory):
    """`play(playbook, **variables)` runs it on a host below `prefix`; `files()` is what the host holds."""
    directory.mkdir(exist_ok=True)
    prefix, zipapp = directory / "host", directory / "osremed.pyz"
    zipapp.write_text(STANDIN)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environ.update(
        PATH=f"{Path(sys.executable).parent}:{environ['PATH']}",
        ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"),
        ANSIBLE_HOME=str(directory / "home"),
        ANSIBLE_LOCAL_TEMP=str(directory / "local"),
        ANSIBLE_REMOTE_TEMP=str(directory / "remote"),
        ANSIBLE_NOCOLOR="1",
    )

    def play(playbook, *words, **variables):
        given = {"osremed_prefix": str(prefix), "osremed_host_zipapp": str(zipapp), "osremed_host_version": "1.0",
                 "fastoom_python": sys.executable, **variables}  # fmt: skip
        argv = ["ansible-playbook", "-i", str(ROOT / "inventories/local"), str(ROOT / f"playbooks/{playbook}.yml")]
        ended = subprocess.run(
            [*argv, "-e", json.dumps(given), *words],
            cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        text = ended.stdout + ended.stderr
        changed = re.search(r"changed=(\d+) .*failed=(\d+)", text)
        return SimpleNamespace(code=ended.returncode, text=text, changed=int(changed.group(1)) if changed else -1)

    return SimpleNamespace(prefix=prefix, zipapp=zipapp, play=play, files=lambda: tree(prefix), environ=environ)


@pytest.fixture(scope="module")
def converged(tmp_path_factory):
    """A host after the first rollout, and what that said. Not to be altered."""
    lab = make_lab(tmp_path_factory.mktemp("converged") / "lab")
    ended = lab.play("site")
    assert ended.code == 0, ended.text
    return lab, ended


@pytest.fixture
def lab(converged, tmp_path):
    """A host of its own that was rolled out already."""
    lab = make_lab(tmp_path / "lab")
    shutil.copytree(converged[0].prefix, lab.prefix, symlinks=True)
    return lab


def test_check_mode_on_a_fresh_host_tells_the_changes_and_makes_none(tmp_path):
    lab = make_lab(tmp_path / "lab")
    ended = lab.play("site", "--check")
    assert ended.code == 0, ended.text
    assert ended.changed > 0
    assert '+  "sensitivity": "medium"' in ended.text
    assert not lab.prefix.exists()


def test_a_rollout_installs_the_release_and_the_policy(converged):
    lab, ended = converged
    files = lab.files()
    assert files["opt/osremed/host/current"] == "releases/1.0"
    assert files["opt/osremed/host/releases/1.0/osremed"] == STANDIN.encode()
    assert os.access(lab.prefix / "opt/osremed/host/current/osremed", os.X_OK)
    assert json.loads(files["etc/osremed/fastoom.json"]) == {
        "apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "medium", "scopes": [{"node": True}],
        "protect": [], "prefer": [], "avoid": [], "overrides": {},
    }  # fmt: skip
    assert (lab.prefix / "var/lib/osremed/undo").stat().st_mode & 0o777 == 0o700
    assert "WARNING" not in ended.text


def test_without_systemd_it_says_what_to_supervise(converged):
    assert "fastoom run" in re.sub(r"\s+", " ", converged[1].text)


def test_a_second_rollout_changes_nothing(lab):
    before = lab.files()
    ended = lab.play("site", "--diff")
    assert (ended.code, ended.changed) == (0, 0), ended.text
    assert lab.files() == before


def test_a_policy_that_the_release_rejects_stays_out(lab):
    before = lab.files()
    ended = lab.play("site", fastoom_sensitivity="high")
    assert ended.code != 0
    assert "rejected by" in ended.text
    assert lab.files() == before


def test_an_upgrade_keeps_the_old_release_beside_the_new_one(lab):
    lab.zipapp.write_text(STANDIN + "# new\n")
    ended = lab.play("site", osremed_host_version="1.1")
    assert ended.code == 0, ended.text
    files = lab.files()
    assert files["opt/osremed/host/current"] == "releases/1.1"
    assert {"opt/osremed/host/releases/1.0/osremed", "opt/osremed/host/releases/1.1/osremed"} <= set(files)


def test_a_release_that_does_not_start_is_not_put_to_use(lab):
    lab.zipapp.write_text(f"#!{sys.executable}\nraise SystemExit('broken')\n")
    ended = lab.play("site", osremed_host_version="1.1")
    assert ended.code != 0
    assert lab.files()["opt/osremed/host/current"] == "releases/1.0"


def test_a_component_that_is_refused_takes_the_other_one_back(lab):
    """The guard has its new release already when the agent is refused."""
    before = lab.files()
    lab.zipapp.write_text(STANDIN + "# new\n")
    ended = lab.play("site", osremed_host_version="1.1", agent_intake_url="https://intake.example.org")
    assert ended.code != 0
    assert "agent_intake_url needs agent_token" in re.sub(r"\s+", " ", ended.text)
    assert lab.files() == before


#: As another than the role would write it, so that it would not be the same bytes again.
THEIRS = b'{"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": "low"}'


def test_a_policy_that_another_has_in_hand_stays_through_an_upgrade_and_a_rollback(lab):
    policy = lab.prefix / "etc/osremed/fastoom.json"
    policy.write_bytes(THEIRS)
    lab.zipapp.write_text(STANDIN + "# new\n")
    upgraded = lab.play("upgrade", osremed_host_version="1.1", fastoom_policy_manage="if_absent")
    assert upgraded.code == 0, upgraded.text
    assert os.readlink(lab.prefix / "opt/osremed/host/current") == "releases/1.1"
    assert policy.read_bytes() == THEIRS
    back = lab.play("rollback", osremed_host_zipapp="")
    assert back.code == 0, back.text
    assert os.readlink(lab.prefix / "opt/osremed/host/current") == "releases/1.0"
    assert policy.read_bytes() == THEIRS


def test_a_release_that_rejects_the_policy_that_stays_is_taken_back(lab):
    (lab.prefix / "etc/osremed/fastoom.json").write_bytes(THEIRS)
    before = lab.files()
    lab.zipapp.write_text(STANDIN.replace('"high"', '"low"'))
    ended = lab.play("upgrade", osremed_host_version="1.1", fastoom_policy_manage="if_absent")
    assert ended.code != 0
    assert "The policy in use is one that the release understands" in ended.text
    after = lab.files()
    assert after["opt/osremed/host/current"] == before["opt/osremed/host/current"] == "releases/1.0"
    assert after["etc/osremed/fastoom.json"] == THEIRS


def test_a_host_without_a_policy_gets_one_though_a_policy_that_is_there_would_stay(lab):
    (lab.prefix / "etc/osremed/fastoom.json").unlink()
    ended = lab.play("site", fastoom_policy_manage="if_absent", fastoom_sensitivity="low")
    assert ended.code == 0, ended.text
    assert json.loads(lab.files()["etc/osremed/fastoom.json"])["sensitivity"] == "low"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"osremed_host_sha256": "0" * 64}, "Nothing was touched"),
        ({"osremed_host_zipapp": "/nonexistent.pyz"}, "there is no such file"),
        ({"osremed_host_zipapp": ""}, "Set osremed_host_zipapp"),
        ({"osremed_host_version": "../x"}, "Set osremed_host_zipapp"),
        ({"fastoom_sensitivity": "extreme"}, "value of fastoom_sensitivity must be one of"),
    ],
)
def test_a_wrong_release_or_variable_touches_nothing(tmp_path, variables, message):
    lab = make_lab(tmp_path / "lab")
    ended = lab.play("site", **variables)
    assert ended.code != 0
    assert message in re.sub(r"\s+", " ", ended.text)
    assert not lab.prefix.exists()


def test_the_right_checksum_is_accepted(lab):
    right = hashlib.sha256(lab.zipapp.read_bytes()).hexdigest()
    assert lab.play("site", "--tags", "preflight", osremed_host_sha256=right).code == 0


def test_removal_leaves_nothing_and_can_be_repeated(lab):
    (lab.prefix / "var/lib/osremed/events/fastoom").mkdir(parents=True)
    (lab.prefix / "var/lib/osremed/events/fastoom/0.jsonl").write_text("{}\n")
    (lab.prefix / "run/osremed").mkdir(parents=True)
    (lab.prefix / "run/osremed/fastoom.json").write_text("{}")
    before = lab.files()
    assert lab.play("uninstall", "--check").code == 0
    assert lab.files() == before
    ended = lab.play("uninstall")
    assert ended.code == 0, ended.text
    assert not [name for name in lab.files() if "osremed" in name]
    again = lab.play("uninstall")
    assert (again.code, again.changed) == (0, 0)
    assert "WARNING" not in ended.text + again.text


def test_removal_keeps_what_is_not_its_own_and_says_so(lab):
    (lab.prefix / "var/lib/osremed/undo/run-1.json").write_text("{}")
    (lab.prefix / "etc/osremed/theirs.json").write_text("{}")
    ended = lab.play("uninstall")
    assert ended.code == 0
    files = lab.files()
    assert files["var/lib/osremed/undo/run-1.json"] == files["etc/osremed/theirs.json"] == b"{}"
    assert "etc/osremed/fastoom.json" not in files
    told = re.sub(r"\s+", " ", ended.text)
    assert "Not removed" in told
    assert str(lab.prefix / "etc/osremed/theirs.json") in told


def test_playbooks_and_scenarios_are_well_formed(tmp_path):
    playbooks = [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("molecule/*/*.yml")]
    argv = ["ansible-playbook", "--syntax-check", "-i", str(ROOT / "inventories/local")]
    argv += [str(path) for path in playbooks if path.name != "molecule.yml"]
    lab = make_lab(tmp_path / "lab")
    ended = subprocess.run(argv, env=lab.environ, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr


def test_every_scenario_has_the_playbooks_of_its_sequence():
    shared = {"check": "converge", "idempotence": "converge"}
    scenarios = list(ROOT.glob("molecule/*/molecule.yml"))
    assert len(scenarios) >= 2
    for scenario in scenarios:
        for step in yaml.safe_load(scenario.read_text())["scenario"]["test_sequence"]:
            assert (scenario.parent / f"{shared.get(step, step)}.yml").is_file(), f"{scenario.parent.name}: {step}"


@pytest.fixture(scope="module", params=[False, True], ids=["release-is-silent", "release-notifies"])
def unit(request, tmp_path_factory):
    """The unit file as the role renders it, for a release that exists."""
    directory = tmp_path_factory.mktemp("unit")
    lab = make_lab(directory / "lab")
    target = directory / "osremed-fastoom.service"
    playbook = directory / "render.yml"
    playbook.write_text(
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        f"  vars_files: ['{ROLE}/defaults/main.yml', '{ROLE}/vars/main.yml']\n"
        "  tasks:\n"
        "    - ansible.builtin.template:\n"
        f"        {{src: '{ROLE}/templates/osremed-fastoom.service.j2', dest: '{target}', mode: '0644'}}\n"
    )
    told = json.dumps({"__fastoom_notifies": request.param})
    argv = ["ansible-playbook", "-i", str(ROOT / "inventories/local"), str(playbook), "-e", told]
    subprocess.run(argv, env=lab.environ, cwd=ROOT, check=True, timeout=100, capture_output=True)
    return target


needs_systemd_tools = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@needs_systemd_tools
def test_systemd_understands_every_line_of_the_unit(unit):
    argv = ["systemd-analyze", "verify", "--man=no", str(unit)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@needs_systemd_tools
def test_the_unit_is_exposed_no_more_than_agreed(unit):
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout[-1500:]


def test_the_unit_starts_the_installed_release_in_isolation(unit):
    text = unit.read_text()
    assert "ExecStart=/usr/bin/python3 -I -S -B /opt/osremed/host/current/osremed fastoom run\n" in text
    assert "OOMScoreAdjust=-1000\n" in text


def test_the_unit_waits_for_word_of_a_release_that_gives_it(unit, request):
    watched = "Type=notify\nNotifyAccess=main\nWatchdogSec=30s\n" in unit.read_text()
    assert watched == ("notifies" in request.node.name)
