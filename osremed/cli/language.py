"""Which language the command line speaks: as the environment says."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from osremed.core.language import speak
from osremed.verbs.catalogue import answers, catalogue

#: Beginnings of names of locales, the most particular first; "" for languages there are no catalogues of.
_NAMES = (
    *[(name, "zh_TW") for name in ("zh_tw", "zh_hk", "zh_mo", "zh_hant")],
    *[(name, "zh_CN") for name in ("zh", "chinese")],
)
SETTING = "OSREMED_LANG"


def _catalogue_for(name: str) -> str:
    name = name.lower().replace("-", "_")
    return next((found for begin, found in _NAMES if name == begin or name.startswith((f"{begin}_", f"{begin}."))), "")


def language_of(environment: Mapping[str, str]) -> str:
    """One of `verbs.catalogue`, or "" for English. OSREMED_LANG decides; else, as in gettext, the locale of messages
    (LC_ALL, LC_MESSAGES, LANG: the first that is set) and, unless that is C, the first language of LANGUAGE we have."""
    if environment.get(SETTING):
        return _catalogue_for(environment[SETTING])
    locale = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return ""
    for liked in filter(None, environment.get("LANGUAGE", "").split(":")):
        if liked.partition("_")[0] == "en":
            return ""
        if _catalogue_for(liked):
            return _catalogue_for(liked)
    return _catalogue_for(locale)


def _is_writable(language: str) -> bool:
    """Whether both streams can show it: a terminal of an old locale may not."""
    word = {"zh_CN": "运行", "zh_TW": "執行"}[language]
    for stream in (sys.stdout, sys.stderr):
        try:
            word.encode(getattr(stream, "encoding", None) or "ascii")
        except (LookupError, UnicodeEncodeError):
            return False
    return True


def speak_as_asked() -> None:
    """Speaks what the environment asks for, if the terminal can show it. Costs nothing in English."""
    language = language_of(os.environ)
    if language and _is_writable(language):
        speak(catalogue(language), answers(language))
    else:
        speak({})
