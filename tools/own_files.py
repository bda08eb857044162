"""Our wheel and our collection, built from copies so that neither leaves anything in the sources.

The same sources give the same bytes whoever builds, whenever and wherever, as long as zlib, setuptools and the compiled
BPF objects are the same: one fixed time, one mode, sorted names.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: 1980-01-01, the oldest time a zip can say
EPOCH_S = 315532800


def own_files(scratch: Path) -> list[Path]:
    """The wheel and the collection's tarball, below the empty folder `scratch`."""
    source, into = scratch / "source", scratch / "own"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "osremed", source / "osremed", ignore=shutil.ignore_patterns("__pycache__"))
    books = ROOT / "runbooks"
    for book in (*books.glob("*/runbook.yaml"), *books.glob("parts/*.yaml")):  # for the stories of `osremed demo`
        into_wheel = source / "osremed/demo" / book.relative_to(ROOT)
        into_wheel.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(book, into_wheel)
    for path in source.rglob("*"):  # a zip keeps modes, and they are the umask of whoever cloned
        path.chmod(0o755 if path.is_dir() else 0o644)
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH_S), "ANSIBLE_HOME": str(scratch / "ansible")}
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    own = [*pip, "--no-build-isolation", "--wheel-dir", str(into), str(source)]
    subprocess.run(own, check=True, env=environ, umask=0o022)
    galaxy = [str(Path(sys.executable).with_name("ansible-galaxy")), "collection", "build", "--output-path", str(into)]
    collection = str(ROOT / "collections/ansible_collections/osremed/host")
    subprocess.run([*galaxy, collection], check=True, env=environ, stdout=subprocess.DEVNULL)
    for path in into.glob("*.tar.gz"):
        path.write_bytes(steady_collection(path.read_bytes()))
    return sorted(into.iterdir())


def steady_collection(data: bytes) -> bytes:
    """Pure: a collection as ansible-galaxy built it, without the folder's order, the clock, the owner and the umask."""
    with tarfile.open(fileobj=io.BytesIO(data)) as built:
        members = {entry.name: (entry, _content(built, entry)) for entry in built.getmembers()}
    listed = json.loads(members["FILES.json"][1])
    listed["files"].sort(key=lambda entry: str(entry["name"]))
    manifest = json.loads(members["MANIFEST.json"][1])
    files = _json(listed)
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(files).hexdigest()
    changed = {"FILES.json": files, "MANIFEST.json": _json(manifest)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ["MANIFEST.json", "FILES.json", *sorted(set(members) - set(changed))]:
            entry, content = members[name]
            content = changed.get(name, content)
            fixed = tarfile.TarInfo(name)
            fixed.type, fixed.linkname, fixed.size, fixed.mtime = entry.type, entry.linkname, len(content), EPOCH_S
            fixed.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            tar.addfile(fixed, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry) if entry.isfile() else None
    return file.read() if file else b""


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()
