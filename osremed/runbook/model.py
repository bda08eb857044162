"""A run: its state, what was decided, and the happenings that moved it. The journal holds the happenings; the run is
their fold (`state.replay`)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Field

from osremed.core.action import Outcome, Status
from osremed.core.event import Event
from osremed.core.finding import Finding
from osremed.core.probe import Verdict
from osremed.core.record import field, record
from osremed.runbook.actions import RiskName


class RunState(str, Enum):
    RAISED = "RAISED"
    COLLECTING = "COLLECTING"
    DECIDED = "DECIDED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    AWAITING_PERSON = "AWAITING_PERSON"
    APPLYING = "APPLYING"
    VERIFYING = "VERIFYING"
    FINISHING = "FINISHING"
    UNDOING = "UNDOING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    UNDONE = "UNDONE"
    UNDO_INCOMPLETE = "UNDO_INCOMPLETE"


ENDED = frozenset({RunState.SUCCEEDED, RunState.REFUSED, RunState.UNDONE, RunState.UNDO_INCOMPLETE})


@record
class GuardResult:
    guard: str
    passed: bool
    detail: str


@record
class ApprovalNeed:
    why: str
    timeout_s: float


@record
class PlannedStep:
    """One change, previewed in check mode: `previous` are the arguments that take it back (law 3: undo before act)."""

    action: str
    args: Mapping[str, Any]
    risk: RiskName
    timeout_s: float
    confirm_within_s: float
    irreversible: str
    previous: Mapping[str, Any]
    expect: Mapping[str, Any]  #: arguments that make the module refuse when the host is not as it was previewed
    diff: str
    approval: ApprovalNeed | None = None
    contains: str = ""  #: why it stays while a later step cannot be taken back


@record
class AfterStep:
    """Done once the repair is verified and kept, if step number `step` of the plan changed the host. It says what is to
    be, so that trying it twice is trying it once, and nothing takes it back."""

    action: str
    args: Mapping[str, Any]
    risk: RiskName
    timeout_s: float
    step: int

    def __str__(self) -> str:
        given = ", ".join(f"{name}: {value}" for name, value in self.args.items())
        return f"{self.action} ({given})"


@record
class Plan:
    """What will be done. `digest` names it; an approval is bound to it. With `escalate` the steps are tried one at a
    time, and that is what a human is told when none has helped."""

    steps: tuple[PlannedStep, ...]
    digest: str
    escalate: str = ""
    after: tuple[AfterStep, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """In words, how the steps follow one another; nothing where all are applied at once."""
        chain = f"one at a time, each only if the one before did not help; then escalate: {self.escalate}"
        actions = [step.action for step in self.steps]
        stay = tuple(
            f"stays if a later step cannot be taken back: {each.action}" for each in self.steps if each.contains
        )
        after = tuple(f"once verified, if {actions[each.step]} changed the host: {each}" for each in self.after)
        return ((chain,) if self.escalate else ()) + stay + after


@record
class PersonAsked:
    """A step that a person is to do, and then to tick. `number` counts from 1: the steps of the plan, then those after
    success; `deadline_ns` stays what it was when the person was asked, whoever starts again meanwhile."""

    number: int
    instruction: str
    take_back: str
    deadline_ns: int


@record
class ProbeResult:
    probe: str
    tolerance: str
    verdict: Verdict
    samples: tuple[Mapping[str, Any], ...]
    detail: str = ""


@record
class StepUndo:
    """`result`: restored, nothing_to_do, irreversible, kept (it contains what was not taken back), conflict or
    failed."""

    action: str
    result: Literal["restored", "nothing_to_do", "irreversible", "kept", "conflict", "failed"]
    detail: str = ""

    @property
    def left(self) -> bool:
        """Something of the step is still there."""
        return self.result not in ("restored", "nothing_to_do")


# Happenings: what the world answered. Each is journaled before the next effect is tried.


@record
class Raised:
    run_id: str
    runbook: str
    runbook_digest: str
    event: Event
    requested_by: str = ""  #: the person who asked for it; "" for an event of a host
    undoes: str = ""  #: the ended run that it takes back
    looks_only: bool = False  #: its runbook has no remedies
    requested_uid: int | None = None  #: who that was at a command line, as the kernel says; None: it does not
    rules_commit: str = ""  #: the Git commit its runbook came from; "" where it came from elsewhere
    manual_s: float | None = None  #: what a person takes for the same, as its runbook says
    kind: Literal["raised"] = "raised"


@record
class Admitted:
    """All guards that need no evidence let the run in."""

    guards: tuple[GuardResult, ...]
    kind: Literal["admitted"] = "admitted"


@record
class Refused:
    """A guard, the plan or an approver said no; nothing was changed. In APPLYING: people did, before a further step."""

    guard: str
    detail: str
    guards: tuple[GuardResult, ...] = ()
    kind: Literal["refused"] = "refused"


@record
class Collected:
    """The evidence bundle from before the change (law 2), by its manifest's SHA-256."""

    bundle: str
    gaps: Mapping[str, str]
    kind: Literal["collected"] = "collected"


