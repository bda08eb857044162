"""What verbs, their answers and the command line say in other languages: `locale/`, a phrase two lines. One for every
face: who speaks gives a catalogue to `core.language.speak`."""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Mapping

LANGUAGES = ("zh_CN", "zh_TW")
_ENTRY = re.compile(r'^msgid "(.+)"\nmsgstr "(.+)"$', re.MULTILINE)


@functools.lru_cache(maxsize=len(LANGUAGES))
def catalogue(language: str) -> Mapping[str, str]:
    """English phrase -> translation of help, errors and hints; {} for a language there is none of."""
    return _entries(f"{language}.po") if language in LANGUAGES else {}


@functools.lru_cache(maxsize=len(LANGUAGES))
def answers(language: str) -> Mapping[str, str]:
    """The same of what verbs answer for people, and of reports."""
    return _entries(f"{language}.answers.po") if language in LANGUAGES else {}


def _entries(name: str) -> Mapping[str, str]:
    data = pkgutil.get_data("osremed.verbs", f"locale/{name}")
    assert data is not None
    return {_plain(phrase): _plain(text) for phrase, text in _ENTRY.findall(data.decode("utf-8"))}


def _plain(quoted: str) -> str:
    return quoted.replace('\\"', '"').replace("\\\\", "\\")
