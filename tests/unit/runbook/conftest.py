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


@pytest.fixture(scope="session")
def entry():
    return load_entry(str(ROOT / "runbooks/near-oom/runbook.yaml"))


@pytest.fixture
def clock():
    return FakeClock()


def make_event(number=1, host="node-1", *, at_ns=BEGIN_NS, **attributes):
    given = {"level": "high", "sensitivity": "low", "scope": "/demo", "available_ratio": 0.03, "limit_bytes": 1 << 29}
    return Event(f"e{number}", "memory.near_oom", host, at_ns, {**given, **attributes})


def make_run(number=1, host="node-1", runbook="near-oom", *, now_ns=BEGIN_NS):
    raised = Raised(f"{number:016x}", runbook, "d" * 64, make_event(number, host, at_ns=now_ns))
    return begin(raised, now_ns)[0]
