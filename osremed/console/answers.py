"""What each verb answers, as types: OpenAPI's response models. Made from the records the answers are made of, wherever
a document has the fields of its record; a Reading is its bare value, or the object that says why there is none.

Nothing is checked against them while serving: tests hold every verb's document to its type.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, NotRequired, Union

from pydantic import BaseModel, ConfigDict, create_model
from typing_extensions import TypedDict

from osremed.core.event import Event
from osremed.core.finding import Finding
from osremed.core.reading import Missing, Reason, Value
from osremed.gitops.plan import Change
from osremed.gitops.reconcile import Status
from osremed.hotspot import model as hotspot
from osremed.panorama import model as panorama
from osremed.panorama.cache_model import CachedFile
from osremed.runbook.audit import Checked
from osremed.runbook.controls import Controls
from osremed.runbook.model import GuardResult, Run
from osremed.runbook.opinions import Opinion
from osremed.runbook.replay import Difference
from osremed.runbook.stats import Grade

_EXACT = ConfigDict(extra="forbid")


class MissingValue(BaseModel):
    """Why there is no value."""

    model_config = _EXACT
    missing: Reason
    source: str
    detail: str


def _said(kind: Any) -> Any:
    """The type a record's field has in a document."""
    if kind is Missing:
        return MissingValue
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return shape(kind)
    origin, inner = typing.get_origin(kind), tuple(_said(each) for each in typing.get_args(kind))
    if origin is Value:
        return inner[0]
    if origin in (Union, types.UnionType):
        return Union[inner]
    return kind if origin is None or not inner else origin[inner]


def _made(name: str, doc: str, fields: Mapping[str, Any], config: ConfigDict = _EXACT) -> type[BaseModel]:
    """A model of these fields, each of them always there."""
    needed: dict[str, Any] = {key: (kind, ...) for key, kind in fields.items()}
    model: type[BaseModel] = create_model(name, __config__=config, __doc__=doc, **needed)
    return model


@functools.cache
def shape(record: type, *more: tuple[str, Any]) -> type[BaseModel]:
    """A model with the record's fields as a document has them, and `more` (name, type)."""
    hints = typing.get_type_hints(record)
    fields = {each.name: _said(hints[each.name]) for each in dataclasses.fields(record)}
    name = f"{record.__name__}Row" if more else record.__name__
    return _made(name, " ".join((record.__doc__ or "").split()), {**fields, **dict(more)})


def _rows(record: type, *more: tuple[str, Any]) -> Any:
    return list[shape(record, *more)]  # type: ignore[misc]


class _Exact(BaseModel):
    model_config = _EXACT


class RunsPage(_Exact):
    """`next_before` is the `before` of the next page; `damaged` says why each other run cannot be read."""

    runs: list[Run]
    next_before: str | None
    damaged: list[str]


class PlannedChange(_Exact):
    action: str
    args: dict[str, Any]
    risk: str
    diff: str


class Previewed(_Exact):
    """A dry run: what would be done now. It proves nothing."""

    check: bool
    would_act: bool
    reason: str
    findings: list[Finding]
    plan: list[PlannedChange]
    guards: list[GuardResult]
    gaps: dict[str, str]
    notes: list[str]


class ReportPath(_Exact):
    report: str


class Answered(_Exact):
    run_id: str
    approved: bool
    by: str
    plan_digest: str


class Ticked(_Exact):
    run_id: str
    step: int
    done: bool
    by: str
    instruction: str


class RunbookRow(_Exact):
    name: str
    title: str
    on: list[str]
    actions: list[str]
    digest: str


class Runbooks(_Exact):
    runbooks: list[RunbookRow]


class HostRow(_Exact):
    """`level` is the last memory level the host told, null if it never did."""

    host: str
    level: str | None
    last_event_ns: int | None
    interventions: int
    last_killed: list[str]
    open_runs: list[str]
    runs: int
    needs_human: list[str]


class Hosts(_Exact):
    hosts: list[HostRow]


EventsPage = _made(
    "EventsPage",
    "Newest first; `next_before` is the `before` of the next page.",
    {"events": _rows(Event, ("seq", int)), "next_before": int | None},
)
_RATIOS = ("success_ratio", "undo_ratio", "recurrence_ratio")
Grades = _made("Grades", "One row a runbook.", {"runbooks": _rows(Grade, *((name, float | None) for name in _RATIOS))})


class Audits(_Exact):
    decisions: Checked
    hands: Checked


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


class WhyNot(_Exact):
    event: Event
    decisions: list[Decision]


class ReplayedRules(_Exact):
    events: int
    decisions: int
    with_evidence: int
    unreadable: int
    refusals: dict[str, int]
    differences: list[Difference]


class RefusedRules(_Exact):
    """The new rules cannot go live."""

    refused: str
    what: str
    where: str
    hint: str


class RulesPlan(_Exact):
    """`old` and `new` name the sets; `refused` says why they may not go live by themselves."""

    old: str
    new: str
    refused: str
    changes: list[Change]


