"""A node that is out stays out while what was tried on it did not help and cannot be undone; a person is told."""

from __future__ import annotations

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.errors import BadInput
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.text import parse_text
from osremed.runbook.undoing import steps_back
from tests.unit.runbook.test_irreversible import HEAD, LIMIT, SIGNAL, Host, run_of

CORDON = """
  - when: finding('asked')
    action: gpu_cordon
    with: {scheduler: slurm, node: n1}
    contains: no work comes to it
    approval: {required: "false", timeout: 30s}
"""
PREVIOUS = {"scheduler": "slurm", "node": "n1", "state": "resumed"}


class Scheduler(Host):
    """Its preview says how the cordon is taken back."""

    def run(self, call):
        outcome = super().run(call)
        if call.module.endswith("gpu_drain") and call.check:
            outcome.result.update(previous=PREVIOUS, as_seen={"reason": "x"})
        return outcome

    @property
    def gave_back(self):
        return ("gpu_drain", PREVIOUS) in self.asked


def undone(run):
    return [(undo.action, undo.result) for undo in run.undo]


def test_what_did_not_help_and_cannot_be_undone_leaves_the_node_out_and_says_so(tmp_path):
    host = Scheduler(holds=False)
    run = run_of(tmp_path, HEAD + LIMIT + CORDON + SIGNAL, host)
    assert run.state is RunState.UNDO_INCOMPLETE
    assert undone(run) == [("proc_signal", "irreversible"), ("gpu_cordon", "kept"), ("sysctl", "restored")]
    assert not host.gave_back
    assert "gpu_cordon: kept: no work comes to it" in run.reason
    assert "verification fails" in run.reason.lower()
    assert run.bundle  # the evidence that a person gets with it


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT, Status.UNREACHABLE])
def test_a_step_of_which_nobody_knows_what_it_did_leaves_it_out_too(tmp_path, status):
    host = Scheduler(proc_signal=Outcome(status, detail="gone"))
    run = run_of(tmp_path, HEAD + CORDON + SIGNAL, host)
    assert (undone(run)[-1], host.gave_back) == (("gpu_cordon", "kept"), False)


def test_a_step_that_was_refused_gives_it_back(tmp_path):
    host = Scheduler(proc_signal=Outcome(Status.FAILED, result={"refused": "it is pid 1"}))
    run = run_of(tmp_path, HEAD + CORDON + SIGNAL, host)
    assert (run.state, undone(run)[-1], host.gave_back) == (RunState.UNDONE, ("gpu_cordon", "restored"), True)


def test_without_the_word_it_is_given_back_as_ever(tmp_path):
    host = Scheduler(holds=False)
    text = CORDON.replace("    contains: no work comes to it\n", "")
    run = run_of(tmp_path, HEAD + text + SIGNAL, host)
    assert (run.state, undone(run)[-1], host.gave_back) == (
        RunState.UNDO_INCOMPLETE,
        ("gpu_cordon", "restored"),
        True,
    )


def test_an_approver_sees_that_it_may_stay_and_nobody_takes_the_half_of_it_back(tmp_path):
    run = run_of(tmp_path, HEAD + CORDON + SIGNAL, Scheduler(holds=False))
    assert run.plan.order == ("stays if a later step cannot be taken back: gpu_cordon",)
    with pytest.raises(BadInput, match="proc_signal of run"):
        steps_back(run)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (CORDON, "gpu_cordon contains nothing: no step follows it"),
        (LIMIT.replace("    confirm", "    contains: it\n    confirm") + SIGNAL, "sysctl is taken back by the host"),
        (SIGNAL.replace("    irre", "    contains: it\n    irre") + CORDON, "proc_signal cannot be taken back anyhow"),
        (CORDON + SIGNAL + "\nescalate: call somebody\n", "gpu_cordon contains nothing: with `escalate`"),
    ],
)
def test_lint_refuses_a_containment_that_would_not_hold(text, what):
    errors = [str(error) for error in lint_text(parse_text((HEAD + text).encode(), "rb.yaml"))[1]]
    assert any(what in error for error in errors), errors
