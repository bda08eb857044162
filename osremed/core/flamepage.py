"""A stack tree as one HTML page that needs nothing else: no request, no library. Names of frames are hostile text."""

from __future__ import annotations

import html
import json
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.language import filled
from osremed.core.pagewords import script_words
from osremed.core.shown import printable


def page(title: str, lines: Iterable[str], choices: str, document: Mapping[str, Any], tail: str) -> str:
    """The whole page, in the language that is spoken. Of `lines`, those that begin with `! ` are warnings. `document`:
    unit, frames ({kind, text}), and views (name, and columns in pre-order: depth, frame, weight). `choices` and `tail`
    are HTML that is safe already."""
    # In a script element only `</` and `<!--` could end it: no `<` is left in the JSON.
    data = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    told = "".join(
        f"<p class=warn>{safe(line[2:])}</p>" if line.startswith("! ") else f"<p>{safe(line)}</p>" for line in lines
    )
    whole, search, theme = (safe(each) for each in (filled("whole"), filled("search frames"), filled("light or dark")))
    keys = safe(filled("Stack tree: arrow keys move, Enter zooms, Escape shows all"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html><html lang="{filled("en")}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{safe(title)}</title><style>{_asset('flame.css')}</style></head><body>"
        f"<h1>{safe(title)}</h1>{told}<nav>{choices}<button id=reset>{whole}</button>"
        f'<input id=search type=search placeholder="{search} ( / )" aria-label="{search}">'
        f"<span id=found role=status></span><button id=theme>{theme}</button></nav>"
        f'<canvas id=flame tabindex=0 role=img aria-label="{keys}">'
        "</canvas><p id=said aria-live=polite></p>"
        f'{tail}<script type="application/json" id="data">{data}</script>'
        f"<script>{script_words(_asset('flame.js'))}</script>"
        "</body></html>\n"
    )


def buttons(group: str, all_buttons: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<button data-{group}="{value}" aria-pressed="{"true" if at == 0 else "false"}">{title}</button>'
        for at, (value, title) in enumerate(all_buttons)
    )


def safe(text: str) -> str:
    return html.escape(printable(text))


def _asset(name: str) -> str:
    data = pkgutil.get_data("osremed.core", f"flame/{name}")
    assert data is not None
    return data.decode("utf-8")
