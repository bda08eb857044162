#!/usr/bin/env python3
"""Builds dist/osremed-control-VERSION-pyXY-MACHINE.tar and its .sha256: all that a host needs to run the control plane.

In it, the manifest first: `manifest.json` (version, python, machine, SHA-256 of each file), `requirements.txt` (exact
versions with the hashes of these wheels), `wheels/`, and the collection. It fits the Python that `--python` names and
this machine's architecture. Only this tool reaches a package index, and only when the locks have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from own_files import EPOCH_S, own_files

ROOT = Path(__file__).resolve().parents[1]
_ENTRY = re.compile(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^ ]+)")
_PYTHONS = ("3.11", "3.12", "3.13")


def entries(text: str) -> dict[str, str]:
    """Name -> the lock's lines of it."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if named := _ENTRY.match(line):
            lines = found.setdefault(named[1], [])  # a name has several entries when versions depend on the Python
        if not line.startswith("#"):
            lines.append(line)
    return {name: "\n".join(each) for name, each in found.items()}


def control_part(text: str, roots: set[str]) -> str:
    """The entries of a lock that `roots` need, by its `# via` comments."""
    locked = entries(text)
    parents = {}
    for name, entry in locked.items():
        said = " ".join(line.strip(" #") for line in entry.splitlines() if line.strip().startswith("#"))
        parents[name] = set(said.replace("via", " ", 1).split())
    wanted: set[str] = set()
    new = roots & set(locked)
    while new:
        wanted |= new
        new = {name for name in locked if name not in wanted and parents[name] & new}
    return "\n".join(locked[name] for name in sorted(wanted)) + "\n"


def for_python(text: str, tag: str) -> str:
    """The entries that any patch level of this Python needs, without conditions: a host's may be older than ours."""
    from packaging.markers import Marker  # noqa: PLC0415  in .venv

    lines, wanted = [], True
    for line in text.splitlines():
        if _ENTRY.match(line):
            head, _, condition = line.removesuffix("\\").partition(" ; ")
            levels = ({"python_version": tag, "python_full_version": f"{tag}.{patch}"} for patch in (0, 99))
            wanted = not condition or any(Marker(condition.strip()).evaluate(level) for level in levels)
            line = f"{head.strip()} \\"  # noqa: PLW2901
        if wanted:
            lines.append(line)
    return "\n".join(lines) + "\n"


def roots_of(*extras: str) -> set[str]:
    """The names in these extras of pyproject."""
    import tomllib  # noqa: PLC0415  from 3.11 on, and so is this tool

    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return {re.split(r"[^a-z0-9-]", each, maxsplit=1)[0] for extra in extras for each in known[extra]}


def fetch(python: str, requirements: str, into: Path) -> None:
    """The wheels of `requirements`, every one checked against its hash. Kept, so that the next build needs no index."""
    if (into / "complete").exists():
        return
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    listed = into / "requirements.txt"
    listed.write_text(requirements, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python, "wheel", "--quiet", "--disable-pip-version-check"]
    # Also as constraints: those hold for a name with extras, too.
    argv = [*pip, "--require-hashes", "--requirement", str(listed), "--constraint", str(listed)]
    subprocess.run([*argv, "--wheel-dir", str(into), "--cache-dir", str(ROOT / ".osremed/pip")], check=True)
    (into / "complete").touch()


def pinned(wheel: str, sha256: str) -> str:
    """The line of requirements.txt for a wheel."""
    name, version = wheel.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{sha256}\n"


def archive(files: dict[str, bytes]) -> bytes:
    """Pure: a tar with one fixed time, owner and mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, EPOCH_S
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def build(python: str, output: Path | None, *, redis: bool, opinion: bool) -> Path:
    """Writes the archive and its checksum file; the archive's path."""
    asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    tag = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    if tag not in _PYTHONS:
        raise SystemExit(f"build_wheelhouse: {python} is Python {tag}, the control plane needs {', '.join(_PYTHONS)}")
    locked = (ROOT / "requirements/dev.lock").read_text(encoding="utf-8")
    more = entries((ROOT / "requirements/wheelhouse.lock").read_text(encoding="utf-8"))
    chosen = [more["pip"], more["prefect-redis"]] if redis else [more["pip"]]
    roots = roots_of("control", *(["opinion"] if opinion else []))
    requirements = for_python(control_part(locked, roots) + "\n".join(chosen), tag)
    key = hashlib.sha256(f"{tag} {platform.machine()} {requirements}".encode()).hexdigest()[:16]
    wheels = ROOT / ".osremed/wheelhouse" / key
    fetch(python, requirements, wheels)
    with tempfile.TemporaryDirectory(prefix="osremed-wheelhouse-") as scratch:
        paths = sorted([*wheels.glob("*.whl"), *own_files(Path(scratch))], key=lambda path: path.name)
        inside = {f"wheels/{path.name}" if path.suffix == ".whl" else path.name: path.read_bytes() for path in paths}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in inside.items()}
    version = next(name.split("-")[1] for name in inside if name.startswith("wheels/osremed-"))
    lines = [pinned(name.rpartition("/")[2], digest) for name, digest in digests.items() if name.endswith(".whl")]
    manifest = {"version": version, "python": tag, "machine": platform.machine(), "redis": redis, "opinion": opinion}
    manifest["sha256"] = digests
    first = {"manifest.json": json.dumps(manifest, indent=1).encode(), "requirements.txt": "".join(lines).encode()}
    data = archive({**first, **inside})
    name = f"osremed-control-{version}-py{tag.replace('.', '')}-{platform.machine()}.tar"
    output = output or ROOT / "dist" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(data)
    Path(f"{output}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {output.name}\n", encoding="utf-8")
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the Python it is for: 3.11, 3.12 or 3.13")
    parser.add_argument("--output", type=Path, help="the archive; otherwise dist/osremed-control-...tar")
    parser.add_argument("--redis", action="store_true", help="with what Prefect needs to use Redis")
    parser.add_argument("--opinion", action="store_true", help="with what asking a model for a second opinion needs")
    given = parser.parse_args()
    print(build(given.python, given.output, redis=given.redis, opinion=given.opinion))


if __name__ == "__main__":
    main()