@record
class Decided:
    findings: tuple[Finding, ...]
    plan: Plan
    notes: tuple[str, ...] = ()
    kind: Literal["decided"] = "decided"


@record
class Approved:
    by: str
    plan_digest: str
    guards: tuple[GuardResult, ...]
    watched: tuple[float, ...] = ()  #: what the runbook watches, as it was just before the change
    kind: Literal["approved"] = "approved"


@record
class Applied:
    """Outcome of step number `step`."""

    step: int
    outcome: Outcome
    kind: Literal["applied"] = "applied"


@record
class PersonAnswered:
    """What a person said of step `number` (as in `PersonAsked`); `by` is "" where nobody did in time. `guards`: asked
    again after it, where the host's own steps follow."""

    number: int
    done: bool
    by: str
    words: str = ""
    guards: tuple[GuardResult, ...] = ()
    kind: Literal["answered"] = "answered"

    @property
    def said(self) -> str:
        words = f": {self.words}" if self.words else ""
        return f"was {'done' if self.done else 'not done'}, says {self.by or 'nobody'}{words}"


@record
class Verified:
    results: tuple[ProbeResult, ...]
    drifted: tuple[str, ...] = ()  #: changes that are no longer as the run made them, in words
    kind: Literal["verified"] = "verified"


@record
class Confirmed:
    """The host dropped (or did not drop) its own deadline for the change."""

    confirmed: bool
    detail: str = ""
    kind: Literal["confirmed"] = "confirmed"


@record
class Finished:
    """Outcome of number `step` of the plan's steps after success."""

    step: int
    outcome: Outcome
    kind: Literal["finished"] = "finished"


@record
class Undone:
    results: tuple[StepUndo, ...]
    kind: Literal["undone"] = "undone"


@record
class Recovered:
    """A controller started and found this run unfinished."""

    detail: str
    kind: Literal["recovered"] = "recovered"


Happening = Annotated[
    Raised
    | Admitted
    | Refused
    | Collected
    | Decided
    | Approved
    | Applied
    | PersonAnswered
    | Verified
    | Confirmed
    | Finished
    | Undone
    | Recovered,
    Field(discriminator="kind"),
]


@record
class Run:
    run_id: str
    runbook: str
    runbook_digest: str
    event: Event
    state: RunState
    reason: str
    raised_ns: int
    updated_ns: int
    bundle: str = ""
    gaps: Mapping[str, str] = field(default_factory=dict)
    guards: tuple[GuardResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    plan: Plan | None = None
    admitted: bool = False  #: the guards let it in
    approved_by: str = ""
    watched: tuple[float, ...] = ()  #: what the runbook watches, as it was just before the change
    applied: tuple[Outcome, ...] = ()
    attempted: int = 0  #: steps that may have touched the host, answered or not
    taken_back: int = 0  #: the first so many of them were taken back and are done with
    goes_on: bool = False  #: once the step is taken back the next one is tried
    results: tuple[ProbeResult, ...] = ()
    kept: bool = False  #: proven and confirmed: nothing takes it back any more
    finished: tuple[Finished, ...] = ()
    asked: PersonAsked | None = None  #: what a person is waited for
    answered: tuple[PersonAnswered, ...] = ()  #: what people said of the steps they were asked to do
    undo: tuple[StepUndo, ...] = ()
    requested_by: str = ""
    requested_uid: int | None = None  #: of the user who asked at a command line, whatever they call themselves
    undoes: str = ""  #: the run that this one takes back
    looks_only: bool = False  #: it changes nothing, whatever it finds
    rules_commit: str = ""  #: the Git commit its runbook came from; "" where it came from elsewhere
    manual_s: float | None = None  #: what a person takes for the same, as its runbook says; None: it does not say
    waited_ns: int = 0  #: how long people were waited for: an approval, a step of theirs
    undone_by: str = ""  #: the newest run that takes this one back; it is not in the journal of this one

    @property
    def host(self) -> str:
        return self.event.host

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def after(self) -> tuple[int, ...]:
        """Numbers of the plan's steps after success that are due: what they follow changed the host and stays."""
        plan, stays = self.plan, range(self.taken_back, len(self.applied))
        steps = enumerate(plan.after if plan else ())
        return tuple(number for number, each in steps if each.step in stays and self.applied[each.step].changed)

    @property
    def left_to_people(self) -> tuple[str, ...]:
        """The steps after success that did not succeed, each with what came of it."""
        after = self.plan.after if self.plan else ()
        bad = (each for each in self.finished if each.outcome.status is not Status.OK)
        return tuple(f"{after[each.step]}: {each.outcome.status.value}: {each.outcome.detail}" for each in bad)

    @property
    def acted(self) -> bool:
        """True once a change may have been made on the host."""
        return bool(self.applied) or self.state in _ACTING or bool(self.undo)


_ACTING = frozenset(
    {RunState.AWAITING_PERSON, RunState.APPLYING, RunState.VERIFYING, RunState.FINISHING, RunState.UNDOING}
)
