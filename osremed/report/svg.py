"""SVG by hand: a Drawing of escaped shapes, written out standalone (for an image) or inline (for a page).

Colours are classes: Okabe and Ito's set, told apart with every common colour blindness, and never the only carrier of a
meaning. A standalone drawing brings its own style and follows the reader's light or dark setting."""

from __future__ import annotations

import base64
import unicodedata
from html import escape

from osremed.core.record import record
from osremed.report.text import clean

STYLE = (
    ".o-bg{fill:#fff}.o-ink{fill:#1c2430}.o-dim{fill:#5b6675}.o-grid{stroke:#d9dee5}.o-limit{stroke:#1c2430;stroke-width:2}"
    ".o-track{fill:#eef1f5}.o-anon{fill:#0072b2}.o-file{fill:#e69f00}.o-shmem{fill:#cc79a7}.o-kernel{fill:#009e73}"
    ".o-unaccounted{fill:#d55e00}.o-other{fill:#56b4e9}.o-free{fill:#dfe4ea}.o-bad{stroke:#d55e00;stroke-width:2}"
    ".o-curve{stroke:#0072b2;stroke-width:2;fill:none}"
    ".o-text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}.o-strong{font-weight:600}"
    "@media (prefers-color-scheme:dark){.o-bg{fill:#161b22}.o-ink{fill:#e6ebf1}.o-dim{fill:#9aa7b5}"
    ".o-grid{stroke:#313a46}.o-limit{stroke:#e6ebf1}.o-track{fill:#222a34}.o-anon{fill:#3d9fdb}.o-free{fill:#323c48}.o-curve{stroke:#3d9fdb}"
    ".o-unaccounted{fill:#ef7d3a}.o-bad{stroke:#ef7d3a}}"
)
CHARACTER_PX = 6.5
ARTIFACT_PX, WIDE_PX, NARROW_PX = 720, 960, 310
PHONE_PX = 600  #: below, labels go above their bars
PAD = 12


@record
class Drawing:
    """`label` says in words what the drawing shows, for those who cannot see it. `body` is safe SVG."""

    width: int
    height: int
    label: str
    body: str


def standalone(drawing: Drawing) -> str:
    """A whole SVG document."""
    size = f'width="{drawing.width}" height="{drawing.height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {drawing.width} {drawing.height}" '
        f'role="img" aria-label="{safe(drawing.label)}"><style>{STYLE}</style>'
        f'<rect class="o-bg" width="100%" height="100%" rx="6"/>{drawing.body}</svg>'
    )


def inline(drawing: Drawing) -> str:
    """An element for a page that carries STYLE already; scales down with its column."""
    return (
        f'<svg viewBox="0 0 {drawing.width} {drawing.height}" width="{drawing.width}" height="{drawing.height}" '
        f'role="img" aria-label="{safe(drawing.label)}">{drawing.body}</svg>'
    )


def data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def safe(value: str) -> str:
    """Text for an SVG text node or attribute: nothing invisible, nothing active."""
    return escape(clean(value), quote=True)


def text(x: float, y: float, content: str, *, style: str = "o-ink", anchor: str = "start") -> str:
    return f'<text class="o-text {style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe(content)}</text>'


def rect(x: float, y: float, width: float, height: float, style: str, *, radius: float = 2, title: str = "") -> str:
    tip = f"<title>{safe(title)}</title>" if title else ""
    return (
        f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" '
        f'rx="{radius:g}">{tip}</rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{dash}/>'


def fit(content: str, width_px: float) -> str:
    """`content` cut so that it takes about `width_px` at 12 px; wide characters count double."""
    shown: list[str] = []
    used = 0.0
    for character in clean(content):
        used += CHARACTER_PX * (2 if unicodedata.east_asian_width(character) in "WF" else 1)
        if used > width_px:
            return "".join(shown[:-1]) + "…"
        shown.append(character)
    return "".join(shown)


def note(message: str, label: str, width: int) -> Drawing:
    """A drawing of one line of words, for what there is nothing to draw of."""
    return Drawing(width, 40, f"{label}: {message}", text(PAD, 24, fit(message, width - 2 * PAD), style="o-dim"))
