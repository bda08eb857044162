"""What each verb answers, as types: OpenAPI's response models. Made from the records the answers are made of, wherever
a document has the fields of its record.

Nothing is checked against them while serving: tests hold every verb's document to its type.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from pydantic import BaseModel
from typing_extensions import TypedDict

from osremed.console.host_answers import GpusOfHost, HotWindow, PanoramaOfHost
from osremed.console.shapes import Exact, made, rows, shape
from osremed.core.event import Event
from osremed.core.finding import Finding
from osremed.gitops.plan import Change
from osremed.gitops.reconcile import Status
from osremed.runbook.audit import Checked
from osremed.runbook.canary import Stop
from osremed.runbook.controls import Controls
from osremed.runbook.model import GuardResult, Run, RunState
from osremed.runbook.opinions import Opinion
from osremed.runbook.replay import Difference
from osremed.runbook.replayfleet import FleetTold
from osremed.runbook.replaymodes import How
from osremed.runbook.sealcheck import CheckedRuns
from osremed.runbook.seals import Seal
from osremed.runbook.stats import Grade


class RunsPage(Exact):
    """`next_before` is the `before` of the next page; `damaged` says why each other run cannot be read."""

    runs: list[Run]
    next_before: str | None
    damaged: list[str]


class PlannedChange(Exact):
    action: str
    args: dict[str, Any]
    risk: str
    diff: str


class Previewed(Exact):
    """A dry run: what would be done now. It proves nothing."""

    check: bool
    would_act: bool
    reason: str
    findings: list[Finding]
    plan: list[PlannedChange]
    guards: list[GuardResult]
    gaps: dict[str, str]
    notes: list[str]


class ReportPath(Exact):
    report: str


class RunCase(Exact):
    """`case` is a document as `osremed runbook test` takes it."""

    run: str
    case: dict[str, Any]


class CanaryPlan(Exact):
    """A dry run: the waves if all goes well, and what would be done on the first host."""

    waves: list[list[str]]
    first: Previewed


CanaryState = Literal["under way", "stopping", "done", "stopped"]


class CanaryRow(Exact):
    """`at_ns` is null where it was not kept; `nothing` are hosts that were as wanted; `stopped` says why."""

    canary_id: str
    at_ns: int | None
    state: CanaryState
    runbook: str
    by: str
    hosts: int
    waves: int
    kept: int
    nothing: int
    failed: int
    untouched: int
    stopped: str


class Canaries(Exact):
    """Newest first; `next_before` is the `before` of the next page; `damaged` says which of this one cannot be read."""

    canaries: list[CanaryRow]
    next_before: str | None
    damaged: list[str]


class CanaryHost(Exact):
    host: str
    run_id: str
    state: RunState
    reason: str
    fate: Literal["kept", "nothing", "failed"]


class CanaryTold(Exact):
    """`hosts` are those whose run has ended; `stop` is what a person said who stops it; `rules_commit` is "" where the
    runbook came from no commit."""

    canary_id: str
    runbook: str
    digest: str
    attributes: dict[str, Any]
    stop_share: float
    settle_s: float
    by: str
    at_ns: int | None
    rules_commit: str
    state: CanaryState
    stop: shape(Stop) | None  # type: ignore[valid-type]
    ended: bool
    stopped: str
    waves: list[list[str]]
    hosts: dict[str, CanaryHost]
    untouched: list[str]


class Answered(Exact):
    run_id: str
    approved: bool
    by: str
    plan_digest: str


class Ticked(Exact):
    run_id: str
    step: int
    done: bool
    by: str
    instruction: str


class RunbookRow(Exact):
    name: str
    title: str
    on: list[str]
    actions: list[str]
    digest: str


class Runbooks(Exact):
    runbooks: list[RunbookRow]


class HostRow(Exact):
    """`level` is the last memory level the host told, null if it never did."""

    host: str
    level: str | None
    last_event_ns: int | None
    interventions: int
    last_killed: list[str]
    open_runs: list[str]
    runs: int
    needs_human: list[str]


class Hosts(Exact):
    hosts: list[HostRow]


EventsPage = made(
    "EventsPage",
    "Newest first; `next_before` is the `before` of the next page.",
    {"events": rows(Event, ("seq", int)), "next_before": int | None},
)
_RATIOS = ("success_ratio", "undo_ratio", "recurrence_ratio")
Grades = made("Grades", "One row a runbook.", {"runbooks": rows(Grade, *((name, float | None) for name in _RATIOS))})


class Audits(Exact):
    decisions: Checked
    hands: Checked
    runs: CheckedRuns


class Decision(TypedDict):
    """What became of the event with one runbook; of a decision that was kept, also its place in the audit."""

    runbook: str
    matched: bool
    why: str
    run_id: str
    admitted: NotRequired[bool]
    event: NotRequired[str]
    host: NotRequired[str]
    at_ns: NotRequired[int]
    prev: NotRequired[str]
    hash: NotRequired[str]
    seal: NotRequired[Seal]


class WhyNot(Exact):
    event: Event
    decisions: list[Decision]


class ReplayedRules(Exact):
    """`modes`: how many of the runs that begin would ask a person or act by themselves; `fleet` is null where neither
    guards nor policies were asked."""

    events: int
    decisions: int
    with_evidence: int
    unreadable: int
    refusals: dict[str, int]
    modes: dict[How, int]
    fleet: shape(FleetTold) | None  # type: ignore[valid-type]
    differences: list[Difference]


class RefusedRules(Exact):
    """The new rules cannot go live."""

    refused: str
    what: str
    where: str
    hint: str


class RulesPlan(Exact):
    """`old` and `new` name the sets; `refused` says why they may not go live by themselves; `bolder` what acts unasked
    from then on."""

    old: str
    new: str
    refused: str
    bolder: list[str]
    changes: list[Change]


class ProposedRules(Exact):
    commit: str
    subject: str
    signers: list[str]
    plan: RulesPlan
    replay: ReplayedRules
    runbooks: int
    cases: int
    policies: int


class Wanted(Exact):
    """What Prefect should have."""

    owner: str
    interval_s: float
    objects: dict[str, Any]


class Suspension(Exact):
    by: str
    reason: str
    at: str


class Resumed(Exact):
    resumed: bool


class RolledBack(Exact):
    set: str
    commit: str | None
    suspended: bool


_STATUS = {name: each.annotation for name, each in shape(Status).model_fields.items()}


class TargetRow(Exact):
    name: str
    waiting: int
    given_up: int


class Targets(Exact):
    targets: list[TargetRow]


#: Operation -> what it answers.
ANSWERS: Mapping[str, Any] = {
    "panorama": PanoramaOfHost,
    "hotspot_at": HotWindow,
    "timeline_gpus": GpusOfHost,
    "canary_start": CanaryTold | CanaryPlan,
    "canary_list": Canaries,
    "canary_show": CanaryTold,
    "canary_stop": CanaryTold,
    "canary_resume": CanaryTold,
    "runs_start": Run | Previewed,
    "runs_undo": Run | Previewed,
    "runs_list": RunsPage,
    "runs_show": Run,
    "runs_report": ReportPath,
    "runs_case": RunCase,
    "runs_opinion": shape(Opinion),
    "ask": shape(Opinion),
    "runs_acknowledge": Controls,
    "runs_reset_breaker": Controls,
    "runs_approve": Answered,
    "runs_deny": Answered,
    "runs_tick": Ticked,
    "runs_refuse": Ticked,
    "runbook_list": Runbooks,
    "hosts": Hosts,
    "events": EventsPage,
    "freezes": Controls,
    "freeze": Controls,
    "unfreeze": Controls,
    "stats": Grades,
    "audit_verify": Audits,
    "why_not": WhyNot,
    "notify_status": Targets,
    "gitops_plan": ProposedRules | RefusedRules,
    "gitops_apply": made(
        "LookedAtRules",
        "What a look at Git found, and what is to be done after it.",
        {**_STATUS, "hosts_due": str, "wanted": Wanted},
    ),
    "gitops_status": made("RulesStatus", "What the last look at Git found.", _STATUS),
    "gitops_suspend": Suspension,
    "gitops_resume": Resumed,
    "gitops_rollback": RolledBack,
}


@functools.cache
def answer_model(operation: str) -> type[BaseModel]:
    """What the operation answers over HTTP, whole: document, text and exit code."""
    return made(
        f"{operation}_answer",
        "`exit_code` is the command line's: 0 done, 4 undone, 5 refused, 6 waits for a person.",
        {"document": ANSWERS[operation], "text": str, "exit_code": int},
    )
