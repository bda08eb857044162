"""A proof is more than the main probe: nothing watched got worse, and the change is still as the run made it."""

from __future__ import annotations

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.clock import FakeClock
from osremed.core.probe import judge, parse_tolerance, sample_as_json, sample_from_json
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.text import parse_text
from tests.support.kept import drive_answered, operator_on
from tests.support.module_executor import ModuleExecutor
from tests.unit.runbook.conftest import make_event
from tests.unit.runbook.test_irreversible import HEAD, LIMIT, Host, run_of

WATCH = """
watch:
  - {probe: io.stall_ratio, better: lower, worse_by: 5%, within: 5s, for: 2s}
  - {probe: memory.free_ratio, better: higher, worse_by: 0.1, within: 5s, for: 0s}
"""
WELL = {"io.stall_ratio": (0.0, 0.05), "memory.free_ratio": (0.5, 0.4)}


class Watched(Host):
    """`values`: probe -> (before the change, after it); None is a gap."""

    def __init__(self, values):
        super().__init__()
        self.values, self.probed = values, []

    def run(self, call):
        name = call.args.get("name")
        if not call.module.endswith("probe") or name not in self.values:
            return super().run(call)
        value = self.values[name][any(asked == "sysctl" for asked, _ in self.asked)]
        reading = {"missing": "denied", "source": name} if value is None else value
        samples = [sample_from_json({"at_s": at_s, "value": reading}) for at_s in (0.0, 1.0, 2.0)]
        tolerance = parse_tolerance(call.args["expect"], within_s=call.args["within"], hold_s=call.args["hold"])
        self.probed.append((name, call.args["expect"]))
        told = {"verdict": judge(samples, tolerance, ended=True).value, "samples": list(map(sample_as_json, samples))}
        return Outcome(Status.OK, result=told)


def watched(tmp_path, **values):
    host = Watched({**WELL, **{name.replace("__", "."): value for name, value in values.items()}})
    return run_of(tmp_path, HEAD + LIMIT + WATCH, host), host


def test_what_is_not_worse_than_the_bound_is_kept_and_was_measured_before_and_after(tmp_path):
    run, host = watched(tmp_path)
    assert (run.state, run.watched) == (RunState.SUCCEEDED, (0.0, 0.5)), run.reason
    assert host.probed[2:] == [("io.stall_ratio", "value <= 0.050000"), ("memory.free_ratio", "value >= 0.400000")]
    assert [result.detail for result in run.results[1:]] == [
        "watched, 0 before the change",
        "watched, 0.5 before the change",
    ]


@pytest.mark.parametrize("worse", [{"io__stall_ratio": (0.0, 0.06)}, {"memory__free_ratio": (0.5, 0.39)}])
def test_what_got_worse_by_more_is_undone_though_the_main_probe_holds(tmp_path, worse):
    run, _host = watched(tmp_path, **worse)
    assert (run.state, run.results[0].verdict.value) == (RunState.UNDONE, "HOLDS")
    assert "verification FAILS" in run.reason
    assert "before the change" in run.reason


def test_what_cannot_be_seen_afterwards_is_not_fine(tmp_path):
    run, _host = watched(tmp_path, io__stall_ratio=(0.0, None))
    assert run.state is RunState.UNDONE
    assert "UNKNOWN" in run.reason


def test_without_a_value_from_before_nothing_is_changed(tmp_path):
    run, host = watched(tmp_path, io__stall_ratio=(None, 0.0))
    assert (run.state, host.asked) == (RunState.REFUSED, [])
    assert run.reason.startswith("watch: io.stall_ratio has no value before the change")


def test_a_bound_below_nothing_is_nothing(tmp_path):
    _run, host = watched(tmp_path, memory__free_ratio=(0.04, 0.0))
    assert host.probed[-1] == ("memory.free_ratio", "value >= 0.000000")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (WATCH.replace("io.stall_ratio", "io.stalls"), "unknown probe 'io.stalls'"),
        (WATCH.replace("for: 2s", "for: 20s"), "is longer than `within`"),
        (WATCH.replace("better: lower", "better: less"), "better"),
        (WATCH.replace("worse_by: 5%", "worse_by: -1"), "worse_by"),
        (WATCH.replace("within: 5s, for: 2s", "within: 10m, for: 2s"), "would take the change back before"),
    ],
)
def test_lint_holds_what_is_watched_to_what_can_be_measured(text, what):
    errors = [str(error) for error in lint_text(parse_text((HEAD + LIMIT + text).encode(), "rb.yaml"))[1]]
    assert any(what in error for error in errors), errors


OLD = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"low","scopes":[{"node":true}]}'
THEIRS = b'{"apiVersion":"osremed/v1","kind":"FastoomPolicy","sensitivity":"medium","scopes":[]}'


@pytest.mark.parametrize(
    ("left", "state", "result"),
    [(THEIRS, RunState.UNDO_INCOMPLETE, "conflict"), (OLD, RunState.UNDONE, "nothing_to_do")],
)
def test_a_change_that_is_no_longer_ours_is_not_proven_and_never_taken_back_by_force(
    tmp_path, entry, left, state, result
):
    """The probe holds; meanwhile somebody wrote other bytes, or took the change back."""
    (tmp_path / "host").mkdir()
    policy = tmp_path / "host/fastoom.json"
    policy.write_bytes(OLD)

    class Human(ModuleExecutor):
        def _probe(self, args, check):
            told = super()._probe(args, check)
            policy.write_bytes(left)
            return told

    host = Human(str(tmp_path / "host"), helps=True)
    where = operator_on(tmp_path / "runs", tmp_path / "host", executor=host, clock=FakeClock())
    run = drive_answered(where, where.store.create(make_event(), entry, where.clock))
    assert (run.state, [undo.result for undo in run.undo]) == (state, [result])
    assert [each.verdict.value for each in run.results] == ["HOLDS"]
    assert "verification drifted: fastoom_policy: " in run.reason
    assert policy.read_bytes() == left
