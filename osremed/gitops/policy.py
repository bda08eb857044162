"""Policies of hosts in the rules: which FastOOM policy the hosts of an inventory group have."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from osremed.core.errors import BadInput
from osremed.fastoom.policy import parse_policy
from osremed.runbook.document import Metadata
from osremed.runbook.text import parse_text


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class HostPolicy(_Model):
    """`fastoom` is a FastOOM policy without its apiVersion and kind."""

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["HostPolicy"]
    metadata: Metadata
    hosts: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="group or host of the inventory")
    fastoom: dict[str, Any] = Field(min_length=1)

    def fastoom_bytes(self) -> bytes:
        """The policy file of the host."""
        document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", **self.fastoom}
        return json.dumps(document, indent=2, sort_keys=True).encode("utf-8") + b"\n"


def parse_host_policy(content: bytes, path: str) -> HostPolicy:
    """BadInput with file:line:column."""
    text = parse_text(content, path)
    try:
        policy = HostPolicy.model_validate(text.data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        dotted = ".".join(map(str, first["loc"])) or "the policy"
        raise BadInput(f"{dotted}: {first['msg']}", where=text.where(tuple(first["loc"]))) from error
    name = path.rpartition("/")[2].removesuffix(".yaml")
    if policy.metadata.name != name:
        raise BadInput(f"policy {policy.metadata.name!r} lies in {name}.yaml", where=path, hint="rename one of them")
    try:
        parse_policy(policy.fastoom_bytes(), path)
    except BadInput as error:
        raise BadInput(f"fastoom: {error.what}", where=text.where(("fastoom",)), hint=error.hint) from error
    return policy
