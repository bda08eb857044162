#!/usr/bin/env python3
"""Builds dist/release-VERSION: all that a release is, its SHA256SUMS and a CycloneDX bill of materials.

Refuses while the tree is not what a tag would name: uncommitted files, versions that differ, changes nobody has written
down, BPF objects that are missing. `--rehearse` builds all the same and says what would have refused. Only the
wheelhouses reach a package index, and only when the locks have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import bill_of_materials
import build_wheelhouse
import build_zipapp
import yaml
from own_files import own_files

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = Path("collections/ansible_collections/osremed/host")
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


def version_of(root: Path) -> str:
    """The version the package says it has. ValueError if it says none."""
    found = _VERSION.search((root / "osremed/__init__.py").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("osremed/__init__.py has no __version__")
    return found[1]


def faults(root: Path) -> Iterator[str]:
    """Why this tree is no release; nothing if it is one."""
    version = version_of(root)
    changed = _git(root, "status", "--porcelain").splitlines()
    if changed:
        yield f"{len(changed)} files are not committed, the first: {changed[0][3:]}"
    galaxy = yaml.safe_load((root / COLLECTION / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    if galaxy != version:
        yield f"galaxy.yml has version {galaxy}, osremed/__init__.py {version}"
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$"
    if not re.search(heading, (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE):
        yield f"CHANGELOG.md has no line: ## {version} (YYYY-MM-DD)"
    released = yaml.safe_load((root / COLLECTION / "changelogs/changelog.yaml").read_text(encoding="utf-8"))["releases"]
    fragments = sorted((root / COLLECTION / "changelogs/fragments").glob("*.y*ml"))
    if version not in released or fragments:
        yield f"the collection's changelog lacks {version} or {len(fragments)} fragments: antsibull-changelog release"
    programs = root / "osremed/sensors/bpf"
    for source in sorted(programs.glob("*.bpf.c")):
        if not list(programs.glob(f"{source.name.removesuffix('.bpf.c')}.*.bpf.o")):
            yield f"{source.name} is not compiled: make bpf"


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout.rstrip()


def checksums(folder: Path) -> str:
    """What `sha256sum -c` reads: every file of the folder but SHA256SUMS, sorted by name."""
    paths = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def build(output: Path, pythons: Sequence[str], *, redis: bool, opinion: bool) -> None:
    """Writes the folder `output`, whole or not at all; what was there before is replaced."""
    version = version_of(ROOT)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=output.parent) as scratch:
        folder, own = Path(scratch, "release"), Path(scratch, "own")
        folder.mkdir()
        own.mkdir()
        for path in own_files(own):
            shutil.copy(path, folder / path.name)
        build_zipapp.build(str(ROOT), str(folder / f"osremed-host-{version}.pyz"))
        for python in pythons:
            built = build_wheelhouse.build(python, None, redis=redis, opinion=opinion)
            shutil.move(built, folder / built.name)
        for path in folder.glob("*.sha256"):
            path.unlink()  # all of them are in SHA256SUMS
        made_s = int(_git(ROOT, "log", "-1", "--format=%ct"))
        bill = bill_of_materials.bill(version, parts(folder), made_s)
        (folder / f"osremed-{version}.cdx.json").write_text(bill, encoding="utf-8")
        (folder / "SHA256SUMS").write_text(checksums(folder), encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        folder.rename(output)


def parts(folder: Path) -> Mapping[str, bytes]:
    """Name -> bytes of what a release is made of: its own files, and each wheel inside its archives once."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".tar":
            found.update(bill_of_materials.wheels_in(path))
        else:
            found[path.name] = path.read_bytes()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder; otherwise dist/release-VERSION")
    parser.add_argument("--python", action="append", help="a Python hosts of the control plane have; may be repeated")
    parser.add_argument("--no-wheelhouse", action="store_true", help="without the control plane's archives")
    parser.add_argument("--redis", action="store_true", help="archives with what Prefect needs to use Redis")
    parser.add_argument("--opinion", action="store_true", help="archives with what asking a model needs")
    parser.add_argument("--rehearse", action="store_true", help="build although this is no release yet")
    given = parser.parse_args()
    found = list(faults(ROOT))
    for fault in found:
        print(f"build_release: {fault}", file=sys.stderr)
    if found and not given.rehearse:
        print("  hint: docs/howto/release.md; to try it out: --rehearse", file=sys.stderr)
        return 2
    output = given.output or ROOT / "dist" / f"release-{version_of(ROOT)}"
    pythons = [] if given.no_wheelhouse else given.python or [sys.executable]
    build(output, pythons, redis=given.redis, opinion=given.opinion)
    print((output / "SHA256SUMS").read_text(encoding="utf-8"), end="")
    print(f"{output}: {'a rehearsal, not to be published' if found else 'ready to be signed and published'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
