"""Stack trees -> one HTML page that needs nothing else: no request, no library. Names of frames are hostile text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.clock import rfc3339
from osremed.core.flamepage import buttons, page, safe
from osremed.core.language import filled
from osremed.core.reading import Missing
from osremed.core.shown import printable
from osremed.hotspot.diff import Diff, Path, weighted
from osremed.hotspot.model import Frame, Profile, frame_text, of_state
from osremed.hotspot.render import change_words
from osremed.hotspot.tree import ROOT, Node, build, functions

_ROWS = 30
_STATES = (("cpu", "on CPU"), ("off", "off CPU"), ("both", "both"))
_WIDTHS = ("union", "before", "after")
_FUNCTIONS = ("own s", "total s", "function")
_CHANGES = ("before", "after", "points", "p", "function")


def flame_page(profile: Profile, state: str = "both") -> str:
    """The flame graph of a profile; `state` is what is shown first, buttons show the others."""
    table = _FrameTable()
    states = [(name, title) for name, title in _STATES if any(of_state(profile, name))]
    states.sort(key=lambda each: each[0] != state)
    views = [table.view(title, build(of_state(profile, name))) for name, title in states]
    lines = [*_facts(profile), *(f"! {gap}" for gap in profile.gaps)]
    choices = buttons("view", [(str(at), safe(filled(title))) for at, (_name, title) in enumerate(states)])
    title = filled("Hotspot of {1}", profile.host or filled("an import"))
    document = {"unit": "s", "frames": table.frames, "views": views or [table.view("empty", Node(ROOT))]}
    return page(title, lines, choices, document, _function_table(profile, states[0][0] if states else state))


def diff_page(before: Profile, after: Profile, diff: Diff) -> str:
    """Both trees laid over each other: grey unless significant, red more, blue less; new and vanished paths are drawn
    with an edge."""
    table = _FrameTable()
    trees = (build(weighted(before, diff.state)), build(weighted(after, diff.state)))
    verdicts = {change.path: (1 if change.effect > 0 else -1) if change.significant else 0 for change in diff.paths}
    view = table.union("diff", trees, verdicts)
    lines = [
        filled("before: {1}, {2} samples, {3} cores", _window(before), str(diff.samples[0]), f"{diff.cores[0]:.2f}"),
        filled("after: {1}, {2} samples, {3} cores", _window(after), str(diff.samples[1]), f"{diff.cores[1]:.2f}"),
        diff.test,
        *(f"! {warning}" for warning in diff.warnings),
    ]
    choices = buttons("width", [(name, safe(filled(name))) for name in _WIDTHS])
    return page(
        filled("Hotspot diff of {1} ({2})", after.host or filled("imports"), diff.state),
        lines,
        choices,
        {"unit": "s", "frames": table.frames, "views": [view]},
        _change_table(diff),
    )


class _FrameTable:
    """Frames by number: a name is written once however often it appears."""

    def __init__(self) -> None:
        self.frames: list[dict[str, str]] = []
        self._numbers: dict[Frame, int] = {}

    def _number(self, frame: Frame) -> int:
        if frame not in self._numbers:
            self._numbers[frame] = len(self.frames)
            self.frames.append({"kind": frame.kind, "text": printable(frame_text(frame))})
        return self._numbers[frame]

    def view(self, name: str, root: Node) -> dict[str, Any]:
        """The tree in pre-order, the heaviest child first."""
        depths, frames, weights = [], [], []
        stack = [(0, root)]
        while stack:
            depth, node = stack.pop()
            depths.append(depth)
            frames.append(self._number(node.frame))
            weights.append(round(node.weight, 6))
            stack.extend((depth + 1, child) for child in reversed(node.sorted_children()))
        return {"name": name, "depth": depths, "frame": frames, "weight": weights}

    def union(self, name: str, trees: tuple[Node, Node], verdicts: Mapping[Path, int]) -> dict[str, Any]:
        """Both trees in one: `before` and `weight` (after) of each node, and its verdict."""
        columns: dict[str, list[Any]] = {"depth": [], "frame": [], "before": [], "weight": [], "verdict": []}
        stack: list[tuple[Path, Node | None, Node | None]] = [((), trees[0], trees[1])]
        while stack:
            path, one, two = stack.pop()
            frame = path[-1] if path else ROOT
            columns["depth"].append(len(path))
            columns["frame"].append(self._number(frame))
            columns["before"].append(round(one.weight, 6) if one else 0)
            columns["weight"].append(round(two.weight, 6) if two else 0)
            columns["verdict"].append(verdicts.get(path, 0))
            below = (one.children if one else {}, two.children if two else {})
            order = sorted({*below[0], *below[1]}, key=lambda each: (_heaviest(each, below), each), reverse=True)
            stack.extend((((*path, each)), below[0].get(each), below[1].get(each)) for each in order[::-1])
        return {"name": name, **columns}


def _heaviest(frame: Frame, below: Sequence[Mapping[Frame, Node]]) -> float:
    return max(children[frame].weight if frame in children else 0.0 for children in below)


def _window(profile: Profile) -> str:
    if not profile.start_ns:
        return filled("imported, no times")
    return filled("{1}, {2} s of {3}", rfc3339(profile.start_ns), f"{profile.duration_s:.1f}", profile.host or "?")


def _facts(profile: Profile) -> Iterable[str]:
    mode = profile.mode
    yield _window(profile)
    taken = (str(len(profile.samples)), str(mode.clock), str(mode.hz or "?"), str(mode.cpus or "?"))
    yield filled("{1} samples, clock {2}, {3} Hz, {4} CPUs", *taken)
    if not isinstance(profile.cost, Missing):
        used = f"{100 * profile.cost.value.cores / max(mode.cpus, 1):.2f}"
        yield filled("the sensor used {1} % of the machine", used)
    if profile.lost:
        yield "! " + filled("{1} records were lost", str(profile.lost))


def _function_table(profile: Profile, state: str) -> str:
    rows = functions(of_state(profile, state))[:_ROWS]
    cells = "".join(f"<tr><td>{row.own_s:.3f}<td>{row.total_s:.3f}<td>{safe(frame_text(row.frame))}" for row in rows)
    title = filled("Functions, {1}", filled(dict(_STATES)[state]))
    return f"<h2>{safe(title)}</h2><div class=table><table>{_head(_FUNCTIONS)}{cells}</table></div>"


def _head(columns: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<th>{safe(filled(each))}" for each in columns)


def _change_table(diff: Diff) -> str:
    rows = [change for change in diff.functions if change.significant][:_ROWS]
    rest = [change for change in diff.functions if not change.significant][: _ROWS - len(rows)]
    cells = "".join(
        f"<tr{'' if change.significant else ' class=quiet'}><td>{100 * change.before.share:.2f} %"
        f"<td>{100 * change.after.share:.2f} %<td>{100 * change.effect:+.2f}<td>{change.p_value:.1e}"
        f"<td>{safe(change_words(change))}"
        for change in [*rows, *rest]
    )
    said = filled("No change is significant.")
    if rows:
        said = filled("{1} changes are significant; the others are grey.", str(len(rows)))
    table = f"<div class=table><table>{_head(_CHANGES)}{cells}</table></div>"
    return f"<h2>{safe(filled('Changes'))}</h2><p>{safe(said)}</p>{table}"
