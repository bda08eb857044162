"""The collection as it is shipped: built, installed offline, and every module tells of itself from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "collections/ansible_collections/osremed/host"
MODULES = sorted(f"osremed.host.{path.stem}" for path in (SOURCE / "plugins/modules").glob("*.py"))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """`run(command, *words)` outside the repository, where only the installed tarball can be found."""
    home = tmp_path_factory.mktemp("shipped")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environ = {**kept, "ANSIBLE_HOME": str(home / "ansible"), "LC_ALL": "C.UTF-8"}

    def run(command, *words, place=home / "collections"):
        argv = [str(Path(sys.executable).parent / command), *words]
        done = subprocess.run(
            argv,
            env={**environ, "ANSIBLE_COLLECTIONS_PATH": str(place)},
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    built = run("ansible-galaxy", "collection", "build", "--output-path", str(home / "dist"), str(SOURCE))
    (run.tarball,) = (home / "dist").glob("*.tar.gz")
    run.warnings = built.stderr
    run("ansible-galaxy", "collection", "install", "--offline", "-p", str(home / "collections"), str(run.tarball))
    return run


def test_it_is_built_without_a_warning_and_holds_what_hosts_and_rulebooks_need(shipped):
    with tarfile.open(shipped.tarball) as archive:
        names = set(archive.getnames())
    assert {"plugins/modules/undo.py", "meta/runtime.yml", "meta/extensions.yml", "README.md", "COPYING"} <= names
    assert "extensions/eda/plugins/event_source/events.py" in names
    assert not [name for name in names if "__pycache__" in name or "tests/output" in name or name.endswith(".tar.gz")]
    assert "WARNING" not in shipped.warnings.upper()


def test_every_module_tells_of_itself_from_the_installed_tarball(shipped):
    told = json.loads(shipped("ansible-doc", "-t", "module", "-j", *MODULES).stdout)
    assert sorted(told) == MODULES
    for name, facts in told.items():
        assert str(shipped.tarball.parents[1]) in facts["doc"]["filename"], name
        assert facts["doc"]["options"]
        assert facts["return"]
        assert facts["examples"].strip()
        assert {"check_mode", "diff_mode", "idempotent", "platform"} <= set(facts["doc"]["attributes"])


def test_what_was_installed_is_what_was_built(shipped, tmp_path):
    """In a place of its own: what Python compiled where it was used counts as changed."""
    words = ("ansible-galaxy", "collection", "install", "--offline", "-p", str(tmp_path), str(shipped.tarball))
    shipped(*words, place=tmp_path)
    told = shipped("ansible-galaxy", "collection", "verify", "--offline", "osremed.host", place=tmp_path)
    assert "Successfully verified" in told.stdout
