"""Jobs of many ranks -> what is told of them: from flight-recorder dumps once, from calls of this host's processes as a
condition."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from osremed.core.reading import Missing
from osremed.timeline.callprobes import Sum
from osremed.timeline.callwatch import Calls
from osremed.timeline.incidents import Report
from osremed.timeline.jobcalls import Laggard, Standstill, Streaks, ranks, standstill
from osremed.timeline.rules import Holds, Judgement


def dump_reports(verdict: Mapping[str, Any]) -> list[Report]:
    """`verdict` as dumpwatch.judge makes it; no report where the dumps blame nobody."""
    if not verdict.get("ranks"):
        return []
    facts = {"state": "raised", "source": "dumps", **{key: verdict[key] for key in ("directory", "ranks", "gaps")}}
    hang, reports = verdict["hang"], []
    whys = [each["why"] for each in hang["suspects"]] or hang["entered_by_all"] or _waits_elsewhere(hang["waits"])
    if whys:
        reports.append(Report("gpu.hang", {**facts, **hang, "why": "; ".join(whys[:3])}))
    return reports + [Report("gpu.slow_rank", {**facts, **each}) for each in verdict["slow"]]


def _waits_elsewhere(waits: Mapping[str, list[int]]) -> list[str]:
    waiting = tuple(int(rank) for rank, others in waits.items() if others)
    if not waiting:
        return []
    return [f"rank {_some(waiting)} waits for ranks that left no dump here: ask with the dumps of all hosts"]


class Jobs:
    """The processes of this host that enter collectives, from look to look."""

    def __init__(self) -> None:
        self._streaks = Streaks()
        self._at_ns = time.monotonic_ns()
        self._sums: Mapping[tuple[int, str], Sum] | None = {}

    def look(self, calls: Calls | None, limit_s: float) -> dict[str, Judgement]:
        """gpu.slow_rank and gpu.hang of the host; None where nobody follows the calls, or not since the look before.
        `limit_s`: who waits so long hangs."""
        if calls is None or isinstance(calls.probes, Missing) or calls.step:
            self._sums = None
            return {"gpu.slow_rank": None, "gpu.hang": None}
        now_ns, sums = time.monotonic_ns(), calls.sums()
        (then_ns, before), (self._at_ns, self._sums) = (self._at_ns, self._sums), (now_ns, sums)
        if before is None:
            return {"gpu.slow_rank": None, "gpu.hang": None}
        slow = self._streaks.look(ranks(before, sums), (now_ns - then_ns) / 1e9)
        return {
            "gpu.slow_rank": _slow(max(slow, key=lambda each: each.share)) if slow else False,
            "gpu.hang": _hang(standstill(calls.flights(), sums, now_ns, limit_s)),
        }


def _slow(worst: Laggard) -> Holds:
    why = (
        f"process {worst.pid} waits {worst.waited_s:.2f} s where the others of its job wait "
        f"{worst.others_waited_s:.2f} s: they lose {100 * worst.share:.0f} % of their time to it"
    )
    facts = {"source": "calls", "pid": worst.pid, "others": list(worst.others), "p_value": worst.p_value,
             "looks": worst.looks, "step_share": round(worst.share, 4)}  # fmt: skip
    return Holds(why, facts)


def _hang(found: Standstill | None) -> Judgement:
    if found is None:
        return False
    why = f"process {_some(found.waiting)} has waited in {found.function} for {found.seconds:.0f} s"
    if found.behind:
        why += f"; process {_some(found.behind)} has entered fewer collectives: it stopped"
    facts = {"source": "calls", "waiting": list(found.waiting), "behind": list(found.behind),
             "function": found.function, "waited_s": round(found.seconds, 1)}  # fmt: skip
    return Holds(why, facts)


def _some(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(each) for each in numbers[:8])
