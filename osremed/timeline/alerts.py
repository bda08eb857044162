"""Conditions -> alerts: told once when they begin, again when they become something else, once when they end. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.timeline.incidents import Report
from osremed.timeline.rules import RULES, History, Holds, Judgement
from osremed.timeline.settings import Settings

_CLEAR_AFTER = 2  #: judgements in a row: a figure at its threshold must not ring every time


def subject_of(holds: Holds) -> str:
    """What people and probes call the subject of an active alert: `gpu3` by the number it had, or `host`."""
    number = holds.facts.get("gpu", -1)
    return f"gpu{number}" if number >= 0 else "host"


class Alerts:
    """`active` maps (event, subject) to what holds, as it was judged last. A GPU is a subject by its UUID: numbers
    move when a card leaves. Its facts say which number it had."""

    def __init__(self) -> None:
        self.active: dict[tuple[str, str], Holds] = {}
        self._quiet: dict[tuple[str, str], int] = {}

    def judge(self, name: str, subject: str, judgement: Judgement, facts: Mapping[str, Any]) -> list[Report]:
        """The report of a change; nothing while the condition stays as it is or cannot be told."""
        key = (name, subject)
        if judgement is None:
            return []
        if isinstance(judgement, Holds):
            self._quiet.pop(key, None)
            before = self.active.get(key)
            self.active[key] = Holds(judgement.why, {**facts, **judgement.facts}, judgement.what)
            if before is not None and before.what == judgement.what:
                return []
            return [Report(name, {"state": "raised", **self.active[key].facts, "why": judgement.why})]
        if key not in self.active:
            return []
        self._quiet[key] = self._quiet.get(key, 0) + 1
        if self._quiet[key] < _CLEAR_AFTER:
            return []
        del self._quiet[key]
        raised = self.active.pop(key)
        return [Report(name, {"state": "cleared", **facts, "why": raised.why})]

    def judge_all(self, subject: str, history: History, settings: Settings, facts: Mapping[str, Any]) -> list[Report]:
        reports: list[Report] = []
        for name, rule in RULES.items():
            reports += self.judge(name, subject, rule(history, settings), facts)
        return reports
