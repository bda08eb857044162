"""The runbook document: the one model from which parsing, the JSON Schema and the reference page come."""

from __future__ import annotations

from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from osremed.runbook.fields import (
    Confidence,
    Count,
    Day,
    Duration,
    Expression,
    Margin,
    Model,
    Name,
    ParameterName,
    Sentence,
    Share,
    TimeOfDay,
)
from osremed.runbook.triggers import Trigger

#: Whether a run asks a person before its first change, or only where a step says so.
ModeName = Literal["suggest", "auto"]


class Metadata(Model):
    name: Name = Field(description="also the name of the folder")
    title: Sentence
    owners: list[Sentence] = Field(min_length=1, description="who is asked when this runbook misbehaves")


class RunbookMetadata(Metadata):
    manual_time: Duration | None = Field(
        default=None,
        description="what a person takes for the same by hand, 1m to 1d: `osremed stats` tells what kept runs saved",
    )


class Concurrency(Model):
    per_host: Count = Field(description="runs of this runbook at once on one host")
    fleet: Share = Field(description="runs at once over all hosts: a number, or a share of the inventory (at least 1)")


class Storm(Model):
    max_runs: Count = Field(description="runs admitted within `per`; the next one is refused")
    per: Duration


class Failures(Model):
    max: Count = Field(description="runs in a row that changed something and were not kept")
    pause: Duration = Field(description="after so many none begins on that host for so long")


class Recurrence(Model):
    max: Count = Field(description="runs that helped, and the need came back")
    per: Duration


class Breaker(Model):
    failed: Confidence = Field(description="share of the last runs of the fleet that were not kept")
    of: Count = Field(description="how many last runs are looked at; at least 4 of them must have ended")


class BlastRadius(Model):
    hosts: Share = Field(description="hosts changed within `per`: a number, or a share of the inventory (at least 1)")
    per: Duration


class Window(Model):
    """When runs may change something. Days and times are of `timezone`; a window may pass midnight."""

    days: list[Day] = Field(default=list(get_args(Day)), min_length=1)
    begin: TimeOfDay = Field(alias="from", description="such as '22:00'")
    to: TimeOfDay
    timezone: str = Field(default="UTC", description="name in the tz database, such as Europe/Berlin")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"no time zone {value!r} on this machine") from error
        return value


class Guards(Model):
    cooldown: Duration = Field(description="after a run on a host ended, none of this runbook starts there for so long")
    concurrency: Concurrency
    storm: Storm
    max_event_age: Duration = Field(default=900.0, description="an older event is history, not a reason to act")
    failures: Failures = Failures.model_validate({"max": 3, "pause": "1h"})
    recurrence: Recurrence = Recurrence.model_validate({"max": 5, "per": "24h"})
    breaker: Breaker = Breaker.model_validate({"failed": "50%", "of": 10})
    blast_radius: BlastRadius | None = Field(default=None, description="none: only `concurrency` and `storm` bound it")
    windows: list[Window] = Field(default_factory=list, description="changes only then; none: always")


class Diagnosis(Model):
    finding: Name
    when: Expression = Field(description="condition on `event` and the collected evidence")
    summary: Sentence = Field(description="what was found, with figures; a template")
    confidence: Confidence = Field(default=1.0, description="how sure this rule is")
    expected_gain: str = Field(default="", max_length=500, description="what acting on it should bring; a template")


class Approval(Model):
    required: Expression = Field(description="condition on `risk`, `event` and the evidence")
    timeout: Duration
    on_timeout: Literal["deny"] = "deny"


class Remedy(Model):
    id: Name | None = Field(default=None, description="a name of this step, for `after_success`")
    when: Expression = Field(description="condition; `finding('name')` is true if that finding was made")
    action: str = Field(description="an action, or `manual`: a person does it and ticks it, or says no")
    arguments: dict[str, Any] = Field(
        alias="with", default_factory=dict, description="options of the action; templates"
    )
    irreversible: Sentence | None = Field(default=None, description="why it cannot be undone")
    contains: Sentence | None = Field(
        default=None,
        description="why it stays while a later step, such as a reset, did not prove itself and cannot be undone",
    )
    confirm_within: Duration | None = Field(
        default=None, description="the host takes the change back by itself if the run has not confirmed it by then"
    )
    approval: Approval | None = Field(
        default=None,
        description="asks in mode `auto`, too. Without one a person has 10m in mode `suggest`, or two thirds of"
        " `max_event_age`, whichever is shorter",
    )
    timeout: Duration = Field(
        default=60.0,
        description="the action is ended on the host after so long, at most 1h; of a person nothing is awaited then."
        " Where nothing is said a minute is the bound",
    )


class AfterSuccess(Model):
    """Once every verification held and the change is kept; whatever comes of it, the repair stays."""

    if_changed: Name = Field(description="`id` of a remedy: only if that one really changed the host")
    action: str
    arguments: dict[str, Any] = Field(
        alias="with", default_factory=dict, description="options of the action; templates"
    )
    timeout: Duration = Field(default=60.0, description="the action is ended on the host after so long")


class Verification(Model):
    probe: str
    when: Expression | None = Field(
        default=None, description="condition on `event` and the collected evidence; where it is false nothing is asked"
    )
    arguments: dict[str, Any] = Field(
        alias="with", default_factory=dict, description="arguments of the probe; templates"
    )
    expect: str = Field(description="`value <op> number`")
    within: Duration = Field(description="the probe runs at most so long")
    hold: Duration = Field(alias="for", description="the expectation must hold without a break for so long")


