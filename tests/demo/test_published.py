"""A story from what a release publishes: the wheel and the collection's tarball, away from every checkout."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from osremed.core.reading import Missing
from osremed.sensors.bpf import features

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.demo, pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(the program as installed, the folder of wheel and tarball). What others wrote comes from this environment."""
    folder = tmp_path_factory.mktemp("published")
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        wheel, _tarball = importlib.import_module("own_files").own_files(folder)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    env = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    site = env / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files do not count there
    pip = [sys.executable, "-m", "pip", "--python", str(env / "bin/python"), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--disable-pip-version-check", str(wheel)], check=True)
    return str(env / "bin/osremed"), wheel.parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with nothing in it, and a home without collections."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
    return tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the story ends before it looks for the collection")
@pytest.mark.parametrize("story", ["near-oom", "vram-growth", "command-flood"])
def test_without_the_collection_a_story_says_what_to_install_and_does_nothing(published, elsewhere, story):
    ended = subprocess.run([published[0], "demo", story], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "hint: ansible-galaxy collection install" in ended.stderr
    assert list(elsewhere.iterdir()) == []


#: How the run of each host ends, in what the story prints with `-o json`.
_TOLD = {
    "near-oom": lambda told: {each["host"]: each["state"] for each in told["chapters"]},
    "vram-growth": lambda told: {each["host"]: each["state"] for each in told["chapters"]},
    "command-flood": lambda told: {told[each]["host"]: told[each]["state"] for each in ("launch", "placebo")},
}
_ENDS = {
    "near-oom": {"demo-peak": "SUCCEEDED", "demo-shared": "UNDONE"},
    "vram-growth": {"demo-reserve": "SUCCEEDED", "demo-leak": "UNDO_INCOMPLETE"},
    "command-flood": {"demo-launch": "SUCCEEDED", "demo-placebo": "UNDONE"},
}


@pytest.mark.skipif(os.geteuid() != 0, reason="control groups, signals and BPF need root")
@pytest.mark.parametrize("story", _ENDS)
def test_a_story_is_told_from_the_wheel_and_the_tarball(published, elsewhere, story):
    if story == "vram-growth" and shutil.which("cc") is None:
        pytest.skip("the GPUs of the story are built with a C compiler")
    if story == "command-flood" and isinstance(missing := features.absent(), Missing):
        pytest.skip(str(missing))
    (tarball,) = published[1].glob("*.tar.gz")
    galaxy = str(Path(sys.executable).with_name("ansible-galaxy"))
    install = [galaxy, "collection", "install", "--offline", "-p", "collections", str(tarball)]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    argv = [published[0], "demo", story, "-o", "json"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=840, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert _TOLD[story](json.loads(ended.stdout)) == _ENDS[story]
    (inventory,) = elsewhere.glob(".osremed/*/inventory.json")
    for host in json.loads(inventory.read_text())["all"]["hosts"].values():
        assert host["ansible_python_interpreter"] == str(Path(published[0]).with_name("python"))
    assert str(ROOT) not in ended.stderr + ended.stdout
