"""Answers in another language, for tests of any room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from osremed.core.language import speak
from osremed.verbs.catalogue import answers, catalogue


@contextmanager
def spoken(language: str) -> Iterator[None]:
    """Within it, `language` is spoken as on the command line; English again after it."""
    speak(catalogue(language), answers(language))
    try:
        yield
    finally:
        speak({})
