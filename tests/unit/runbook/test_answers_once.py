"""A person's answer is given once: the first one holds, and who comes second is told so."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.runbook.approvals import answering, read_approval, write_approval
from osremed.runbook.model import ApprovalNeed, Decided, Plan
from osremed.runbook.store import RunDirectory
from osremed.runbook.ticks import read_tick, write_tick
from tests.unit.runbook.test_person_step import by_hand
from tests.unit.runbook.test_person_step import decided as decided_by_hand
from tests.unit.runbook.test_state import START, step, walk

ASKS = replace(step(), approval=ApprovalNeed("risk", 60))


def waiting(digest="digest"):
    return walk(*START, Decided((), Plan((ASKS,), digest)))[0]


def asked():
    return walk(*decided_by_hand(by_hand()))[0]


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(str(tmp_path))


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_first_answer_to_a_plan_holds(directory, first, second):
    write_approval(directory, waiting(), approved=first, by="ana", reason="seen")
    said = "approved" if first else "denied"
    with pytest.raises(BadInput, match=f"has its answer already: {said} by ana: seen") as refused:
        write_approval(directory, waiting(), approved=second, by="ben", reason="no")
    assert "first answer holds" in refused.value.hint
    assert (read_approval(directory, "digest").approved, read_approval(directory, "digest").by) == (first, "ana")


def test_an_answer_to_an_earlier_plan_of_the_run_is_none_to_this_one(directory):
    write_approval(directory, waiting("earlier"), approved=False, by="ana", reason="")
    write_approval(directory, waiting(), approved=True, by="ben", reason="")
    assert read_approval(directory, "digest").by == "ben"


def test_an_answer_that_cannot_be_read_is_not_written_over(directory, tmp_path):
    (tmp_path / "approval.json").write_text("{")
    with pytest.raises(BadInput, match="not an approval"):
        write_approval(directory, waiting(), approved=True, by="ben", reason="")
    assert (tmp_path / "approval.json").read_text() == "{"


def test_an_answer_that_cannot_be_noted_is_not_given(directory):
    with pytest.raises(OSError, match="full"), answering(directory, waiting(), approved=True, by="ana", reason=""):
        raise OSError("the audit's disk is full")
    assert read_approval(directory, "digest") is None


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_the_first_answer_to_a_persons_step_holds(directory, first, second):
    write_tick(directory, asked(), 1, FakeClock(0), done=first, by="ana", words="seen")
    said = "done" if first else "not done"
    with pytest.raises(BadInput, match=f"step 1 of run .* has its answer already: {said}, says ana: seen"):
        write_tick(directory, asked(), 1, FakeClock(0), done=second, by="ben", words="")
    assert (read_tick(directory, 1, "digest").done, read_tick(directory, 1, "digest").by) == (first, "ana")


def approve(directory, number):
    write_approval(directory, waiting(), approved=number % 2 == 0, by=f"p{number}", reason="")


def tick(directory, number):
    write_tick(directory, asked(), 1, FakeClock(0), done=number % 2 == 0, by=f"p{number}", words="")


@pytest.mark.parametrize(
    ("answer", "read"),
    [(approve, lambda d: read_approval(d, "digest")), (tick, lambda d: read_tick(d, 1, "digest"))],
    ids=["approval", "tick"],
)
def test_of_many_who_answer_at_once_one_is_heard_and_all_others_are_told(directory, answer, read):
    together, heard, told = threading.Barrier(8), [], []

    def one(number):
        together.wait(30)
        try:
            answer(directory, number)
            heard.append(f"p{number}")
        except BadInput as error:
            told.append(str(error))

    people = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for each in people:
        each.start()
    for each in people:
        each.join(30)
    assert heard == [read(directory).by]
    assert len(told) == 7
    assert all("already" in each for each in told)
