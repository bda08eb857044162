"""A control plane with a past, and settings of second opinions that a test may change."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from tests.support.console_state import past

KEY = "sk-test-0123456789abcdef0123"


@pytest.fixture(scope="session")
def _past(tmp_path_factory):
    with past(tmp_path_factory.mktemp("past")) as found:
        yield found


@pytest.fixture
def kept(_past, tmp_path):
    """The test's own copy of it."""
    state = str(tmp_path / "control")
    shutil.copytree(_past.state, state)
    return replace(_past, state=state)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """settings(endpoint, limits={}, share={}, **more) -> path of the file."""
    monkeypatch.setenv("OPINION_KEY", KEY)

    def write(url, limits=None, share=None, **more):
        shared = {"evidence": ["event", "findings", "outcome", "panorama", "fastoom"], "runbooks": True}
        document = {
            "apiVersion": "osremed/v1",
            "kind": "SecondOpinion",
            "endpoint": url,
            "model": "small-1",
            "key_from": "OPINION_KEY",
            "limits": limits or {},
            "share": {**shared, **(share or {})},
            **more,
        }
        path = tmp_path / "opinion.yaml"
        path.write_text(json.dumps(document))  # JSON is YAML
        return str(path)

    return write
