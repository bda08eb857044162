"""Seconds that were worse than the minute before: the event `latency.jitter` with the second and the suspects; and
answers of services that took longer than they usually do. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from osremed.core.reading import Missing
from osremed.hotspot.model import Second
from osremed.hotspot.probes import TIMEOUT_S, Answer, Probe

_HISTORY_S = 60
_LEARN_S = 15
_QUIET_AFTER_S = 60
_LEAST_ANSWER_S = 0.02  #: nobody is woken for less, however quick the service usually is
_TIMES_USUAL = 4.0


class _Sign(NamedTuple):
    """A figure of a second; `least` is what it must reach for each CPU (or at all), `times` how many times the median
    of the minute before."""

    name: str
    least: float
    times: float
    per_cpu: bool
    words: str


_SIGNS = (
    _Sign("run_delay_s", 0.2, 4.0, True, "threads waited for a CPU"),
    _Sign("cpu_stall_s", 0.5, 4.0, False, "CPU pressure"),
    _Sign("io_stall_s", 0.4, 4.0, False, "I/O pressure"),
    _Sign("memory_stall_s", 0.1, 4.0, False, "memory pressure"),
    _Sign("reclaim_stalls", 20, 4.0, False, "direct reclaim"),
    _Sign("major_faults", 200, 4.0, False, "major page faults"),
    _Sign("throttled_s", 0.1, 4.0, False, "control groups throttled"),
)


class JitterDetector:
    """Fed a second at a time. Needs 15 s to learn; tells one event a minute at most."""

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus
        self._history: dict[str, deque[float]] = {sign.name: deque(maxlen=_HISTORY_S) for sign in _SIGNS}
        self._last_told_ns = 0

    def second(self, second: Second) -> dict[str, Any] | None:
        """Attributes of the event, the worst sign first; None when the second was as usual. What is Missing is neither
        good nor bad: it is not judged and not learnt."""
        found: list[dict[str, Any]] = []
        for sign in _SIGNS:
            reading = getattr(second, sign.name)
            if isinstance(reading, Missing):
                continue
            value, history = float(reading.value), self._history[sign.name]
            usual = _median(history)
            least = sign.least * (self._cpus if sign.per_cpu else 1)
            if len(history) >= _LEARN_S and value >= least and value > sign.times * usual:
                found.append({"sign": sign.name, "value": round(value, 4), "usual": round(usual, 4),
                              "words": sign.words})  # fmt: skip
            history.append(value)
        if not found or _just_told(self._last_told_ns, second.at_ns):
            return None
        self._last_told_ns = second.at_ns
        found.sort(key=lambda row: -row["value"] / max(row["usual"], 1e-3))
        return {"second_ns": second.at_ns, "source": "host", "signs": found, "worst": found[0]["sign"]}


class AnswerJitter:
    """Fed with the answers to probes. Tells one event a minute for each service at most."""

    def __init__(self) -> None:
        self._history: dict[str, deque[float]] = {}
        self._told_ns: dict[str, int] = {}
        self._errors: dict[str, str] = {}

    def answer(self, answer: Answer, probe: Probe) -> dict[str, Any] | None:
        """Attributes of the event, None for an answer as usual. Who refuses at once is not slow: that is an outage, and
        somebody else's to tell."""
        history = self._history.setdefault(answer.name, deque(maxlen=_HISTORY_S))
        usual, took = _median(history), answer.took_s
        self._errors[answer.name] = answer.error
        if answer.error and took < TIMEOUT_S:
            return None
        learnt = len(history) >= _LEARN_S
        history.append(took)
        slow = (
            took >= probe.slow_ms / 1e3
            if probe.slow_ms
            else learnt and took > max(_TIMES_USUAL * usual, _LEAST_ANSWER_S)
        )
        if not slow or _just_told(self._told_ns.get(answer.name, 0), answer.at_ns):
            return None
        self._told_ns[answer.name] = answer.at_ns
        row = {
            "sign": answer.name,
            "value": round(took, 4),
            "usual": round(usual, 4),
            "words": "a service answered late",
        }
        return {"second_ns": answer.at_ns + round(took * 5e8), "source": "probe", "signs": [row], "worst": answer.name}

    def document(self) -> dict[str, Any]:
        """Median of the last minute of answers, by service, and why the last question had none ("": it had one)."""
        return {
            name: {"usual_s": round(_median(each), 6), "answers": len(each), "error": self._errors[name]}
            for name, each in self._history.items()
        }


def _just_told(told_ns: int, now_ns: int) -> bool:
    """A clock that was set back does not silence the hours until it has caught up."""
    return abs(now_ns - told_ns) < _QUIET_AFTER_S * 10**9


def _median(values: deque[float]) -> float:
    """0 of nothing. (The statistics package is a megabyte in a recorder's memory.)"""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if not ordered:
        return 0.0
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
