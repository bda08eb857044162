"""Whether a model may be asked, which one, how much it may cost, and what it may be shown: /etc/osremed/opinion.yaml.
Without the file nobody is asked anything. It names the key and never holds it."""

from __future__ import annotations

import os
import re
import stat
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from osremed.console.binding import offered
from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.notify.policy import BareUrl, SecretName, explained, secret
from osremed.runbook.actions import COLLECTORS
from osremed.runbook.fields import Duration, Model
from osremed.runbook.text import read_text

HOWTO = "docs/howto/second-opinion.md"
#: What a run has beside its collectors' documents.
OF_RUN = ("event", "findings", "plan", "outcome")
KINDS = (*OF_RUN, *sorted(COLLECTORS))
_KEY_BYTES = 8192


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"there is no evidence of the kind {name!r}; kinds: {', '.join(KINDS)}")
    return name


def _tool(name: str) -> str:
    if name not in (readable := offered("read")):
        raise ValueError(f"{name!r} is no reading verb; there are {', '.join(readable)}")
    return name


def _pattern(text: str) -> str:
    try:
        empty = re.compile(text).search("") is not None
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    if empty:
        raise ValueError(f"{text!r} matches everywhere")
    return text


class Limits(Model):
    """What one question and one day may take. A question that cannot be answered within them is not answered."""

    tokens: int = Field(default=40_000, ge=4000, le=1_000_000, description="of one question, both ways together")
    answer_tokens: int = Field(default=2000, ge=200, le=100_000, description="of one answer of the model")
    within: Duration = Field(default=60.0, gt=0, le=600)
    tool_calls: int = Field(default=8, ge=1, le=50, description="of `osremed ask`")
    calls_a_day: int = Field(default=50, ge=1, le=100_000, description="a day is one of UTC")
    tokens_a_day: int = Field(default=500_000, ge=1000, description="counted from the audit; this is the cost")

    @model_validator(mode="after")
    def _room(self) -> Limits:
        if self.answer_tokens * 2 > self.tokens:
            raise ValueError("answer_tokens is more than half of tokens: there is no room for evidence")
        return self


class Share(Model):
    """What may leave this machine. Secrets never do; hidden names, paths and hosts go as name-1, path-1, host-1."""

    evidence: list[Annotated[str, AfterValidator(_kind)]] = Field(default_factory=list)
    tools: list[Annotated[str, AfterValidator(_tool)]] = Field(
        default_factory=list, description="reading verbs that `osremed ask` may use, as MCP names them"
    )
    runbooks: bool = Field(default=False, description="names and titles of the runbooks in force: it may suggest one")
    names: Literal["hidden", "shown"] = Field(default="hidden", description="of processes and containers")
    paths: Literal["hidden", "shown"] = "hidden"
    hosts: Literal["hidden", "shown"] = "hidden"
    redact: list[Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_pattern)]] = Field(
        default_factory=list, description="regular expressions; what they match is hidden too"
    )


class Policy(Model):
    api_version: Literal["osremed/v1"] = Field(alias="apiVersion")
    kind: Literal["SecondOpinion"]
    endpoint: BareUrl = Field(description="speaks chat completions, such as https://models.example/v1")
    model: str = Field(min_length=1, max_length=200)
    key_from: SecretName | None = Field(default=None, description="a credential of systemd or a variable")
    key_file: str | None = Field(default=None, pattern="^/", description="a file that its owner alone can read")
    structured: Literal["tool", "schema"] = Field(
        default="tool", description="how the endpoint takes the form of an answer: as a tool call or a JSON schema"
    )
    limits: Limits = Limits()
    share: Share = Share()

    @model_validator(mode="after")
    def _one_key(self) -> Policy:
        if self.key_from and self.key_file:
            raise ValueError("key_from and key_file are both given; keep one")
        return self

    def key(self) -> str | None:
        """The key, None if the endpoint wants none. BadInput if it is not where the policy says."""
        if self.key_from:
            return secret(self.key_from)
        return _key_in(self.key_file) if self.key_file else None


def _key_in(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
        data = read_bytes(path, limit_bytes=_KEY_BYTES)
    except OSError as error:
        raise BadInput(f"the key cannot be read: {error.strerror}", where=path) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInput("others may read the key", where=path, hint=f"chmod 600 {path}")
    key = data.decode("utf-8", "replace").strip()
    if not key.isascii() or not key.isprintable() or not key:
        raise BadInput("not a key: one line of printable ASCII is expected", where=path)
    return key


def load_policy(path: str) -> Policy:
    """BadInput with file:line:column of the first fault, or if there is no file: nobody switched it on."""
    if not os.path.lexists(path):
        what = "second opinions are off: no model may be asked anything"
        raise BadInput(what, where=path, hint=f"{HOWTO} says how to switch them on", code="input.opinion-off")
    text = read_text(path)
    try:
        return Policy.model_validate(text.data)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        raise explained(text, first, f"{HOWTO} has an example") from error
