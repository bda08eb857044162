"""What a bench tells the scoreboard: for each figure every player's samples, one line of JSON in the file that
`bench/run` names. Run by hand, a bench tells nobody."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TOLD_TO = "OSREMED_BENCH_FIGURES"


def tell(what: str, unit: str, players: Mapping[str, Sequence[float]], goal: Mapping[str, float] | None = None) -> None:
    """`players`: osremed first, then its peers, all samples in `unit`. `goal`: peer -> the most that the median of
    osremed may be of that peer's; without a peer ("") the most it may be."""
    path = os.environ.get(TOLD_TO)
    if path:
        bench = Path(sys.argv[0]).stem
        line = {"bench": bench, "what": what, "unit": unit, "players": {}}
        line["players"] = {who: [float(f"{each:.4g}") for each in samples] for who, samples in players.items()}
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({**line, "goal": dict(goal or {})}) + "\n")
