"""The doctor names what is missing and how to get it, and needs no privilege itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from osremed.agent import doctor
from osremed.core.canonical import canonical_json
from osremed.core.errors import ExitCode
from osremed.core.reading import Missing, Reason


def named(answer):
    return {check["name"]: check for check in answer.document["checks"]}


def test_on_a_host_where_nothing_is_set_up_it_says_what_to_do(paths):
    answer = doctor.doctor()
    canonical_json(answer.document)
    checks = named(answer)
    for name in ("fastoom policy", "fastoom", "agent configuration", "agent"):
        assert not checks[name]["works"]
        assert not checks[name]["needed"]
    assert "osremed fastoom run" in answer.text


def test_a_missing_kernel_feature_the_guard_needs_is_the_exit_code(paths, monkeypatch):
    gone = Missing(Reason.UNSUPPORTED, "pidfd_open", "Function not implemented")
    monkeypatch.setattr(doctor.process, "open_verified", lambda *_: gone)
    answer = doctor.doctor()
    assert answer.exit_code == ExitCode.UNAVAILABLE
    assert "MISSING pidfd: unsupported: pidfd_open" in answer.text
    assert "Linux 5.3" in answer.text


def test_a_feature_that_only_helps_is_not_a_fault(paths, monkeypatch):
    before = doctor.doctor().exit_code
    monkeypatch.setattr(doctor.process, "can_release_memory", lambda: False)
    answer = doctor.doctor()
    assert answer.exit_code == before
    assert "without fast release" in answer.text


def test_a_broken_policy_is_shown_with_its_place(paths):
    with open(paths.fastoom_policy, "w") as file:
        file.write("{\n  broken\n}")
    assert f"{paths.fastoom_policy}:2:" in doctor.doctor().text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_without_root_it_runs_and_says_so(tmp_path):
    program = (
        "import os; from osremed.agent import doctor; os.setuid(65534); a = doctor.doctor(); "
        "print(a.text); raise SystemExit(a.exit_code)"
    )
    tmp_path.chmod(0o700)
    environment = {**os.environ, "OSREMED_PREFIX": str(tmp_path)}
    (tmp_path / "var" / "lib" / "osremed" / "undo").mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (7, "")
    assert "MISSING root: uid 65534" in done.stdout
    assert "without undo" in done.stdout
