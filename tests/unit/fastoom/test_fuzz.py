"""The fuzz bench in small: the whole of it runs a million inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "bench" / "fastoom_fuzz.py"


def test_twenty_thousand_random_inputs_crash_nothing_and_end_nobody_wrongly() -> None:
    argv = [sys.executable, str(BENCH), "--count", "20000"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("parsed", "refused", "decided", "nobody", "no need"):
        assert word in done.stdout, "a kind of input was never tried"
