#!/usr/bin/env python3
"""Compiles osremed/sensors/bpf/*.bpf.c with clang to one CO-RE object for each architecture, beside the sources.

Objects are not in git; the wheel and the zipapp take them from there. Only what is older than its sources is compiled.
Without clang nothing is compiled and the BPF layers say so at run time: exit code 0 with a word on stderr, unless
`--require` is given. The same sources and compiler give the same bytes wherever the tree lies.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "osremed" / "sensors" / "bpf"
#: os.uname().machine -> libbpf's word for it. Only x86_64 has been tried; what reads registers differs.
MACHINES = {"x86_64": "x86", "aarch64": "arm64"}
HINT = "apt-get install clang llvm libbpf-dev, or tools/install_system base"


def compile_object(source: Path, machine: str, output: Path) -> None:
    """Writes `output` whole or not at all. CalledProcessError with the compiler's words on stderr."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    words = [
        "clang", "-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11",
        f"-D__TARGET_ARCH_{MACHINES[machine]}",
        "-I", str(SOURCES), "-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu",
        f"-ffile-prefix-map={SOURCES}=.", "-fdebug-compilation-dir=.",
        "-c", source.name, "-o", str(temporary),
    ]  # fmt: skip
    try:
        subprocess.run(words, check=True, cwd=source.parent)
        subprocess.run(["llvm-strip", "-g", str(temporary)], check=True)  # DWARF goes, BTF stays
        temporary.rename(output)
    finally:
        temporary.unlink(missing_ok=True)


def build(directory: Path = SOURCES) -> int:
    """How many objects were compiled."""
    count = 0
    headers = [*SOURCES.glob("*.h"), Path(__file__)]
    for source in sorted(directory.glob("*.bpf.c")):
        newest = max(path.stat().st_mtime_ns for path in [source, *headers])
        for machine in MACHINES:
            output = source.with_name(source.name.replace(".bpf.c", f".{machine}.bpf.o"))
            if not output.exists() or output.stat().st_mtime_ns < newest:
                compile_object(source, machine, output)
                count += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the BPF objects.")
    parser.add_argument("--require", action="store_true", help="fail when there is no compiler")
    required = parser.parse_args().require
    absent = [tool for tool in ("clang", "llvm-strip") if shutil.which(tool) is None]
    if not Path("/usr/include/bpf/bpf_helpers.h").exists():
        absent.append("bpf/bpf_helpers.h")
    if absent:
        print(f"osremed: BPF objects not built, {absent[0]} is not here\n  hint: {HINT}", file=sys.stderr)
        return 1 if required else 0
    try:
        count = build()
    except subprocess.CalledProcessError as error:
        print(f"osremed: {error.cmd[0]} failed", file=sys.stderr)
        return 1
    if count:
        print(f"{count} BPF objects compiled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
