"""The host plane is one file that runs on a bare interpreter and is the same whoever builds it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "build_zipapp.py"
_spec = importlib.util.spec_from_file_location("build_zipapp", TOOL)
build_zipapp = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build_zipapp)

#: never in the guard's memory: each costs half a megabyte or more, or could call the network
HEAVY = {
    *["argparse", "asyncio", "concurrent", "email", "http", "importlib.metadata", "logging", "multiprocessing"],
    *["psutil", "random", "sqlite3", "ssl", "subprocess", "tempfile", "unittest", "urllib", "xml", "yaml", "zoneinfo"],
}


def interpreter(name):
    """The path of a Python that answers, from PATH or pyenv, or None. A shim may be there and not answer."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    version = Path(name).name.replace("python", "")
    for path in [shutil.which(name), *sorted(versions.glob(f"{version}.*/bin/python{version}"))]:
        if path and run([path, "-c", ""]).returncode == 0:
            return str(path)
    return None


def run(command, **options):
    words = [str(each) for each in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.fixture(params=[sys.executable, "python3.9", "python3.13"], ids=["this", "3.9", "3.13"])
def python(request):
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    return found


@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    output = tmp_path_factory.mktemp("dist") / "osremed-host.pyz"
    build_zipapp.build(str(ROOT), str(output))
    return output


def test_the_same_sources_give_the_same_bytes_whatever_their_times_modes_and_place(pyz, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "osremed", copy / "osremed", ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (copy / "osremed" / "core" / "__pycache__").mkdir()
    (copy / "osremed" / "core" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"stale")
    build_zipapp.build(str(copy), str(tmp_path / "again.pyz"))
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()


def test_the_checksum_file_is_what_sha256sum_checks(pyz):
    done = run(["sha256sum", "-c", f"{pyz.name}.sha256"], cwd=pyz.parent)
    assert (done.returncode, done.stdout) == (0, f"{pyz.name}: OK\n")


def test_it_holds_the_host_plane_and_nothing_else(pyz):
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
    rooms = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert rooms == set(build_zipapp.ROOMS)
    assert all(name.endswith(build_zipapp._SUFFIXES) for name in names)
    assert names == ["__main__.py", *sorted(names[1:])]


def test_a_tree_without_a_room_is_not_built(tmp_path):
    shutil.copytree(ROOT / "osremed", tmp_path / "osremed")
    shutil.rmtree(tmp_path / "osremed" / "fastoom")
    with pytest.raises(FileNotFoundError, match="room"):
        build_zipapp.build(str(tmp_path), str(tmp_path / "out.pyz"))
    assert not (tmp_path / "out.pyz").exists()


@pytest.mark.parametrize("module", ["fastoom.daemon", "fastoom.verbs", "cli.main"])
def test_the_guard_starts_on_a_bare_interpreter_and_loads_nothing_heavy(pyz, python, module):
    program = f"import sys; sys.path.insert(0, {str(pyz)!r}); import osremed.{module}"
    done = run([python, "-I", "-S", "-B", "-c", f"{program}; print(osremed.__file__); print(*sys.modules)"])
    assert done.returncode == 0, done.stderr
    where, loaded = done.stdout.splitlines()
    assert where.startswith(str(pyz))
    modules = set(loaded.split())
    assert not {name for name in modules if name in HEAVY or name.split(".")[0] in HEAVY - {"importlib.metadata"}}
    assert not {name for name in modules if name.startswith(("osremed.agent", "osremed.panorama"))}


def test_every_module_of_it_imports_on_a_bare_interpreter(pyz, python):
    with zipfile.ZipFile(pyz) as archive:
        names = [
            name[:-3].replace("/", ".")
            for name in archive.namelist()
            if name.startswith("osremed/") and name.endswith(".py")
        ]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith(".bpf")]
    program = (
        f"import sys, importlib; sys.path.insert(0, {str(pyz)!r}); [importlib.import_module(n) for n in {names!r}]"
    )
    done = run([python, "-I", "-S", "-B", "-c", program])
    assert done.returncode == 0, done.stderr


def test_a_verb_runs_from_it(pyz, python, tmp_path):
    environment = {"OSREMED_PREFIX": str(tmp_path), "PATH": os.environ["PATH"]}
    done = run([python, "-I", "-S", "-B", pyz, "agent", "undo", "list", "-o", "json"], env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"pending": [], "conflicts": [], "damaged": []}


@pytest.mark.parametrize(
    ("locale", "word"), [("zh_CN.UTF-8", "可用内存"), ("zh_TW.UTF-8", "可用記憶體"), ("C", "available memory")]
)
def test_it_speaks_the_language_of_the_environment_and_its_documents_do_not(pyz, python, tmp_path, locale, word):
    environment = {"OSREMED_PREFIX": str(tmp_path), "PATH": os.environ["PATH"], "LANG": locale}
    told, document, wrong = (
        run([python, "-I", "-S", "-B", pyz, *words], env=environment)
        for words in (["doctor"], ["doctor", "-o", "json"], ["fastoom", "run", "--wrong"])
    )
    assert word in told.stdout
    assert "available memory" in {check["name"] for check in json.loads(document.stdout)["checks"]}
    assert document.returncode == told.returncode
    assert (wrong.returncode, wrong.stderr.count("[input.usage]")) == (2, 1)
    assert ("未知" in wrong.stderr) == (locale != "C")


def test_it_is_executable_by_itself(pyz, tmp_path):
    system = interpreter("/usr/bin/python3")
    if system is None or run([system, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]).returncode:
        pytest.skip("no /usr/bin/python3 of 3.9 or newer")
    done = run([pyz, "agent", "status"], env={"OSREMED_PREFIX": str(tmp_path)})
    assert done.returncode == 7
    assert "no status file" in done.stderr


def test_a_verb_of_the_control_plane_says_where_it_lives(pyz):
    done = run([sys.executable, "-I", "-S", "-B", pyz, "runbook", "lint", "x"])
    assert done.returncode == 7
    assert "control plane" in done.stderr