class Watch(Model):
    """What must not get worse by the repair: measured before the first change and again once all of `verify` held."""

    probe: str
    arguments: dict[str, Any] = Field(
        alias="with", default_factory=dict, description="arguments of the probe; templates"
    )
    better: Literal["lower", "higher"] = Field(description="which values are the better ones")
    worse_by: Margin = Field(description="at most so much worse than before, in the unit of the probe: 0.05 or 5%")
    within: Duration = Field(description="the probe runs at most so long")
    hold: Duration = Field(alias="for", description="it must be no worse than that without a break for so long")


class Runbook(Model):
    """What to do when an event is raised: who may, what to look at, what it means, what to change, how to prove it."""

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["Runbook"]
    metadata: RunbookMetadata
    mode: ModeName = Field(
        default="suggest",
        description="`suggest`: a person is asked before the first change of each run, whatever the steps say; `auto`:"
        " only where the `approval` of a step asks for one. A GuardPolicy may say it for a group of hosts",
    )
    on: list[Trigger] = Field(min_length=1)
    guards: Guards
    collect: list[dict[str, dict[str, Any]]] = Field(min_length=1, description="evidence: `- collector: {arguments}`")
    diagnose: list[Diagnosis] = Field(min_length=1)
    remediate: list[Remedy] = Field(description="[]: the run ends with its findings")
    verify: list[Verification] = Field(
        description="[] only without `remediate`; all must hold, else every change is undone"
    )

    watch: list[Watch] = Field(
        default_factory=list,
        description="what must not get worse meanwhile; without a value from before nothing is changed",
    )
    after_success: list[AfterSuccess] = Field(
        default_factory=list,
        description="steps once the repair is verified and kept, in this order, such as to give a node back; when one"
        " fails the run ends SUCCEEDED and says what is to be done by hand",
    )
    escalate: Sentence | None = Field(
        default=None,
        description="tries the remedies one at a time, in their order: the next only when the one before did not prove"
        " itself and was taken back. This is what a human is told when none is left",
    )

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def looks_only(self) -> bool:
        """Its runs change nothing, whatever they find."""
        return not self.remediate

    @property
    def events(self) -> list[str]:
        """Names of the events that count for it, in the order of the file, each once."""
        return list(dict.fromkeys(clause.event for trigger in self.on for clause in trigger.clauses))


class Use(Model):
    """A part in this place: what it has of this list; what it has of the others is appended to them."""

    use: Name = Field(description="a part beside the runbooks: parts/<name>.yaml")
    arguments: dict[str, Any] = Field(
        alias="with", default_factory=dict, description="values of its parameters: a literal, or one `{{ expression }}`"
    )
    when: Expression | None = Field(
        default=None, description="and-ed to the condition of each item that stands at this place"
    )


class PartMetadata(Model):
    name: Name = Field(description="also the name of the file")
    title: Sentence
    owners: list[Sentence] = Field(min_length=1, description="who is asked when this part misbehaves")


class Parameter(Model):
    description: Sentence
    default: Any = Field(default=None, description="without one each use gives a value")


class Part(Model):
    """What several runbooks say alike. It names `event`, `host`, `parameters.<name>`, what it collects and the findings
    it makes, and is used by an item `use` in `remediate` if it repairs, and else in `diagnose`."""

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["RunbookPart"]
    metadata: PartMetadata
    parameters: dict[ParameterName, Parameter] = Field(
        default_factory=dict, description="`parameters.<name>` in its conditions, templates and `expect`"
    )
    collect: list[dict[str, dict[str, Any]]] = Field(
        default_factory=list, description="as in a runbook; what is collected there with equal arguments is kept once"
    )
    diagnose: list[Diagnosis] = Field(default_factory=list)
    remediate: list[Remedy] = Field(default_factory=list)
    verify: list[Verification] = Field(default_factory=list)
    watch: list[Watch] = Field(default_factory=list)
    after_success: list[AfterSuccess] = Field(default_factory=list)


_DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
#: What a part may bring: a runbook that uses one need not say it.
_BROUGHT = ("collect", "diagnose", "verify")


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a runbook file, as committed in docs/reference/runbook.schema.json."""
    schema = Runbook.model_json_schema(by_alias=True)
    schema["$defs"]["Use"] = Use.model_json_schema(by_alias=True)
    keys = schema["properties"]
    for key in ("diagnose", "remediate"):
        keys[key]["items"] = {"anyOf": [keys[key]["items"], {"$ref": "#/$defs/Use"}]}
    for key in _BROUGHT:
        keys[key].pop("minItems", None)
    schema["required"] = [key for key in schema["required"] if key not in _BROUGHT]
    bounds = {"collect": {"minItems": 1}, "diagnose": {"minItems": 1}}
    used = {"contains": {"type": "object", "required": ["use"]}}
    schema["anyOf"] = [
        {"required": [*_BROUGHT], "properties": bounds},
        {"properties": {"remediate": used}},
        {"required": ["diagnose"], "properties": {"diagnose": used}},
    ]
    return {**_DIALECT, **schema}


def part_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a part, as committed in docs/reference/runbook-part.schema.json."""
    return {**_DIALECT, **Part.model_json_schema(by_alias=True)}
