"""Benches that need nothing but this tree still run to their end: with few, for their figures do not count here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = {
    "runbook_storm": ("2000", "1000"),
    "runbook_store": ("20",),
    "runbook_replay": ("50",),
    "gitops": ("3", "1"),
}


@pytest.mark.parametrize("bench", FEW)
def test_a_bench_runs_to_its_end(bench):
    argv = [sys.executable, str(ROOT / f"bench/{bench}.py"), *FEW[bench]]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
