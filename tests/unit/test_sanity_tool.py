"""The sanity stage says what it did not check, and lets nothing be ignored."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("sanity", Path(__file__).resolve().parents[2] / "tools" / "sanity.py")
sanity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sanity)
OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"


def put(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_only_a_python_that_runs_counts_and_it_is_the_real_one(tmp_path, monkeypatch):
    shims = tmp_path / "shims"
    for version in sanity.VERSIONS:
        put(shims, f"python{version}", "#!/bin/sh\nexit 127\n")
    monkeypatch.setattr(sanity, "PLACES", ())
    monkeypatch.setenv("PATH", str(shims))
    assert sanity.find_pythons() == {}
    monkeypatch.setenv("PATH", f"{shims}:{os.path.dirname(sys.executable)}")
    found = sanity.find_pythons()
    if os.path.exists(os.path.join(os.path.dirname(sys.executable), f"python{OURS}")):
        assert found == {OURS: os.path.join(sys.base_prefix, "bin", f"python{OURS}")}


def test_an_ignored_test_ends_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(sanity, "SOURCE", tmp_path)
    (tmp_path / "tests/sanity").mkdir(parents=True)
    (tmp_path / "tests/sanity/ignore-2.19.txt").write_text("\n")
    sanity.check_nothing_is_ignored()
    (tmp_path / "tests/sanity/ignore-2.19.txt").write_text("plugins/modules/undo.py pep8!skip\n")
    with pytest.raises(SystemExit, match="no sanity test may be ignored"):
        sanity.check_nothing_is_ignored()
