"""Objects of Prefect in the rules: automations, concurrency limits and variables, each by its name.

This room knows their words, not Prefect: the file is checked here, and `osremed.flows` makes it true.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

from osremed.core.errors import BadInput
from osremed.gitops import live
from osremed.gitops.live import Home
from osremed.runbook.document import Metadata
from osremed.runbook.fields import Count, Duration, Name, Sentence
from osremed.runbook.text import Path, Text, parse_text

VariableName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,99}$")]
#: `<type of block>/<its name>`: where an address and its secret are kept.
Block = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,100}/[a-z0-9-]{1,100}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
KINDS = ("automations", "limits", "variables")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Limit(_Model):
    slots: Count = Field(description="how many at once")
    release_per_second: float = Field(default=0.0, ge=0, le=10_000, description="above 0: a rate, slots come back")


class Trigger(_Model):
    """Events of Prefect: `happen`: so many were seen `within`; `stay_away`: fewer were, after one of `after`."""

    when: Literal["happen", "stay_away"]
    expect: list[Pattern] = Field(min_length=1, description="names of events, such as prefect.flow-run.Failed")
    after: list[Pattern] = Field(default_factory=list)
    match: dict[str, Pattern] = Field(default_factory=dict, description="labels of the event's resource")
    related: dict[str, Pattern] = Field(default_factory=dict, description="labels of a resource related to it")
    for_each: list[Pattern] = Field(default_factory=list, description="counted apart for each value of these labels")
    threshold: Count = 1
    within: Duration = Field(description="0s with `happen`: each one at once; `stay_away` needs 10s at least")

    @model_validator(mode="after")
    def _enough_time(self) -> Trigger:
        if self.when == "stay_away" and self.within < 10:
            raise ValueError("`within` of what stays away is 10s at least: Prefect looks no oftener")
        return self


class RunDeployment(_Model):
    deployment: str = Field(pattern=r"^[^/]{1,200}/[^/]{1,200}$", description="<flow>/<deployment>")
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class SetState(_Model):
    state: Literal["CANCELLED", "CRASHED", "FAILED", "COMPLETED", "CANCELLING"]
    message: str = Field(default="", max_length=500)


class Call(_Model):
    block: Block
    payload: str = Field(default="", max_length=4000, description="a template of Prefect")


class Tell(_Model):
    block: Block
    subject: Sentence
    body: str = Field(min_length=1, max_length=4000, description="a template of Prefect")


class Act(_Model):
    """Exactly one of these."""

    run_deployment: RunDeployment | None = None
    set_state: SetState | None = None
    call_webhook: Call | None = None
    notify: Tell | None = None
    cancel_flow_run: dict[str, JsonValue] | None = Field(default=None, max_length=0, description="{}")
    suspend_flow_run: dict[str, JsonValue] | None = Field(default=None, max_length=0, description="{}")

    @model_validator(mode="after")
    def _one(self) -> Act:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"one action an item: {', '.join(Act.model_fields)}")
        return self


class Automation(_Model):
    description: str = Field(default="", max_length=500)
    enabled: bool = True
    trigger: Trigger
    actions: list[Act] = Field(min_length=1)


class PrefectObjects(_Model):
    """What Prefect should have. Mappings by name, so that an environment can change one of them."""

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["PrefectObjects"]
    metadata: Metadata
    automations: dict[Name, Automation] = Field(default_factory=dict)
    limits: dict[Name, Limit] = Field(default_factory=dict)
    variables: dict[VariableName, JsonValue] = Field(
        default_factory=dict, description="readable by everybody who reaches Prefect: never a secret"
    )


def parse_objects(content: bytes, path: str) -> PrefectObjects:
    """BadInput with file:line:column."""
    text = parse_text(content, path)
    try:
        objects = PrefectObjects.model_validate(text.data)
    except ValidationError as error:
        raise _explained(error, text) from error
    name = path.rpartition("/")[2].removesuffix(".yaml")
    if objects.metadata.name != name:
        what = f"objects {objects.metadata.name!r} lie in {name}.yaml"
        raise BadInput(what, where=path, hint="rename one of them")
    return objects


def _explained(error: ValidationError, text: Text) -> BadInput:
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    place: Path = tuple(part for part in first["loc"] if part != "[key]")
    dotted = ".".join(map(str, place)) or "the objects"
    message = first["msg"].removeprefix("Value error, ")
    return BadInput(f"{dotted}: {message}", where=text.where(place, key=first["type"] == "extra_forbidden"))


def merged(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Kind -> name -> object as JSON, of all files (path -> content). BadInput for a name that two files give."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    givers: dict[tuple[str, str], str] = {}
    for path in sorted(files):
        objects = parse_objects(files[path], path)
        document = {**objects.model_dump(mode="json", exclude_none=True), "variables": objects.variables}
        for kind in KINDS:
            for name, value in document[kind].items():
                other = givers.setdefault((kind, name), path)
                if other != path:
                    raise BadInput(f"{kind}.{name} is given in {other}, too", where=path, hint="keep one of them")
                found[kind][name] = value
    return found


def live_objects(home: Home) -> dict[str, dict[str, Any]]:
    """What the live set wants of Prefect."""
    folder = home.path("live", "prefect")
    files = live.read_set(folder) if os.path.isdir(folder) else {}
    return merged({f"prefect/{name}": content for name, content in files.items()})
