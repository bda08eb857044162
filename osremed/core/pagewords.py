"""Words of pages that Python only passes on: a script or a template marks its phrases, and they are put in here in the
language that is spoken. In English the marked source is what it would be without marks."""

from __future__ import annotations

import html
import json
import re

from osremed.core.language import filled

#: `_("phrase")` where a script wants a string, `{_("phrase")}` where markup or an attribute wants text. A word that is
#: another elsewhere says which it is, `_("of" /* element */)`, and is in the catalogue as `of (element)`.
_IN_SCRIPT = re.compile(r'\b_\("([^"\\]+)"(?: /\* ([a-z]+) \*/)?\)')
_IN_MARKUP = re.compile(r'\{_\("([^"\\]+)"\)\}')


def script_words(source: str) -> str:
    """The script with a literal for each marked phrase, in which nothing can end the element."""
    return _IN_SCRIPT.sub(lambda found: _literal(_told(found.group(1), found.group(2))), source)


def markup_words(source: str) -> str:
    return _IN_MARKUP.sub(lambda found: html.escape(filled(found.group(1))), source)


def _told(phrase: str, which: str | None) -> str:
    particular = f"{phrase} ({which})"
    told = filled(particular)
    return filled(phrase) if told == particular else told


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("<", "\\u003c")
