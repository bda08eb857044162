"""A verb as a typed call: the model of what a caller may say, and the call with the console's own places put in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from osremed.core.answer import Answer
from osremed.core.record import record
from osremed.runbook.audit import acting_as
from osremed.verbs.load import load
from osremed.verbs.model import Arg, Verb
from osremed.verbs.table import VERBS

_LIMIT_CHARS = 4096


@record
class Places:
    """Paths of this machine that verbs work on; no caller chooses them."""

    state: str
    inventory: str
    collections: str
    runbooks: str
    source: str
    prefect_ui: str = ""  #: where people reach Prefect's pages
    opinion: str = "/etc/osremed/opinion.yaml"  #: whether a model may be asked


def exposed() -> tuple[Verb, ...]:
    """The verbs that the network may reach."""
    return tuple(verb for verb in VERBS if verb.route)


def offered(*scopes: str) -> dict[str, Verb]:
    """Name -> verb, for programs that choose verbs themselves: those of the scopes, but none that asks a model."""
    return {name_of(verb): verb for verb in exposed() if verb.scope in scopes and not verb.asks_model}


def name_of(verb: Verb) -> str:
    return "_".join(verb.words).replace("-", "_")


def method_and_path(verb: Verb) -> tuple[str, str]:
    method, _, path = verb.route.partition(" ")
    return method, path


def open_args(verb: Verb) -> tuple[Arg, ...]:
    return tuple(arg for arg in verb.all_args if not (arg.place or arg.alone))


def _is_needed(arg: Arg) -> bool:
    return arg.required or (not arg.name.startswith("-") and arg.kind != "optional")


def field_of(arg: Arg, *, check_default: bool = False) -> Any:
    """(type, default) for pydantic. `check_default`: a dry run unless the caller says otherwise."""
    text = Annotated[str, Field(max_length=_LIMIT_CHARS, description=arg.help)]
    if arg.kind == "flag":
        default = arg.name == "--check" and check_default
        return Annotated[bool, Field(description=arg.help)], default
    if arg.kind == "int":
        number = Annotated[int, Field(description=arg.help, ge=-(2**63), lt=2**63)]
        return (number, ...) if _is_needed(arg) else (number | None if arg.default is None else number, arg.default)
    if _is_needed(arg):
        return text, ...
    return (text | None, None) if arg.default is None else (text, arg.default)


def request_model(verb: Verb, *, without: frozenset[str] = frozenset(), check_default: bool = False) -> type[BaseModel]:
    """What a caller may say of the verb, nothing else; `without` are arguments said elsewhere (in the path)."""
    asked = [arg for arg in open_args(verb) if arg.dest not in without]
    fields = {arg.dest: field_of(arg, check_default=check_default) for arg in asked}
    config = ConfigDict(extra="forbid", str_strip_whitespace=False)
    model: type[BaseModel] = create_model(f"{name_of(verb)}_request", __config__=config, **fields)
    return model


def call(verb: Verb, places: Places, who: str, arguments: Mapping[str, Any], *, by_token: bool = True) -> Answer:
    """The verb's answer, as `who`, whom a token names or who runs this process. Raises what the verb raises."""
    function = load(verb, elsewhere=bool(verb.elsewhere))
    given = dict(arguments)
    for arg in verb.all_args:
        if arg.place and arg.default is not None:
            given[arg.dest] = getattr(places, arg.dest)
        elif arg.place:
            given[arg.dest] = None
    with acting_as(who, by_token=by_token):
        answer: Answer = function(**given)
    return answer
