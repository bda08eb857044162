"""A release is the same bytes whoever builds it, names all it is made of, and is refused while the tree is none."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "tools"))


def built_by(folder, umask, zone):
    """The release without the archives of the control plane, as somebody with that umask and clock builds it."""
    argv = [sys.executable, ROOT / "tools/build_release.py", "--no-wheelhouse", "--rehearse", "--output", folder]
    environ = {**os.environ, "TZ": zone, "PYTHONHASHSEED": "random"}
    done = subprocess.run(argv, env=environ, umask=umask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return built_by(tmp_path_factory.mktemp("release") / "one", 0o022, "UTC")


def wheel(folder, name, version, *lines):
    """A wheel with nothing in it but what it says of itself."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as target:
        said = "\n".join([f"Name: {name}", f"Version: {version}", *lines])
        target.writestr(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.4\n{said}\n\n")
    return path


def test_another_umask_clock_and_day_give_the_same_bytes(release, tmp_path):
    again = built_by(tmp_path / "two", 0o077, "Asia/Tokyo")
    assert (again / "SHA256SUMS").read_text() == (release / "SHA256SUMS").read_text()


def test_sha256sum_finds_every_file_as_it_was_built(release):
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, check=False)
    assert done.returncode == 0
    named = {line.split("  ")[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.name for path in release.iterdir()} - {"SHA256SUMS"}


def test_the_collection_installs_and_its_own_manifest_holds(release, tmp_path):
    (tarball,) = release.glob("osremed-host-*.tar.gz")
    galaxy = [str(Path(sys.executable).with_name("ansible-galaxy")), "collection"]
    environ = {**os.environ, "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}
    for words in (["install", "--offline", "-p", str(tmp_path), str(tarball)], ["verify", "--offline", "osremed.host"]):
        done = subprocess.run([*galaxy, *words], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_host_plane_of_a_release_starts_on_a_bare_interpreter(release):
    (pyz,) = release.glob("osremed-host-*.pyz")
    done = subprocess.run([sys.executable, "-I", "-S", pyz, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == pyz.name.removeprefix("osremed-host-").removesuffix(".pyz")


def test_the_bill_of_materials_is_valid_and_names_each_file_with_its_hash(release):
    (bill,) = release.glob("*.cdx.json")
    text = bill.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = {part["bom-ref"]: part["hashes"][0]["content"] for part in json.loads(text)["components"]}
    files = [path for path in release.iterdir() if path.name not in ("SHA256SUMS", bill.name)]
    assert told == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_wheels_of_others_are_told_with_licence_hash_and_who_needs_them(tools, tmp_path):
    paths = [
        wheel(
            tmp_path,
            "osremed",
            "1.0",
            "Requires-Dist: alpha>=1; extra == 'control'",
            "Requires-Dist: gamma; extra == 'dev'",
        ),
        wheel(
            tmp_path, "Alpha", "1.2", "License-Expression: MIT", "Requires-Dist: beta[fast]", "Requires-Dist: absent"
        ),
        wheel(
            tmp_path,
            "beta",
            "2",
            "License: " + "word " * 50,
            "Classifier: License :: OSI Approved :: Zope Public License",
        ),
        wheel(tmp_path, "gamma", "3"),
    ]
    with tarfile.open(tmp_path / "control.tar", "w") as tar:
        for path in paths:
            tar.add(path, f"wheels/{path.name}")
    made = tools("bill_of_materials")
    inside = made.wheels_in(tmp_path / "control.tar")
    assert sorted(inside) == [path.name for path in paths[1:]], "ours lies beside the archive already"
    text = made.bill("1.0", {paths[0].name: paths[0].read_bytes(), **inside}, 1_700_000_000)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    parts = {part["name"]: part for part in document["components"]}
    assert parts["Alpha"]["purl"] == "pkg:pypi/alpha@1.2?file_name=Alpha-1.2-py3-none-any.whl"
    assert parts["Alpha"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert parts["beta"]["licenses"] == [{"license": {"name": "Zope Public License"}}]
    assert "licenses" not in parts["gamma"], "what a package does not say is not made up"
    assert parts["beta"]["hashes"][0]["content"] == hashlib.sha256(paths[2].read_bytes()).hexdigest()
    needs = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert needs[paths[0].name] == [paths[1].name]
    assert needs[paths[1].name] == [paths[2].name]


@pytest.fixture
def tree(tmp_path):
    """A small tree that is a release."""
    own = tmp_path / "tree"
    host = own / "collections/ansible_collections/osremed/host"
    (host / "changelogs/fragments").mkdir(parents=True)
    (own / "osremed/sensors/bpf").mkdir(parents=True)
    (own / "osremed/__init__.py").write_text('__version__ = "2.1.0"\n')
    (own / "osremed/sensors/bpf/a.bpf.c").write_text("")
    (own / "osremed/sensors/bpf/a.x86_64.bpf.o").write_text("")
    (own / "CHANGELOG.md").write_text("# Changelog\n\n## 2.1.0 (2026-02-03)\n")
    (host / "galaxy.yml").write_text("version: 2.1.0\n")
    (host / "changelogs/changelog.yaml").write_text("releases:\n  2.1.0: {}\n")
    git = ["git", "-C", str(own), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return own


def test_a_whole_tree_has_no_fault(tools, tree):
    assert list(tools("build_release").faults(tree)) == []


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("notes.txt", "new", "notes.txt"),
        ("CHANGELOG.md", "## 2.1.0 (unreleased)\n", "CHANGELOG.md has no line"),
        ("collections/ansible_collections/osremed/host/galaxy.yml", "version: 2.0.9\n", "galaxy.yml has version 2.0.9"),
        ("collections/ansible_collections/osremed/host/changelogs/fragments/x.yml", "a: 1", "or 1 fragments"),
        ("osremed/sensors/bpf/b.bpf.c", "", "b.bpf.c is not compiled"),
    ],
)
def test_a_tree_that_is_no_release_is_told_why(tools, tree, path, text, said):
    (tree / path).write_text(text)
    assert any(said in fault for fault in tools("build_release").faults(tree))


def test_a_release_of_an_unfinished_tree_is_refused_and_nothing_is_written(tree, tmp_path):
    shutil.copytree(ROOT / "tools", tree / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    argv = [sys.executable, tree / "tools/build_release.py", "--no-wheelhouse", "--output", tmp_path / "out"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert "not committed" in done.stderr
    assert "--rehearse" in done.stderr
