"""Finds the function of a verb; only then is its room imported."""

from __future__ import annotations

import importlib
from typing import Any

from osremed.core.errors import Unavailable
from osremed.verbs.model import Verb
from osremed.verbs.table import VERBS

_CONTROL_ONLY = frozenset(
    {
        "ansible_runner",
        "apprise",
        "fastapi",
        "httpx",
        "jinja2",
        "mcp",
        "openai",
        "prefect",
        "prometheus_client",
        "pydantic",
        "pydantic_ai",
        "starlette",
        "uvicorn",
        "yaml",
    }
)


def find(words: list[str]) -> tuple[Verb, list[str]] | None:
    """The verb these words begin with, and the words after it. The longest one: a verb may have others below it."""
    found: tuple[Verb, list[str]] | None = None
    for verb in VERBS:
        if tuple(words[: len(verb.words)]) == verb.words and (found is None or len(verb.words) > len(found[0].words)):
            found = verb, words[len(verb.words) :]
    return found


def load(verb: Verb, *, elsewhere: bool = False) -> Any:
    """The verb's function, or the one that asks another host. Unavailable if its room is not installed here."""
    module, _, name = (verb.elsewhere if elsewhere else verb.function).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")
        if missing[0] not in _CONTROL_ONLY and missing[0] != "osremed":
            raise
        words = " ".join(verb.words)
        hint = "pip install 'osremed[control]' with Python 3.11-3.13"
        what = f"`osremed {words}` belongs to the control plane, {error.name} is not here"
        raise Unavailable(what, hint=hint, code="unavailable.control-plane") from error
