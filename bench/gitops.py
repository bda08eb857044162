#!/usr/bin/env python3
"""CPU time of the reconciler with many signed rules: the first look, one at nothing new, one at one changed rule.
The goal for 500 rules is 10 s for the first. CPU time of this process and of git, ssh-keygen and the gate it starts.

    bench/gitops.py [rules] [rounds]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
GOAL_S = 10.0


def cpu_of(look: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process and its children, and what it gave."""
    before, own = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
    found = look()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.process_time() - own + children, found


def one_round(rules: int, folder: Path) -> tuple[float, float, float]:
    """Seconds of CPU of the three looks."""
    from osremed.gitops.scaffold import SCAFFOLD  # noqa: PLC0415
    from tests.unit.gitops.conftest import Author, Control, Repository  # noqa: PLC0415

    alice = Author(folder, "alice")
    signers = folder / "signers"
    signers.write_text(alice.allowed)
    repository = Repository(folder / "rules")
    files = {path: text for path, text in SCAFFOLD.items() if path.startswith("runbooks/near-oom/")}
    for number in range(rules):
        for path, text in files.items():
            named = text.replace("name: near-oom\n", f"name: rule-{number}\n", 1)
            repository.write(path.replace("near-oom", f"rule-{number}"), named)
    repository.commit("Many", alice)
    control = Control(folder, f"file://{repository.directory}", signers)
    first, status = cpu_of(control.look)
    assert (status.reason, status.detail["runbooks"]) == ("Applied", rules), status.message
    same, status = cpu_of(control.look)
    assert status.reason == "Applied", status.message
    repository.edit("runbooks/rule-0/runbook.yaml", "cooldown: 10m", "cooldown: 20m")
    repository.commit("One", alice)
    changed, status = cpu_of(control.look)
    assert [each["rule"] for each in status.detail["changes"]] == ["runbooks/rule-0"], status.message
    return first, same, changed


def main() -> int:
    rules = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    sys.path.insert(0, str(ROOT))
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(one_round(rules, Path(folder)))
    print(f"{rules} signed rules, one case each; CPU seconds of {rounds} rounds (goal of the first look: {GOAL_S:g})")
    medians = []
    for name, values in zip(("all of them new", "nothing new", "one rule changed"), zip(*found)):
        medians.append(median(values))
        tell(f"CPU of a look at {rules} signed rules, {name}", "s", {"osremed": values}, {"": GOAL_S})
        print(f"  {name:<18} median {medians[-1]:6.2f}   {' '.join(f'{value:.2f}' for value in sorted(values))}")
    return 0 if medians[0] <= GOAL_S else 1


if __name__ == "__main__":
    sys.exit(main())
