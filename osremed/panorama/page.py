"""The document of a panorama as one HTML file that needs nothing else: no network, no other file, no library.

Names of processes and files are hostile: the document lies in the page as JSON in which no character can end its
element, the page's script makes text nodes of it, and the content policy admits that one script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import pkgutil
from collections.abc import Mapping
from typing import Any

from osremed.core.pagewords import markup_words, script_words

_ESCAPED = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def page(document: Mapping[str, Any]) -> str:
    """UTF-8 text, the page's own words in the language that is spoken. Lone surrogates, which no encoder accepts, are
    escaped like any character outside ASCII."""
    style, script = _asset("page.css"), script_words(_asset("page.js"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(document, separators=(",", ":")).translate(_ESCAPED)
    text = markup_words(_asset("page.html"))
    for name, content in (("policy", policy), ("style", style), ("script", script), ("data", data)):
        before, _, after = text.partition("{{" + name + "}}")
        text = before + content + after
    return text


def _asset(name: str) -> str:
    data = pkgutil.get_data("osremed.panorama", name)
    assert data is not None, f"{name} is not in this package"
    return data.decode("utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
