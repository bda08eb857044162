"""Stack trees -> one HTML page that needs nothing else: no request, no library. Names of frames are hostile text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.clock import rfc3339
from osremed.core.flamepage import buttons, page, safe
from osremed.core.reading import Missing
from osremed.core.shown import printable
from osremed.hotspot.diff import Diff, Path, weighted
from osremed.hotspot.model import Frame, Profile, frame_text, of_state
from osremed.hotspot.render import change_words
from osremed.hotspot.tree import ROOT, Node, build, functions

_ROWS = 30
_STATES = (("cpu", "on CPU"), ("off", "off CPU"), ("both", "both"))


def flame_page(profile: Profile, state: str = "both") -> str:
    """The flame graph of a profile; `state` is what is shown first, buttons show the others."""
    table = _FrameTable()
    states = [(name, title) for name, title in _STATES if any(of_state(profile, name))]
    states.sort(key=lambda each: each[0] != state)
    views = [table.view(title, build(of_state(profile, name))) for name, title in states]
    lines = [*_facts(profile), *(f"! {gap}" for gap in profile.gaps)]
    choices = buttons("view", [(str(at), title) for at, (_name, title) in enumerate(states)])
    title = f"Hotspot of {profile.host or 'an import'}"
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
        f"before: {_window(before)}, {diff.samples[0]} samples, {diff.cores[0]:.2f} cores",
        f"after: {_window(after)}, {diff.samples[1]} samples, {diff.cores[1]:.2f} cores",
        diff.test,
        *(f"! {warning}" for warning in diff.warnings),
    ]
    choices = buttons("width", [("union", "union"), ("before", "before"), ("after", "after")])
    return page(
        f"Hotspot diff of {after.host or 'imports'} ({diff.state})",
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
        return "imported, no times"
    return f"{rfc3339(profile.start_ns)}, {profile.duration_s:.1f} s of {profile.host or '?'}"


def _facts(profile: Profile) -> Iterable[str]:
    mode = profile.mode
    yield _window(profile)
    yield f"{len(profile.samples)} samples, clock {mode.clock}, {mode.hz or '?'} Hz, {mode.cpus or '?'} CPUs"
    if not isinstance(profile.cost, Missing):
        yield f"the sensor used {100 * profile.cost.value.cores / max(mode.cpus, 1):.2f} % of the machine"
    if profile.lost:
        yield f"! {profile.lost} records were lost"


def _function_table(profile: Profile, state: str) -> str:
    rows = functions(of_state(profile, state))[:_ROWS]
    cells = "".join(f"<tr><td>{row.own_s:.3f}<td>{row.total_s:.3f}<td>{safe(frame_text(row.frame))}" for row in rows)
    head = "<tr><th>own s<th>total s<th>function"
    return f"<h2>Functions, {safe(dict(_STATES)[state])}</h2><div class=table><table>{head}{cells}</table></div>"


def _change_table(diff: Diff) -> str:
    rows = [change for change in diff.functions if change.significant][:_ROWS]
    rest = [change for change in diff.functions if not change.significant][: _ROWS - len(rows)]
    cells = "".join(
        f"<tr{'' if change.significant else ' class=quiet'}><td>{100 * change.before.share:.2f} %"
        f"<td>{100 * change.after.share:.2f} %<td>{100 * change.effect:+.2f}<td>{change.p_value:.1e}"
        f"<td>{safe(change_words(change))}"
        for change in [*rows, *rest]
    )
    head = "<tr><th>before<th>after<th>points<th>p<th>function"
    said = f"{len(rows)} changes are significant; the others are grey." if rows else "No change is significant."
    return f"<h2>Changes</h2><p>{said}</p><div class=table><table>{head}{cells}</table></div>"
