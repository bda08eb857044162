#!/usr/bin/env python3
"""Builds dist/osremed-host.pyz, the host plane in one executable file, and its .sha256 beside it.

The same sources give the same bytes, whoever builds, wherever, whenever: entries are sorted, stored (deflate differs
between zlib releases) and carry one fixed time and mode. It runs on any Python from 3.9 without site-packages.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import zipfile
from collections.abc import Iterator

ROOMS = ("agent", "cli", "core", "fastoom", "hotspot", "panorama", "sensors", "timeline", "verbs")
_SUFFIXES = (".py", ".json", ".po", ".css", ".html", ".js", ".bpf.o")
#: Linux passes everything after the interpreter as one argument, so the flags are one word: -I no environment and no
#: user site, -S no site-packages, -B write no bytecode.
_SHEBANG = b"#!/usr/bin/python3 -ISB\n"
_MAIN = b"import sys\n\nfrom osremed.cli.main import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  #: the oldest time a zip can say
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def sources(root: str) -> Iterator[tuple[str, bytes]]:
    """(name in the archive, content), sorted by name. FileNotFoundError if a room is not there."""
    package = os.path.join(root, "osremed")
    names = ["osremed/__init__.py"]
    for room in ROOMS:
        if not os.path.isfile(os.path.join(package, room, "__init__.py")):
            raise FileNotFoundError(2, "a room of the host plane is missing", os.path.join(package, room))
        for directory, _, files in os.walk(os.path.join(package, room)):
            names += [
                os.path.relpath(os.path.join(directory, name), root) for name in files if name.endswith(_SUFFIXES)
            ]
    for name in sorted(names):
        with open(os.path.join(root, name), "rb") as file:
            yield name, file.read()


def build(root: str, output: str) -> str:
    """Writes the archive and its checksum file, both whole or not at all; the SHA-256."""
    sys.path.insert(0, root)
    from osremed.core.canonical import sha256_hex  # noqa: PLC0415  from the tree that is built
    from osremed.core.files import write_atomic  # noqa: PLC0415

    data = archive([("__main__.py", _MAIN), *sources(root)])
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    digest = sha256_hex(data)
    write_atomic(output, data, mode=0o755)
    write_atomic(f"{output}.sha256", f"{digest}  {os.path.basename(output)}\n".encode())
    return digest


def archive(entries: list[tuple[str, bytes]]) -> bytes:
    """Pure: the executable's bytes."""
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as target:
        for name, content in entries:
            facts = zipfile.ZipInfo(name, _EPOCH)
            facts.create_system = 3
            facts.external_attr = 0o100644 << 16
            target.writestr(facts, content)
    return buffer.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the host plane as one file.")
    parser.add_argument("--output", default=os.path.join(ROOT, "dist", "osremed-host.pyz"))
    output = parser.parse_args().output
    print(f"{build(ROOT, output)}  {output}  {os.path.getsize(output)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
