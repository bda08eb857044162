"""The reader's language: English, or a catalogue of translations beside this file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping

from babel import negotiate_locale
from babel.messages.pofile import read_po

from osremed.verbs.catalogue import answers

_FOLDER = os.path.join(os.path.dirname(__file__), "locale")
LANGUAGES = {"en": "English", "zh_CN": "简体中文", "zh_TW": "繁體中文"}


def choose(asked: str | None, headers: Mapping[str, str]) -> str:
    """What was asked for, else what the browser likes best of what there is, else English."""
    if asked in LANGUAGES:
        return asked
    liked = [part.partition(";")[0].strip().replace("-", "_") for part in headers.get("accept-language", "").split(",")]
    aliases = {"zh": "zh_CN", "zh_hans": "zh_CN", "zh_hant": "zh_TW", "zh_hk": "zh_TW", "zh_sg": "zh_CN"}
    wanted = [aliases.get(each.lower(), each) for each in liked if each]
    return negotiate_locale(wanted, list(LANGUAGES)) or "en"


@functools.lru_cache(maxsize=8)
def _catalogue(language: str) -> Mapping[str, str]:
    path = os.path.join(_FOLDER, f"{language}.po")
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as file:
        return {str(entry.id): str(entry.string) for entry in read_po(file) if entry.id and entry.string}


def words_of(language: str) -> Callable[[str], str]:
    """The translation of an English phrase, of the pages or of verbs; the phrase itself where there is none."""
    words = {**answers(language), **_catalogue(language)}
    return lambda phrase: words.get(phrase, phrase)
