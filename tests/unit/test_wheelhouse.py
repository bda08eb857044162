"""What an archive of the control plane holds, by the locks alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="the control plane needs Python 3.11")
ROOT = Path(__file__).resolve().parents[2]
LOCKED = (ROOT / "requirements/dev.lock").read_text(encoding="utf-8")


@pytest.fixture
def wheelhouse(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import build_wheelhouse

    yield build_wheelhouse
    sys.modules.pop("build_wheelhouse", None)


def test_what_asks_a_model_is_in_an_archive_only_when_it_is_wanted(wheelhouse):
    def names(*extras):
        text = wheelhouse.for_python(wheelhouse.control_part(LOCKED, wheelhouse.roots_of(*extras)), "3.11")
        return set(wheelhouse.entries(text))

    without, asking = names("control"), names("control", "opinion")
    assert without < asking
    assert {"openai", "pydantic-ai-slim"} <= asking - without
    assert "pytest" not in asking
    assert "httpx2-jsfetch" not in asking  # for browsers


def test_every_line_of_an_archive_with_it_has_its_hash(wheelhouse):
    part = wheelhouse.control_part(LOCKED, wheelhouse.roots_of("control", "opinion"))
    for name, lines in wheelhouse.entries(wheelhouse.for_python(part, "3.12")).items():
        assert "--hash=sha256:" in lines, name
