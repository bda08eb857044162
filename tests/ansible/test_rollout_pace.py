"""In which batches the playbooks go: as they were told with -e, and not otherwise than the inventory says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ansible_environment import ROOT, ansible_environment

pytestmark = pytest.mark.ansible
#: No host is asked: the phase that is run is the check of the pace, which every tag runs, and a look at this machine.
GIVEN = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
BOOKS = ["site", "upgrade", "rollback", "uninstall"]


@pytest.fixture
def play(tmp_path):
    """Runs a playbook on three hosts below a prefix that is empty; `inventory` is what the group says."""

    def run(book, inventory, *words):
        given = {**GIVEN, "osremed_prefix": str(tmp_path / "host"), **inventory}
        hosts = {"a": {}, "b": {}, "c": {}}
        (tmp_path / "hosts.json").write_text(json.dumps({"osremed": {"hosts": hosts, "vars": given}}))
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts.json")]
        argv += [str(ROOT / f"playbooks/{book}.yml"), "--check", "--tags", "none-but-always", *words]
        environ = ansible_environment(tmp_path)
        ended = subprocess.run(argv, check=False, env=environ, capture_output=True, text=True, timeout=120, cwd=ROOT)
        return ended, " ".join(ended.stdout.split())

    return run


@pytest.mark.parametrize("book", BOOKS)
def test_a_pace_in_the_inventory_is_refused_before_a_host_is_touched(play, book, tmp_path):
    ended, said = play(book, {"rollout_serial": ["50%"]})
    assert ended.returncode != 0, said
    assert "rollout_serial and rollout_max_fail_percentage have no effect in an inventory" in said
    assert "Nothing was touched" in said
    assert not (tmp_path / "host").exists()


def test_another_share_that_may_fail_in_the_inventory_is_refused(play):
    ended, said = play("site", {"rollout_max_fail_percentage": 30})
    assert ended.returncode != 0, said
    assert "30% may fail" in said


def test_a_pace_given_with_e_is_kept_and_told_whatever_the_inventory_says(play):
    _ended, said = play("site", {"rollout_serial": ["50%"]}, "-e", f"@{ROOT}/inventories/pace/staging.yml")
    assert said.count("PLAY [Roll out the host components: batches 100%, 0% may fail]") == 1
    assert "have no effect" not in said


def test_without_a_pace_one_host_goes_first(play):
    _ended, said = play("upgrade", {})
    assert "PLAY [Upgrade the host components: batches 1, 10%, 100%, 0% may fail]" in said
    assert "have no effect" not in said


def test_the_example_fleet_gives_no_host_a_pace():
    for path in (ROOT / "inventories/example-fleet").rglob("*.yml"):
        assert "rollout_serial" not in path.read_text(), path
        assert "rollout_max_fail" not in path.read_text(), path
