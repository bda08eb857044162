"""Guards of a group of hosts: asked besides those of the runbook itself, so they hold back more and never less.

What counts over a fleet (`concurrency.fleet`, `storm`, `breaker`, `blast_radius`) is counted over the group. The one
thing by which a policy lets more through is `mode: auto`, and that names its runbooks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.record import record
from osremed.runbook.document import Guards, Metadata, ModeName
from osremed.runbook.text import Text, parse_text

KIND = "GuardPolicy"
_MANY = 100_000
#: Stands for what a policy does not say: it never says no.
_NEUTRAL: Mapping[str, Any] = {
    "cooldown": "0s",
    "concurrency": {"per_host": _MANY, "fleet": _MANY},
    "storm": {"max_runs": _MANY, "per": "1s"},
}


class _Shape:
    """For the exported schema: as the guards of a runbook, nothing of it required."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler.resolve_ref_schema(handler(Guards.__pydantic_core_schema__))
        for model in (found, handler.resolve_ref_schema(found["properties"]["concurrency"])):
            model.pop("required", None)
        return found


class GuardPolicy(BaseModel):
    """`guards` has any of the keys that the guards of a runbook have; each is asked of runs on these hosts, too. `mode`
    counts before that of the runbook."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["GuardPolicy"]
    metadata: Metadata
    hosts: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="group or host of the inventory")
    runbooks: list[str] = Field(default_factory=list, description="names; none: all of them")
    mode: ModeName | None = Field(
        default=None,
        description="of these runbooks on these hosts; of several policies `suggest` holds. `auto` names its runbooks",
    )
    guards: Annotated[dict[str, Any], _Shape] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_something(self) -> GuardPolicy:
        if not self.guards and self.mode is None:
            raise ValueError("gives neither `guards` nor `mode`")
        if self.mode == "auto" and not self.runbooks:
            raise ValueError("`mode: auto` names the `runbooks` that act by themselves on these hosts")
        return self

    @property
    def whole(self) -> Guards:
        """With what it does not say filled in, neutrally."""
        return Guards.model_validate(_over(_NEUTRAL, self.guards))


@record
class Restriction:
    """Guards of one policy that count for a run: `names` are the keys it gives, `hosts` the hosts they count over.
    `mode`: how its runs go there; None where the policy does not say."""

    policy: str
    guards: Guards
    names: frozenset[str]
    hosts: frozenset[str]
    mode: ModeName | None = None


#: (host, runbook) -> what restricts its runs. BadInput when that cannot be told.
Restrict = Callable[[str, str], Sequence[Restriction]]


def unrestricted(_host: str, _runbook: str) -> Sequence[Restriction]:
    return ()


def _over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **given}
    if isinstance(given.get("concurrency"), dict):
        merged["concurrency"] = {**base["concurrency"], **given["concurrency"]}
    return merged


def parse_guard_policy(content: bytes, path: str) -> GuardPolicy:
    """BadInput with file:line:column."""
    text = parse_text(content, path)
    try:
        policy = GuardPolicy.model_validate(text.data)
    except ValidationError as error:
        raise _located(error, text, ()) from error
    try:
        policy.whole  # noqa: B018  a wrong guard is told here
    except ValidationError as error:
        raise _located(error, text, ("guards",)) from error
    name = os.path.basename(path).removesuffix(".yaml")
    if policy.metadata.name != name:
        raise BadInput(f"policy {policy.metadata.name!r} lies in {name}.yaml", where=path, hint="rename one of them")
    return policy


def _located(error: ValidationError, text: Text, above: tuple[str, ...]) -> BadInput:
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    place = (*above, *first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    where = text.where(place, key=first["type"] == "extra_forbidden")
    return BadInput(f"{'.'.join(map(str, place)) or 'the policy'}: {message}", where=where)


def policies_beside(runbooks: str) -> str:
    """The folder of the policies of these runbooks: beside theirs, in the set that a link leads to now."""
    return os.path.join(os.path.dirname(os.path.realpath(runbooks)), "policies")


def load_guard_policies(directory: str) -> tuple[GuardPolicy, ...]:
    """Those of a folder of policies; those of other kinds are left out. () without the folder. BadInput for a faulty
    one."""
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    found = []
    for path in (os.path.join(directory, name) for name in names if name.endswith(".yaml")):
        content = read_bytes(path)
        if kind_of(content, path) == KIND:
            found.append(parse_guard_policy(content, path))
    return tuple(found)


def kind_of(content: bytes, path: str) -> str:
    """What the file says it is; "" if it does not."""
    data = parse_text(content, path).data
    return str(data.get("kind", "")) if isinstance(data, dict) else ""


def restrictions(
    policies: Sequence[GuardPolicy], groups: Mapping[str, frozenset[str]], host: str, runbook: str
) -> tuple[Restriction, ...]:
    """BadInput for a group that the inventory does not have: a typing error must not free its hosts."""
    known = frozenset(name for hosts in groups.values() for name in hosts)
    found = []
    for policy in policies:
        hosts = groups.get(policy.hosts, frozenset({policy.hosts}) & known)
        if not hosts:
            hint = f"groups: {', '.join(sorted(groups))}"
            where = f"policies/{policy.metadata.name}.yaml"
            raise BadInput(f"the inventory has no group or host {policy.hosts!r}", where=where, hint=hint)
        if host in hosts and (not policy.runbooks or runbook in policy.runbooks):
            names = frozenset(policy.guards)
            found.append(Restriction(policy.metadata.name, policy.whole, names, hosts, policy.mode))
    return tuple(found)


def restricting(directory: Callable[[], str], groups: Callable[[], Mapping[str, frozenset[str]]]) -> Restrict:
    """By the policies that lie in the directory when asked: what is live now holds a run back, not what was when it
    began."""

    def restrict(host: str, runbook: str) -> Sequence[Restriction]:
        try:
            policies = load_guard_policies(directory())
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
        return restrictions(policies, groups(), host, runbook) if policies else ()

    return restrict
