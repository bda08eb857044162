"""How long the services of this host take to answer, as who asks feels it: a P99 over some seconds, and over what it
was before.

Those that the recorder's policy names as `probes` are asked, each 12.5 times a second and a new connection each time.
A request counts from when it was due, so that one that waits for those before it is not forgotten.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from osremed.core.errors import BadInput, NotFound
from osremed.core.paths import host_paths
from osremed.core.policyfile import beside_fastoom, read_policy
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.units import parse_duration_s
from osremed.hotspot.budget import NAME, parse_budget
from osremed.hotspot.probes import TIMEOUT_S, Probe, ask

_PER_S = 12.5
_WINDOW_S = 12.0  #: of the probe: 150 answers, of which the second slowest is the P99
_LONGEST_WINDOW_S = 60
_ASKERS = 8  #: requests of one service at once; a service that needs more has long lost
_GOLDEN = 0.618033988749895  #: spreads requests within their turn, so that they are not in step with the service


class Asking:
    """Asks one service until closed. `answers` are (when it came in monotonic seconds, how many seconds it took) of
    the last minute; one that fails, or for which nobody was free to ask, took the longest there is."""

    def __init__(self, service: Probe) -> None:
        self.answers: deque[tuple[float, float]] = deque(maxlen=round(_LONGEST_WINDOW_S * _PER_S))
        self.failed = 0
        self.began_s = time.monotonic()
        self._service, self._turn, self._lock, self._ended = service, 0, threading.Lock(), threading.Event()
        for _ in range(_ASKERS):
            threading.Thread(target=self._ask, daemon=True).start()

    def close(self) -> None:
        self._ended.set()

    def _ask(self) -> None:
        while True:
            with self._lock:
                turn, self._turn = self._turn, self._turn + 1
            due_s = self.began_s + (turn + turn * _GOLDEN % 1) / _PER_S
            early_s = due_s - time.monotonic()
            if self._ended.wait(max(0.0, early_s)):
                return
            late_s = max(0.0, -early_s)  # all askers were busy: it waits as others do, and gives up as they do
            asked = ask(self._service) if late_s < TIMEOUT_S else None
            failed = asked is None or asked.error != ""
            took_s = TIMEOUT_S if asked is None or failed else min(asked.took_s + late_s, TIMEOUT_S)
            with self._lock:
                self.failed += failed
                self.answers.append((time.monotonic(), took_s))

    def took_s(self, window_s: float) -> list[float]:
        """Of the answers of the last seconds."""
        since_s = time.monotonic() - window_s
        with self._lock:
            return [took_s for came_s, took_s in self.answers if came_s >= since_s]


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest rank. ValueError of nothing."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile of nothing")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def services() -> tuple[Probe, ...]:
    """Those that the policy of this host's recorder names. BadInput for a policy that is not sound."""
    path = beside_fastoom(host_paths(), NAME)
    return parse_budget(read_policy(path), path).probes if os.path.exists(path) else ()


def answers(*, window_s: int = 10) -> dict[str, Any]:
    """The collector: every service asked for so long, side by side."""
    if not 1 <= window_s <= _LONGEST_WINDOW_S:
        raise BadInput(f"a window of {window_s} s is out of range", hint=f"1 to {_LONGEST_WINDOW_S}")
    asked = [(service, Asking(service)) for service in services()]
    if asked:
        time.sleep(window_s)
    rows = [_row(service, asking, window_s) for service, asking in asked]
    return {"window_s": window_s, "services": rows}


def _row(service: Probe, asking: Asking, window_s: float) -> dict[str, Any]:
    asking.close()
    took_s: Sequence[float] = asking.took_s(window_s)
    told = {"service": service.name, "answers": len(took_s), "failed": asking.failed}
    if not took_s:
        return {**told, "p99_ms": Missing(Reason.TIMED_OUT, service.url, "no answer in the window").as_json()}
    shares = (("p50_ms", 0.5), ("p99_ms", 0.99), ("worst_ms", 1.0))
    return {**told, **{name: round(1000 * percentile(took_s, share), 3) for name, share in shares}}


def p99_ratio(*, service: str, of: str) -> Callable[[], Reading[float]]:
    """The P99 of the last eight seconds over `of`, a duration: what it was before."""
    before_s = parse_duration_s(of)
    if before_s <= 0:
        raise BadInput(f"of is {of!r}", hint="the P99 before, such as 35ms")
    named = services()
    found = next((each for each in named if each.name == service), None)
    if found is None:
        hint = (
            f"services: {', '.join(each.name for each in named) or 'none'}; the recorder's policy names them (probes)"
        )
        raise NotFound(f"no service {service!r}", hint=hint)
    asking = Asking(found)

    def ratio() -> Reading[float]:
        if time.monotonic() - asking.began_s < _WINDOW_S:
            return Missing(Reason.NO_DATA, found.url, f"asked for less than {_WINDOW_S:g} s")
        took_s = asking.took_s(_WINDOW_S)
        if not took_s:
            return Missing(Reason.TIMED_OUT, found.url, f"no answer within {_WINDOW_S:g} s")
        return Value(percentile(took_s, 0.99) / before_s)

    return ratio
