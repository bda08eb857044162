"""Who is told what: the file /etc/osremed/notify.yaml. It names secrets and holds none."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.notify.message import Kind, Message
from osremed.runbook.fields import Duration, Name
from osremed.runbook.text import Text, read_text

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: The states of a run that people are told of; the others pass within seconds.
State = Literal["AWAITING_APPROVAL", "AWAITING_PERSON", "SUCCEEDED", "REFUSED", "UNDONE", "UNDO_INCOMPLETE"]


def is_safe(url: str) -> bool:
    """https, or this machine: what is signed or secret does not go over the wire in clear text."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    )


def _bare(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("an address in this file has no user, no password and no query: they may be secrets")
    if not is_safe(url):
        raise ValueError("the address is neither https nor of this machine")
    return url


#: A file of systemd's credentials ($CREDENTIALS_DIRECTORY), else a variable of the environment.
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{2,63}$")]
BareUrl = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_bare)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Webhook(_Model):
    """A signed POST of JSON, as standardwebhooks.com describes it."""

    url_from: SecretName
    secret_from: SecretName


class Limit(_Model):
    """At most so many messages `per` so long; what is above comes as one."""

    messages: int = Field(default=20, ge=1, le=1000)
    per: Duration = 600.0


class Chat(_Model):
    """Slack, Teams, DingTalk, Feishu, e-mail and what else Apprise knows, by its address."""

    url_from: SecretName
    limit: Limit = Limit()


class Alertmanager(_Model):
    """Alerts of Prometheus' Alertmanager. `hold`: how long an alert stands that nobody ends."""

    url: BareUrl
    hold: Duration = 4 * 3600.0


class Traces(_Model):
    """A collector of OpenTelemetry (OTLP over HTTP): a trace for each run that has ended."""

    url: BareUrl


class Target(_Model):
    """Exactly one of them."""

    webhook: Webhook | None = None
    chat: Chat | None = None
    alertmanager: Alertmanager | None = None
    traces: Traces | None = None

    @property
    def way(self) -> Webhook | Chat | Alertmanager | Traces | None:
        given = [each for each in (self.webhook, self.chat, self.alertmanager, self.traces) if each is not None]
        return given[0] if len(given) == 1 else None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of what it needs to know."""
        way = self.way
        if isinstance(way, Webhook):
            return way.url_from, way.secret_from
        return (way.url_from,) if isinstance(way, Chat) else ()


class Rule(_Model):
    """Which messages go to whom. `hosts` and `runbooks` are names or patterns with `*`."""

    on: Literal["run", "intervention"]
    states: list[State] = Field(default_factory=list, description="of runs; none: all of them")
    runbooks: list[Glob] = Field(default_factory=list, description="of runs; none: all of them")
    hosts: list[Glob] = Field(default_factory=list, description="none: all of them")
    to: list[Name] = Field(min_length=1)

    def wants(self, message: Message) -> bool:
        if (message.kind is Kind.RUN) != (self.on == "run"):
            return False
        asked = ((self.states, message.state), (self.runbooks, message.runbook), (self.hosts, message.host))
        return all(not wanted or any(fnmatch.fnmatchcase(name, each) for each in wanted) for wanted, name in asked)


class Policy(_Model):
    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["Notifications"]
    console: BareUrl | None = Field(default=None, description="where the console is reached: messages link to it")
    targets: Mapping[Name, Target]
    rules: list[Rule]

    def told(self, message: Message) -> list[str]:
        """The targets of a message, each once, in the order of the rules."""
        return list(dict.fromkeys(name for rule in self.rules if rule.wants(message) for name in rule.to))


def lint(text: Text) -> tuple[Policy | None, list[BadInput]]:
    """(the policy, unless something is wrong; everything that is wrong, each with its place)."""
    try:
        policy = Policy.model_validate(text.data)
    except ValidationError as error:
        return None, [explained(text, each, _EXAMPLES) for each in error.errors(include_url=False)]
    wrong = [
        BadInput(f"target {name!r} has not exactly one way", where=text.where(("targets", name)), hint=_WAYS)
        for name, target in policy.targets.items()
        if target.way is None
    ]
    for number, rule in enumerate(policy.rules):
        here = ("rules", number)
        wrong += [
            BadInput(f"there is no target {name!r}", where=text.where((*here, "to", at)), hint=_known(policy))
            for at, name in enumerate(rule.to)
            if name not in policy.targets
        ]
        if rule.on == "intervention" and (rule.states or rule.runbooks):
            what = "an intervention has no state and no runbook"
            wrong.append(BadInput(what, where=text.where(here), hint="give hosts, or nothing"))
    used = {name for rule in policy.rules for name in rule.to}
    wrong += [
        BadInput(
            f"nobody tells target {name!r} anything", where=text.where(("targets", name)), hint="name it in a rule"
        )
        for name in policy.targets
        if name not in used
    ]
    return (policy if not wrong else None), wrong


_EXAMPLES = "docs/notify.md has an example of each"
_WAYS = "one of webhook, chat, alertmanager, traces"


def _known(policy: Policy) -> str:
    return f"targets: {', '.join(policy.targets) or 'none'}"


def explained(text: Text, error: Mapping[str, object], hint: str) -> BadInput:
    """One of pydantic's errors about the text, with its place."""
    loc = error["loc"]
    assert isinstance(loc, tuple)
    unknown = error["type"] == "extra_forbidden"
    dotted = ".".join(map(str, loc)) or "the file"
    what = f"unknown key {loc[-1]!r}" if unknown else f"{dotted}: {str(error['msg']).removeprefix('Value error, ')}"
    return BadInput(what, where=text.where(loc, key=unknown), hint=hint)


def load_policy(path: str) -> Policy:
    """BadInput with file:line:column of the first fault."""
    policy, wrong = lint(read_text(path))
    if policy is None:
        raise wrong[0]
    return policy


def secret(name: str) -> str:
    """What the name stands for. BadInput if neither a credential nor a variable has it."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = os.path.join(folder, name)
    if folder and os.path.isfile(path):
        return read_bytes(path, limit_bytes=8192).decode("utf-8", "replace").strip()
    if os.environ.get(name):
        return os.environ[name].strip()
    hint = f"LoadCredential={name}:FILE in the unit, or the variable {name}"
    raise BadInput(f"nobody says what {name} is", where=name, hint=hint)
