"""Where the rules come from and what they must pass: the file /etc/osremed/gitops.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from osremed.core.errors import BadInput
from osremed.runbook.fields import Confidence, Duration, Name
from osremed.runbook.text import read_text

HostsMode = Literal["off", "check", "apply"]
Ref = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Verify(_Model):
    """`every`: each commit since the last good one is signed. `head`: the newest. `tag`: the ref is a signed tag.
    `none` has to be written out: whoever can push then decides what is ended on every host."""

    mode: Literal["every", "head", "tag", "none"] = "every"
    allowed_signers: str = Field(default="", description="file as in ssh-keygen(1), ALLOWED SIGNERS")
    keyring: str = Field(default="", description="file of OpenPGP public keys")
    principals: list[str] = Field(default_factory=list, description="only these signers; none: all allowed ones")


class Limits(_Model):
    files: int = Field(default=5_000, ge=1, le=100_000)
    file_bytes: int = Field(default=256 << 10, ge=1, le=16 << 20)
    total_bytes: int = Field(default=64 << 20, ge=1, le=1 << 30)
    fetch_bytes: int = Field(
        default=1 << 30, ge=1 << 16, le=1 << 40, description="what one fetch may bring, with history"
    )


class Replay(_Model):
    """Past events under the new rules; a change of more decisions than `max_changed` waits for a human. Shares and the
    policies of groups are asked of the `inventory`; without one of `fleet_hosts` hosts, or of those that had events."""

    events: str = Field(default="", description="journal of events; none: the dispatcher's own")
    window: Duration = Field(default=7 * 86400.0)
    max_changed: Confidence = Field(default=1.0, description="share of decisions that may change without a human")
    inventory: str = Field(default="", description="the Ansible inventory of the fleet: policies of its groups count")
    fleet_hosts: int | None = Field(default=None, ge=1, strict=True, description="how many hosts, without an inventory")

    @model_validator(mode="after")
    def _one_fleet(self) -> Replay:
        if self.inventory and self.fleet_hosts is not None:
            raise ValueError("the fleet is that of the `inventory`, or `fleet_hosts` hosts, not both")
        return self


class Sync(_Model):
    """Where the rules of this control plane come from."""

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["RulesSource"]
    url: str = Field(min_length=1, description="https, ssh or file address of the repository")
    ref: Ref = Field(default="refs/heads/main", description="branch or tag")
    commit: str = Field(default="", pattern=r"^([0-9a-f]{40})?$", description="pinned: only this one, forward or back")
    path: str = Field(default="", description="folder of the rules inside the repository")
    environment: str = Field(default="", pattern=r"^[a-z0-9-]{0,63}$", description="overlay: environments/<this>")
    interval: Duration = Field(default=60.0)
    timeout: Duration = Field(default=60.0)
    depth: int = Field(default=0, ge=0, description="0: the whole history")
    verify: Verify
    limits: Limits = Limits()
    replay: Replay = Replay()
    max_removed: Confidence = Field(default=0.5, description="share of the live rules that may vanish at once")
    keep: int = Field(default=5, ge=2, le=100, description="sets of rules kept for rollback")
    owner: Name = Field(default="osremed", description="label of what is ours in Prefect: one a control plane")
    hosts: HostsMode = Field(default="off", description="host policies: tell what differs, or bring them, after a swap")
    hosts_interval: Duration = Field(default=3600.0, ge=60, description="and again after so long: hosts drift, too")
    repair_drift: bool = Field(default=False, description="put changed live files back; else they are only told")


def load_sync(path: str) -> Sync:
    """BadInput with file:line:column and a hint."""
    text = read_text(path)
    try:
        return Sync.model_validate(text.data)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        where = text.where(tuple(first["loc"]), key=first["type"] == "extra_forbidden")
        known = ", ".join(field.alias or name for name, field in Sync.model_fields.items())
        dotted = ".".join(map(str, first["loc"])) or "the file"
        raise BadInput(f"{dotted}: {first['msg']}", where=where, hint=f"keys: {known}") from error
