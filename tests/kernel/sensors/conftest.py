"""Objects of the tests' own, compiled once a session; nothing to test without a compiler, privilege or BTF."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from osremed.sensors.bpf import features

ROOT = Path(__file__).resolve().parents[3]
_spec = importlib.util.spec_from_file_location("build_bpf", ROOT / "tools" / "build_bpf.py")
build_bpf = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build_bpf)


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory):
    """The bytes of every_kind.bpf.c, compiled for this machine."""
    if shutil.which("clang") is None:
        pytest.skip("no clang to compile the test's programs")
    missing = features.absent()
    if missing is not None:
        pytest.skip(str(missing))
    output = tmp_path_factory.mktemp("bpf") / "every_kind.o"
    build_bpf.compile_object(Path(__file__).with_name("every_kind.bpf.c"), os.uname().machine, output)
    return output.read_bytes()


@pytest.fixture
def ended():
    """Runs a process to its end; its pid."""

    def run():
        process = subprocess.Popen(["true"])
        process.wait(timeout=10)
        return process.pid

    return run
