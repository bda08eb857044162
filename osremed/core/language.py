"""What is said to a person, in that person's language: English until a face has chosen a catalogue of translations.

Documents, journals, logs, codes and names never pass here: what a program reads is the same in every language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar

from osremed.core.record import record

_NONE: Mapping[str, str] = {}
_GAP = re.compile(r"\{([1-9])\}")


@record
class _Tongue:
    """`catalogue` as it is looked up; of its phrases with gaps the words around them, the most particular first.
    `answers` are looked up by their phrase alone: many are so short that any text would look like them."""

    catalogue: Mapping[str, str]
    answers: Mapping[str, str]
    gapped: tuple[tuple[str, tuple[str, ...]], ...]


_ENGLISH = _Tongue({}, {}, ())
_SPOKEN: ContextVar[_Tongue] = ContextVar("spoken")


def speak(catalogue: Mapping[str, str], answers: Mapping[str, str] = _NONE) -> None:
    """From now on, here and in what is called from here: English phrase -> translation. `{1}` in a phrase stands for
    whatever is said in its place; {} is English. `catalogue` is for `said`; both are for `filled`."""
    gapped = [(phrase, tuple(_GAP.split(phrase))) for phrase in catalogue if "{1}" in phrase]
    gapped.sort(key=lambda each: (-sum(map(len, each[1][::2])), each[0]))
    _SPOKEN.set(_Tongue(catalogue, answers, tuple(gapped)))


def said(text: str) -> str:
    """The text in the language that is spoken: a phrase of the catalogue, or one with its gaps filled in; what fills a
    gap is translated likewise. The text itself where there is none."""
    tongue = _SPOKEN.get(_ENGLISH)
    if text in tongue.catalogue:
        return tongue.catalogue[text]
    for phrase, parts in tongue.gapped:
        if not all(words in text for words in parts[::2]):  # cheaper than matching
            continue
        found = re.fullmatch(_pattern(parts), text, re.DOTALL)
        if found:
            return filled(phrase, *(said(found.group(f"g{at}")) for at in sorted(parts[1::2])))
    return text


def filled(phrase: str, *values: str) -> str:
    """The phrase in the language that is spoken, with `{1}` and so on filled in. What fills a gap stays as it is, and
    so does a phrase that no catalogue has."""
    tongue = _SPOKEN.get(_ENGLISH)
    text = tongue.answers.get(phrase) or tongue.catalogue.get(phrase, phrase)
    if not values:
        return text
    return _GAP.sub(lambda gap: values[int(gap.group(1)) - 1], text)


def _pattern(parts: tuple[str, ...]) -> str:
    return "".join(f"(?P<g{part}>.+?)" if at % 2 else re.escape(part) for at, part in enumerate(parts))
