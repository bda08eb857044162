"""GPU time by the code that asked for it, as a page: Python over operator over launch over kernel, width = GPU time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.flamepage import buttons, page
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
        lines.append(f"rank {rank}: {tree['value'] / 1e9:.6f} s of GPU time, {os.path.basename(trace.path)}")
        lines += [f"! {gap}" for gap in trace.gaps]
        unlinked = sum(each["value"] for each in tree["children"] if each["kind"] == KIND_NAMES[KERNEL])
        if unlinked:
            lines.append(f"! rank {rank}: {unlinked / 1e9:.6f} s of it has no launch in this trace: it stands alone")
    document = {"unit": "ms", "frames": [{"kind": kind, "text": text} for kind, text in frames], "views": views}
    choices = buttons("view", [(str(at), view["name"]) for at, view in enumerate(views)])
    return page("GPU time", lines, choices, document, "")


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
