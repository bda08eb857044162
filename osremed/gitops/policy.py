"""Policies in the rules: what the daemons of the hosts of an inventory group obey, and what guards hold there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from osremed.core.errors import BadInput
from osremed.fastoom.policy import parse_policy
from osremed.hotspot.budget import parse_budget
from osremed.runbook.document import Metadata
from osremed.runbook.guardpolicy import KIND as GUARDS
from osremed.runbook.guardpolicy import GuardPolicy, kind_of, parse_guard_policy
from osremed.runbook.text import parse_text
from osremed.timeline.settings import parse_policy as parse_timeline

#: Part of a host policy -> (what its file says it is, what the daemon makes of it).
PARTS: Mapping[str, tuple[str, Callable[[bytes, str], object]]] = {
    "fastoom": ("FastoomPolicy", parse_policy),
    "timeline": ("TimelinePolicy", parse_timeline),
    "hotspot": ("HotspotPolicy", parse_budget),
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class HostPolicy(_Model):
    """Each part is the policy of a daemon without its apiVersion and kind; a part that is not there is left alone."""

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["HostPolicy"]
    metadata: Metadata
    hosts: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="group or host of the inventory")
    fastoom: dict[str, Any] | None = Field(default=None, min_length=1, description="what is ended first and what never")
    timeline: dict[str, Any] | None = Field(default=None, min_length=1, description="thresholds of the GPU watch")
    hotspot: dict[str, Any] | None = Field(default=None, min_length=1, description="what the recorder may cost")

    @model_validator(mode="after")
    def _some(self) -> HostPolicy:
        if not self.parts:
            raise ValueError(f"give one of {', '.join(PARTS)}")
        return self

    @property
    def parts(self) -> Mapping[str, dict[str, Any]]:
        """Those that are given, by name."""
        given = {name: getattr(self, name) for name in PARTS}
        return {name: settings for name, settings in given.items() if settings is not None}

    def part_bytes(self, part: str) -> bytes:
        """The policy file of the host."""
        document = {"apiVersion": "osremed/v1", "kind": PARTS[part][0], **self.parts[part]}
        return json.dumps(document, indent=2, sort_keys=True).encode("utf-8") + b"\n"


def policy_schema() -> dict[str, Any]:
    """JSON Schema of a file in policies/."""
    return TypeAdapter(HostPolicy | GuardPolicy).json_schema(by_alias=True)


def check_policy(content: bytes, path: str, runbooks: frozenset[str]) -> None:
    """BadInput for a file in policies/ that could not go live; `runbooks` are the names there are."""
    if kind_of(content, path) != GUARDS:
        parse_host_policy(content, path)
        return
    for name in parse_guard_policy(content, path).runbooks:
        if name not in runbooks:
            raise BadInput(f"there is no runbook {name!r}", where=path, hint=f"there are {', '.join(sorted(runbooks))}")


def parse_host_policy(content: bytes, path: str) -> HostPolicy:
    """BadInput with file:line:column."""
    text = parse_text(content, path)
    try:
        policy = HostPolicy.model_validate(text.data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        dotted = ".".join(map(str, first["loc"])) or "the policy"
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{dotted}: {message}", where=text.where(tuple(first["loc"]))) from error
    name = path.rpartition("/")[2].removesuffix(".yaml")
    if policy.metadata.name != name:
        raise BadInput(f"policy {policy.metadata.name!r} lies in {name}.yaml", where=path, hint="rename one of them")
    for part in policy.parts:
        try:
            PARTS[part][1](policy.part_bytes(part), path)
        except BadInput as error:
            raise BadInput(f"{part}: {error.what}", where=text.where((part,)), hint=error.hint) from error
    return policy