class ProposedRules(_Exact):
    commit: str
    subject: str
    signers: list[str]
    plan: RulesPlan
    replay: ReplayedRules
    runbooks: int
    cases: int
    policies: int


class Wanted(_Exact):
    """What Prefect should have."""

    owner: str
    interval_s: float
    objects: dict[str, Any]


class Suspension(_Exact):
    by: str
    reason: str
    at: str


class Resumed(_Exact):
    resumed: bool


class RolledBack(_Exact):
    set: str
    commit: str | None
    suspended: bool


class Swap(_Exact):
    total_bytes: int | MissingValue
    used_bytes: int | MissingValue


_Balance = _made(
    "Balance",
    "The lines and the rest are the total.",
    {
        "total_bytes": int,
        "residual_bytes": int,
        "residual_share": float,
        "lines": _rows(panorama.BalanceLine, ("share", float | MissingValue)),
    },
)
_Growth = _made(
    "Growth",
    "What changed, the fastest growing first.",
    {"seconds": float, "source": str, "rows": _rows(panorama.Grown, ("bytes", int), ("rate_bytes_s", float))},
)
_ROWS = {
    "processes": panorama.ProcessRow,
    "containers": panorama.ContainerRow,
    "gpus": panorama.GpuRow,
    "vram": panorama.VramRow,
    "dying_groups": panorama.DyingRow,
}
_FIGURES = ("total_bytes", "available_bytes", "drift_bytes", "residual_bytes")
PanoramaOfHost = _made(
    "PanoramaOfHost",
    "Numbers are bytes. It may have more keys than these.",
    {
        "host": str,
        "scope": str,
        "taken_ns": int,
        **dict.fromkeys(_FIGURES, int | MissingValue),
        "swap": Swap,
        "balance": _Balance | MissingValue,
        **{name: _rows(kind) for name, kind in _ROWS.items()},
        "files": _rows(CachedFile) | _rows(panorama.FileRow),  # with the walk over inodes, and without
        "growth": _Growth | None,
    },
    ConfigDict(extra="allow"),
)


class NamedSeconds(_Exact):
    name: str
    seconds: float


class HotFunction(_Exact):
    name: str
    own_s: float
    total_s: float


class HotStack(_Exact):
    stack: str
    seconds: float


class HotState(_Exact):
    """Who was in this state, the most first."""

    seconds: float
    processes: list[NamedSeconds]
    containers: list[NamedSeconds]
    threads: list[NamedSeconds]
    functions: list[HotFunction]
    stacks: list[HotStack]


class HeatRow(_Exact):
    """One second: how many samples were on the CPU in each of its 50 cells of 20 ms."""

    second: int
    samples: list[int]


_COUNTED = {"blocked": hotspot.Blocked, "call_rates": hotspot.CallRate, "open_rates": hotspot.OpenRate}
HotWindow = _made(
    "HotWindow",
    "Who was hot on a host in a window of time, on and off the CPU.",
    {
        "host": str,
        "start_ns": int,
        "end_ns": int,
        "mode": shape(hotspot.Mode),
        "samples": int,
        "states": dict[str, HotState],
        **{name: _rows(kind) for name, kind in _COUNTED.items()},
        "seconds": _rows(hotspot.Second),
        "heat": list[HeatRow],
        "lost": int,
        "cost": shape(hotspot.Cost) | MissingValue,
        "gaps": list[str],
    },
)


class GpusFound(_Exact):
    gpus: int
    driver_version: str


class GpusOfHost(_Exact):
    """`unreadable` and `hung` say of a GPU, by its number, why it is not in `gpus`."""

    host: str
    inventory: GpusFound | MissingValue
    gpus: list[dict[str, Any]]
    unreadable: dict[str, Any]
    hung: dict[str, Any]
    scheduler: Any


_STATUS = {name: each.annotation for name, each in shape(Status).model_fields.items()}


class TargetRow(_Exact):
    name: str
    waiting: int
    given_up: int


class Targets(_Exact):
    targets: list[TargetRow]


#: Operation -> what it answers.
ANSWERS: Mapping[str, Any] = {
    "panorama": PanoramaOfHost,
    "hotspot_at": HotWindow,
    "timeline_gpus": GpusOfHost,
    "runs_start": Run | Previewed,
    "runs_undo": Run | Previewed,
    "runs_list": RunsPage,
    "runs_show": Run,
    "runs_report": ReportPath,
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
    "gitops_apply": _made(
        "LookedAtRules",
        "What a look at Git found, and what is to be done after it.",
        {**_STATUS, "hosts_due": str, "wanted": Wanted},
    ),
    "gitops_status": _made("RulesStatus", "What the last look at Git found.", _STATUS),
    "gitops_suspend": Suspension,
    "gitops_resume": Resumed,
    "gitops_rollback": RolledBack,
}


@functools.cache
def answer_model(operation: str) -> type[BaseModel]:
    """What the operation answers over HTTP, whole: document, text and exit code."""
    return _made(
        f"{operation}_answer",
        "`exit_code` is the command line's: 0 done, 4 undone, 5 refused, 6 waits for a person.",
        {"document": ANSWERS[operation], "text": str, "exit_code": int},
    )
