"""A stack tree as one HTML page that needs nothing else: no request, no library. Names of frames are hostile text."""

from __future__ import annotations

import html
import json
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.shown import printable


def page(title: str, lines: Iterable[str], buttons: str, document: Mapping[str, Any], tail: str) -> str:
    """The whole page. Of `lines`, those that begin with `! ` are warnings. `document`: unit, frames ({kind, text}), and
    views (name, and columns in pre-order: depth, frame, weight). `tail` is HTML that is safe already."""
    # In a script element only `</` and `<!--` could end it: no `<` is left in the JSON.
    data = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    told = "".join(
        f"<p class=warn>{safe(line[2:])}</p>" if line.startswith("! ") else f"<p>{safe(line)}</p>" for line in lines
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{safe(title)}</title><style>{_asset('flame.css')}</style></head><body>"
        f"<h1>{safe(title)}</h1>{told}<nav>{buttons}<button id=reset>whole</button>"
        '<input id=search type=search placeholder="search frames ( / )" aria-label="search frames">'
        "<span id=found role=status></span><button id=theme>light or dark</button></nav>"
        '<canvas id=flame tabindex=0 role=img aria-label="Stack tree: arrow keys move, Enter zooms, Escape shows all">'
        "</canvas><p id=said aria-live=polite></p>"
        f'{tail}<script type="application/json" id="data">{data}</script><script>{_asset("flame.js")}</script>'
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
