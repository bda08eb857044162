"""A run that can be moved by hand, and one that a replayed host drives."""

from pathlib import Path

import pytest

from osremed.core.clock import FakeClock
from osremed.core.event import Event
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import Raised
from osremed.runbook.state import begin

BEGIN_NS = FakeClock().wall_ns()
ROOT = Path(__file__).resolve().parents[3]


def plain(text):
    """Without what it watches and how many hosts it may change: of these there are tests of their own."""
    bare = text[: text.index("\n# What must not get worse")].replace("  blast_radius: {hosts: 25%, per: 1h}\n", "")
    assert "blast" not in bare
    return bare


@pytest.fixture(scope="session")
def entry(tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "near-oom" / "runbook.yaml"
    path.parent.mkdir()
    path.write_text(plain((ROOT / "runbooks/near-oom/runbook.yaml").read_text()))
    return load_entry(str(path))


@pytest.fixture
def clock():
    return FakeClock()


def make_event(number=1, host="node-1", *, at_ns=BEGIN_NS, **attributes):
    given = {"level": "high", "sensitivity": "low", "scope": "/demo", "available_ratio": 0.03, "limit_bytes": 1 << 29}
    return Event(f"e{number}", "memory.near_oom", host, at_ns, {**given, **attributes})


def make_run(number=1, host="node-1", runbook="near-oom", *, now_ns=BEGIN_NS):
    raised = Raised(f"{number:016x}", runbook, "d" * 64, make_event(number, host, at_ns=now_ns))
    return begin(raised, now_ns)[0]
