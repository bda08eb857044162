"""A trace of the job when an alert is raised, while what it tells of still lasts: one at a time, in a process of its
own, no more often than the policy allows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, missing_from_oserror
from osremed.sensors.nvml import Snapshot
from osremed.timeline.incidents import Report
from osremed.timeline.jobtrace import Kept, only_one, take
from osremed.timeline.probing import Probe, Serve, tell
from osremed.timeline.rules import holders

#: Alerts of a job that runs but badly: its trace says where the time went.
TRACED = ("gpu.slow_rank", "gpu.throttle", "gpu.pcie_width", "gpu.pcie_replay", "gpu.nvlink", "gpu.vram_growth")
_WITHIN_S = 20.0
_OVERDUE_S = 3 * _WITHIN_S
OVERDUE = Missing(Reason.TIMED_OUT, "kineto", f"no answer in {_OVERDUE_S:g} s")
_ENDED = Missing(Reason.NO_DATA, "kineto", "the process that asked ended without an answer")


class Traces:
    """`last` is what became of the latest one: {alert, pid, path, at_ns}, or a Missing with its alert."""

    def __init__(self, directory: str) -> None:
        self.last: dict[str, Any] = {}
        self._directory = directory
        self._alert = ""
        self._taken_ns = self._began_ns = -(1 << 62)

    def wanted(
        self, reports: Iterable[Report], snapshots: Mapping[int, Snapshot], every_s: float, now_ns: int
    ) -> Probe | None:
        """A probe that takes a trace for one of the reports, to be asked at once. None while one is under way, when the
        last one is less than `every_s` old, or with `every_s` 0."""
        raised = [each for each in reports if each.name in TRACED and each.attributes.get("state") == "raised"]
        if not raised or self._alert or not every_s or now_ns - self._taken_ns < every_s * 1e9:
            return None
        pids = asked(raised[0].attributes, snapshots)
        if not pids:
            return None
        self._alert, self._began_ns = raised[0].name, now_ns
        return Probe(_serve(pids, self._directory))

    def done(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """`last`. A job that wrote nothing has had its turn too; where no job lets itself be asked the next alert may
        try."""
        self.last = {"alert": self._alert, **(_ENDED.as_json() if "ended" in answer else answer)}
        self._alert = ""
        if answer.get("missing") != Reason.UNSUPPORTED.value:
            self._taken_ns = self._began_ns
        return self.last

    def overdue(self, now_ns: int) -> bool:
        return bool(self._alert) and now_ns - self._began_ns > _OVERDUE_S * 1e9

    def document(self) -> dict[str, Any]:
        return {"under_way": self._alert, "last": self.last}


def asked(facts: Mapping[str, Any], snapshots: Mapping[int, Snapshot]) -> list[int]:
    """Whom to ask for an alert, in order: who is named, then the holders of its GPU, then of all GPUs."""
    own = snapshots.get(facts.get("gpu", -1))
    named = [facts["pid"]] if facts.get("pid") else []
    everybody = [*([own] if own else []), *(snapshots[index] for index in sorted(snapshots))]
    held = [each["pid"] for snapshot in everybody for each in holders(snapshot)]
    return list(dict.fromkeys([*named, *facts.get("others", ()), *held]))


def _serve(pids: Sequence[int], directory: str) -> Serve:
    def serve(request: int, answer: int) -> None:
        if not os.read(request, 1):
            return
        found: Reading[Kept]
        try:
            with only_one(directory):
                found = take(pids, _WITHIN_S, directory)
        except BlockingIOError:
            found = Missing(Reason.NO_DATA, directory, "another trace is under way")
        except OSError as error:
            found = missing_from_oserror(error, directory)
        if isinstance(found, Missing):
            tell(answer, found.as_json())
            return
        tell(answer, {"pid": found.value.pid, "path": found.value.path, "at_ns": found.value.at_ns})

    return serve
