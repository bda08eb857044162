"""Runs `ansible-test sanity` on the collection with every Python from 3.9 to 3.13 that is found here; says which are
missing. All tests run on the controller's Python, `compile` and `import` on each. No test may be ignored.

Everything it makes lies in .osremed/sanity: a copy of the collection with a git repository of its own (ansible-test
lists files with git and writes beside them), its environments, a home. The network is asked for Python packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "collections" / "ansible_collections" / "osremed" / "host"
WORK = ROOT / ".osremed" / "sanity"
COPY = WORK / "ansible_collections" / "osremed" / "host"
HOME = WORK / "home"
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
#: Where interpreters lie that are not on the PATH, or only as a version manager's shim, which does not run by itself.
PLACES = ("~/.pyenv/versions/{}.*/bin", "~/.local/share/uv/python/cpython-{}.*/bin", "/opt/python{}*/bin")

#: ansible-test would fetch get-pip.py from a host of its own; this takes the pip wheel that plain pip has downloaded.
GET_PIP = """import sys
sys.path.insert(0, {wheel!r})
sys.argv[1:] = ["install", "--no-index", "--no-deps", "--disable-pip-version-check", {wheel!r}]
from pip._internal.cli.main import main
sys.exit(main())
"""


def find_pythons() -> Mapping[str, str]:
    """Version -> a real interpreter of it: one that runs, and not a shim."""
    found = {}
    for version in VERSIONS:
        name = f"python{version}"
        folders = [*os.environ["PATH"].split(os.pathsep), *_places(version)]
        paths = (os.path.join(folder, name) for folder in folders)
        real = next((real for path in paths if os.access(path, os.X_OK) and (real := _real(path, version))), None)
        if real:
            found[version] = real
    return found


def _places(version: str) -> Iterator[str]:
    for place in PLACES:
        yield from sorted(glob(os.path.expanduser(place.format(version))))


def _real(path: str, version: str) -> str:
    """The interpreter below its base prefix, "" if it does not run."""
    code = "import sys, venv; print(sys.base_prefix, '%d.%d' % sys.version_info[:2])"
    ended = subprocess.run([path, "-I", "-c", code], capture_output=True, text=True, check=False)
    prefix, _, told = ended.stdout.strip().rpartition(" ")
    real = os.path.join(prefix, "bin", f"python{version}")
    return real if told == version and os.access(real, os.X_OK) else ""


def check_nothing_is_ignored() -> None:
    for path in sorted(SOURCE.glob("tests/sanity/ignore-*.txt")):
        if path.read_text(encoding="utf-8").strip():
            sys.exit(f"{path}: no sanity test may be ignored; mend what it tells")


def refresh_copy() -> None:
    """The files of the working tree, as git lists them; what ansible-test keeps in tests/output stays."""
    command = ["git", "-C", str(SOURCE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    wanted = {name for name in listed if name and (SOURCE / name).is_file()}
    for path in [path for path in COPY.rglob("*") if path.is_file()]:
        name = path.relative_to(COPY).as_posix()
        if name not in wanted and not name.startswith((".git/", "tests/output/")):
            path.unlink()
    for name in wanted:
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(SOURCE / name, COPY / name)
    (COPY / ".gitignore").write_text("tests/output/\n__pycache__/\n", encoding="utf-8")
    if not (COPY / ".git").is_dir():
        subprocess.run(["git", "init", "--quiet", str(COPY)], check=True)


def place_get_pip() -> None:
    import ansible_test._internal.python_requirements as requirements  # noqa: PLC0415  only here, on the controller

    source = Path(requirements.__file__).read_text(encoding="utf-8")
    match = re.search(r"default_packages = dict\(\s*pip='([0-9.]+)'", source)
    if match is None:
        sys.exit("this ansible-test names its pip elsewhere: look at get_venv_packages in python_requirements.py")
    version = match.group(1)
    wheels = WORK / "wheels"
    wheel = wheels / f"pip-{version}-py3-none-any.whl"
    if not wheel.exists():
        download = [
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            str(wheels),
            f"pip=={version}",
        ]
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    stand_in = cache / f"get_pip_{version.replace('.', '_')}.py"
    stand_in.write_text(GET_PIP.format(wheel=str(wheel)), encoding="utf-8")


def environment(pythons: Mapping[str, str]) -> dict[str, str]:
    folders = [os.path.dirname(sys.executable), *(os.path.dirname(path) for path in pythons.values())]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    environ = {**kept, "HOME": str(HOME), "PATH": os.pathsep.join([*folders, kept.get("PATH", os.defpath)])}
    environ.setdefault("PIP_CACHE_DIR", str(ROOT / ".osremed" / "pip"))
    for own in ("~/.config/pip/pip.conf", "~/.pip/pip.conf"):  # the home is another one
        if os.path.exists(os.path.expanduser(own)):
            environ.setdefault("PIP_CONFIG_FILE", os.path.expanduser(own))
    return environ


def main() -> int:
    check_nothing_is_ignored()
    pythons = find_pythons()
    missing = [version for version in VERSIONS if version not in pythons]
    if missing:
        print(f"SANITY: NOT CHECKED WITH PYTHON {', '.join(missing)}: not found on the PATH or in {', '.join(PLACES)}")
    refresh_copy()
    place_get_pip()
    controller = f"{sys.version_info[0]}.{sys.version_info[1]}"
    print(f"sanity: all tests on Python {controller}; compile and import on {', '.join(pythons)}", flush=True)
    command = [os.path.join(os.path.dirname(sys.executable), "ansible-test"), "sanity", "--color", "no", *sys.argv[1:]]
    return subprocess.run(command, cwd=COPY, env=environment(pythons), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
