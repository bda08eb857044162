"""GPU time by the code that asked for it, as a page: Python over operator over launch over kernel, width = GPU time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.flamepage import buttons, page, safe
from osremed.core.language import filled
from osremed.core.shown import printable
from osremed.timeline.blame import Blame, flame
from osremed.timeline.trace import KERNEL, KIND_NAMES, PYTHON, Trace

#: What the page colours alike.
_COLOURS = {KIND_NAMES[PYTHON]: "python", KIND_NAMES[KERNEL]: "kernel"}


def flame_page(traces: Sequence[Trace]) -> str:
    """A view for each trace, and its gaps as warnings."""
    frames: dict[tuple[str, str], int] = {}
    views, lines = [], []
    for number, trace in enumerate(traces):
        tree = flame(Blame(trace))
        rank = trace.rank if trace.rank >= 0 else number
        views.append(_view(f"rank {rank}", tree, frames))
        spent = (str(rank), f"{tree['value'] / 1e9:.6f}", os.path.basename(trace.path))
        lines.append(filled("rank {1}: {2} s of GPU time, {3}", *spent))
        lines += [f"! {gap}" for gap in trace.gaps]
        unlinked = sum(each["value"] for each in tree["children"] if each["kind"] == KIND_NAMES[KERNEL])
        if unlinked:
            alone = filled(
                "rank {1}: {2} s of it has no launch in this trace: it stands alone", str(rank), f"{unlinked / 1e9:.6f}"
            )
            lines.append(f"! {alone}")
    document = {"unit": "ms", "frames": [{"kind": kind, "text": text} for kind, text in frames], "views": views}
    choices = buttons("view", [(str(at), safe(view["name"])) for at, view in enumerate(views)])
    return page(filled("GPU time"), lines, choices, document, "")


def _view(name: str, tree: Mapping[str, Any], frames: dict[tuple[str, str], int]) -> dict[str, Any]:
    depths, numbers, weights = [], [], []
    stack = [(0, tree)]
    while stack:
        depth, node = stack.pop()
        depths.append(depth)
        key = (_COLOURS.get(node["kind"], "native"), printable(node["name"]))
        numbers.append(frames.setdefault(key, len(frames)))
        weights.append(node["value"] / 1e6)
        stack.extend((depth + 1, child) for child in reversed(node["children"]))
    return {"name": name, "depth": depths, "frame": numbers, "weight": weights}
