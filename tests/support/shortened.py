"""Shipped runbooks, and the parts they use, with shorter times: proven within a third of a minute, with no rest between
two runs."""

from __future__ import annotations

import re
from pathlib import Path

RUNBOOKS = Path(__file__).resolve().parents[2] / "runbooks"
_RAISED = "event.state == 'raised'"
_SHORTER = {" within": "20s", " for": "5s", " cooldown": "1s", " min_interval_s": "5"}


def shortened(name: str, folder: Path, narrowed: str = "") -> str:
    """The path of the copy below `folder`. `narrowed`: what an event has to be besides."""
    text = _shorter(RUNBOOKS / name / "runbook.yaml")
    if narrowed:
        assert text.count(_RAISED) == 1
        text = text.replace(_RAISED, f"{_RAISED} and {narrowed}")
    path = folder / name / "runbook.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (folder / "parts").mkdir(exist_ok=True)
    for part in (RUNBOOKS / "parts").glob("*.yaml"):
        (folder / "parts" / part.name).write_text(_shorter(part))
    return str(path)


def _shorter(path: Path) -> str:
    text = path.read_text()
    for key, value in _SHORTER.items():
        text = re.sub(rf"{key}: \S+\n", f"{key}: {value}\n", text)
    return text
