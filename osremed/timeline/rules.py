"""Figures of one GPU over time -> conditions. Pure: a rule sees a History and says what holds, or that it cannot tell.

A condition that cannot be judged (the figures it needs are Missing) neither raises nor clears an alert."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Union

from osremed.core.reading import Missing, Reading, Value
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.sensors.nvml import GPU_LOST, Snapshot
from osremed.timeline.catalogue import recovery_action
from osremed.timeline.growth import growth
from osremed.timeline.settings import MOST_LOOKS, Settings

_THROTTLES = {0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}
#: Gbit/s of a lane by PCIe generation.
_LANE_GBPS = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0, 7: 128.0}
_CRC_PER_S = 100.0
_SPIN_POWER_SHARE = 0.5


class History:
    """Snapshots of one GPU, oldest first, no older than the longest window. `baseline` is the first of this boot
    and driver; `before`, if there is one, what an earlier watch saw last."""

    def __init__(self, keep_s: float, baseline: Snapshot | None = None, before: Snapshot | None = None) -> None:
        self.keep_s = keep_s
        self.samples: deque[tuple[float, Snapshot]] = deque(maxlen=MOST_LOOKS)
        self.baseline, self._before = baseline, before
        self._columns: dict[str, list[tuple[float, int]]] = {}  #: of metrics that were asked for

    def add(self, at_s: float, snapshot: Snapshot) -> None:
        self.samples.append((at_s, snapshot))
        while self.samples and at_s - self.samples[0][0] > self.keep_s:
            self.samples.popleft()
        for metric, column in self._columns.items():
            reading = snapshot.metrics[metric]
            if isinstance(reading, Value):
                column.append((at_s, reading.value))
            del column[: bisect_left(column, (self.samples[0][0],))]
        if self.baseline is None:
            self.baseline = snapshot

    def now(self, metric: str) -> Reading[int]:
        return self.samples[-1][1].metrics[metric]

    def series(self, metric: str, window_s: float = math.inf) -> list[tuple[float, int]]:
        """The values that were read, of the last `window_s`."""
        column = self._columns.get(metric)
        if column is None:
            readings = ((at_s, snapshot.metrics[metric]) for at_s, snapshot in self.samples)
            column = [(at_s, reading.value) for at_s, reading in readings if isinstance(reading, Value)]
            self._columns[metric] = column
        return column[bisect_left(column, (self.samples[-1][0] - window_s,)) :]

    def covers(self, window_s: float) -> bool:
        """Whether the samples reach back as far as the window, the time from one to the next left out: of looks
        every 0.2005 s eight lie in 1.6 s, and 1.4035 s between them."""
        span_s, count = self.samples[-1][0] - self.samples[0][0], len(self.samples)
        return span_s + (span_s / (count - 1) if count > 2 else 0.0) >= window_s * 0.9

    def grown(self, metric: str, window_s: float) -> int | None:
        """How much a counter grew, also while no watch ran just before; None when it is not known now. A counter that
        fell was reset: its value counts."""
        points = self.series(metric, window_s)
        if not points or isinstance(self.now(metric), Missing):
            return None
        first, last = points[0][1], points[-1][1]
        if self._before is not None and not self.covers(window_s):
            then = self._before.metrics.get(metric)
            first = then.value if isinstance(then, Value) else first
        return last - first if last >= first else last


@record
class Holds:
    """`facts` go into the event; `why` is for people. When `what` changes, an alert that is active is told again."""

    why: str
    facts: Mapping[str, Any]
    what: str = ""


Judgement = Union[Holds, bool, None]  #: False: does not hold; None: cannot be told
Rule = Callable[[History, Settings], Judgement]


def _value(history: History, metric: str) -> int | None:
    reading = history.now(metric)
    return reading.value if isinstance(reading, Value) else None


def lost(history: History, _settings: Settings) -> Judgement:
    metrics = history.samples[-1][1].metrics.values()
    gone = [each for each in metrics if isinstance(each, Missing) and each.detail.startswith(GPU_LOST)]
    return Holds("the driver says that the GPU is lost", {"nvml": gone[0].detail}) if gone else False


def recovery(history: History, _settings: Settings) -> Judgement:
    number = _value(history, "recovery_action")
    if not number:
        return None if number is None else False
    action = recovery_action(number)
    return asked_for(action)


def asked_for(action: str) -> Holds:
    """The driver's own verdict, from NVML or from an Xid 154."""
    return Holds(f"the driver asks for {action}", {"action": action, "action_source": "driver"}, action)


def vram_growth(history: History, settings: Settings) -> Judgement:
    points = history.series("vram_used_bytes", settings.growth_window_s)
    if len(points) < 6 or not history.covers(settings.growth_window_s):
        return None
    half = points[len(points) // 2 :]
    still = half[-1][1] > half[0][1]  # a server that warms up has stopped growing by then
    if points[-1][1] - points[0][1] < settings.growth_bytes or not still:
        return False
    found = growth(points)
    assert found is not None
    if found.rising < 0.6:
        return False
    total = _value(history, "vram_total_bytes")
    rate = found.slope_bytes_per_s
    full_s = (total - points[-1][1]) / rate if total and rate > 0 else None
    facts = {
        "grown_bytes": found.grown_bytes,
        "slope_bytes_per_s": round(rate, 1),
        "span_s": round(found.span_s, 1),
        "steps_bytes": list(found.steps),
        "signature": found.signature,
        "full_in_s": None if full_s is None else round(full_s),
        "holders": holders(history.samples[-1][1]),
    }
    return Holds(f"{format_bytes(found.grown_bytes)} more in {found.span_s:.0f} s; {found.signature}", facts)


def vram_expectation(history: History, settings: Settings) -> Judgement:
    used, total = _value(history, "vram_used_bytes"), _value(history, "vram_total_bytes")
    if not settings.vram_expected_ratio:
        return False
    if used is None or not total:
        return None
    if used <= settings.vram_expected_ratio * total:
        return False
    expected = round(settings.vram_expected_ratio * total)
    facts = {"used_bytes": used, "expected_bytes": expected, "holders": holders(history.samples[-1][1])}
    return Holds(f"{format_bytes(used - expected)} more than the server was configured to take", facts)


def temperature(history: History, settings: Settings) -> Judgement:
    margin = _value(history, "temperature_margin_celsius")
    if margin is None:
        return None
    if margin > settings.temperature_margin_celsius:
        return False
    return Holds(f"{margin} degrees below the slowdown", {"margin_celsius": margin})


def throttle(history: History, settings: Settings) -> Judgement:
    """A harmful clock reason in at least half of the samples of the window."""
    masks = [mask for _, mask in history.series("clock_reasons_mask", settings.window_s)]
    if len(masks) < 2:
        return None
    kinds = [word for bit, word in _THROTTLES.items() if sum(bool(mask & bit) for mask in masks) * 2 >= len(masks)]
    if not kinds:
        return False
    facts = {"reasons": kinds, "sm_clock_mhz": _value(history, "sm_clock_mhz")}
    return Holds(f"clocks held down: {', '.join(kinds)}", facts)


def ecc(history: History, settings: Settings) -> Judgement:
    grown = history.grown("ecc_uncorrected_count", settings.growth_window_s)
    if not grown:
        return None if grown is None else False
    return Holds(f"{grown} uncorrectable memory errors lately", {"uncorrected_count": grown})


def rows(history: History, settings: Settings) -> Judgement:
    pending, failed = _value(history, "remap_pending"), _value(history, "remap_failed")
    grown = history.grown("remapped_uncorrected_rows", settings.growth_window_s)
    if pending is None or failed is None or grown is None:
        return None
    if not pending and not failed and not grown:
        return False
    words = "row remapping failed" if failed else "row remapping waits for a reset" if pending else "rows were remapped"
    return Holds(words, {"pending": bool(pending), "failed": bool(failed), "uncorrected_rows": grown}, words)


def pcie_replay(history: History, settings: Settings) -> Judgement:
    """More replays a minute than the link's speed allows: lanes x Gbit/s / 1000 x 60, the limit DCGM uses."""
    points = history.series("pcie_replay_count", settings.window_s)
    lanes, generation = _value(history, "pcie_width"), _value(history, "pcie_generation")
    if len(points) < 2 or lanes is None or generation not in _LANE_GBPS:
        return None
    span_s = points[-1][0] - points[0][0]
    if span_s <= 0:
        return None
    per_minute = round((points[-1][1] - points[0][1]) / max(span_s, settings.window_s * 0.5) * 60, 1)
    limit = math.ceil(lanes * _LANE_GBPS[generation] / 1000 * 60)
    if per_minute <= limit:
        return False
    return Holds(
        f"{per_minute:.0f} PCIe replays a minute, {limit} are usual",
        {"replays_per_minute": per_minute, "limit_per_minute": limit},
    )


def pcie_width(history: History, _settings: Settings) -> Judgement:
    width, full = _value(history, "pcie_width"), _value(history, "pcie_width_max")
    if not width or not full:
        return None
    return Holds(f"PCIe x{width} of x{full}", {"width": width, "width_max": full}) if width < full else False


def nvlink(history: History, settings: Settings) -> Judgement:
    """A link fewer than at the baseline, an error that needed recovery, or more than 100 CRC errors a second."""
    assert history.baseline is not None
    before, now = history.baseline.metrics["nvlink_active_links"], _value(history, "nvlink_active_links")
    if isinstance(before, Missing) or now is None:
        return None
    crc = history.series("nvlink_crc_count", settings.window_s)
    span_s = crc[-1][0] - crc[0][0] if crc else 0.0
    crc_per_s = (crc[-1][1] - crc[0][1]) / span_s if span_s > 0 else 0.0
    recovered = history.grown("nvlink_recovery_count", settings.growth_window_s) or 0
    if now >= before.value and not recovered and crc_per_s < _CRC_PER_S:
        return False
    facts = {"links": now, "links_before": before.value, "recoveries": recovered, "crc_per_s": round(crc_per_s, 1)}
    return Holds(f"{now} of {before.value} links up, {recovered} recoveries, {crc_per_s:.0f} CRC errors/s", facts)


def stuck(history: History, settings: Settings) -> Judgement:
    """Somebody holds the GPU and it does no work: utilization 0, or 100 with an idle memory and little power (a kernel
    that spins, as NCCL's does while a peer does not come), without a break for the whole time."""
    used = [each for _, each in history.series("sm_util_percent", settings.stuck_s)]
    memory = [each for _, each in history.series("memory_util_percent", settings.stuck_s)]
    processes = history.samples[-1][1].processes
    if len(used) < 3 or not memory or isinstance(processes, Missing) or not history.covers(settings.stuck_s):
        return None
    if not processes.value:
        return False
    facts = {"sm_util_percent": used[-1], "holders": holders(history.samples[-1][1])}
    if max(used) == 0:
        return Holds(f"held and idle for {settings.stuck_s:.0f} s", {**facts, "kind": "idle"})
    limit = _value(history, "power_limit_milliwatts")
    power = [each for _, each in history.series("power_milliwatts", settings.stuck_s)]
    if min(used) < 99 or max(memory) > 1 or not limit or not power or max(power) > _SPIN_POWER_SHARE * limit:
        return False
    return Holds("busy without touching memory: most likely waiting in a collective", {**facts, "kind": "spinning"})


def holders(snapshot: Snapshot) -> list[dict[str, Any]]:
    if isinstance(snapshot.processes, Missing):
        return []
    return [
        {"pid": each.pid, "used_bytes": each.used_bytes.value if isinstance(each.used_bytes, Value) else None}
        for each in snapshot.processes.value[:64]
    ]


#: Event -> rule. Each raises once when it begins to hold and once, with `state: cleared`, when it no longer does.
RULES: Mapping[str, Rule] = {
    "gpu.lost": lost,
    "gpu.recovery_action": recovery,
    "gpu.vram_growth": vram_growth,
    "gpu.vram_expectation": vram_expectation,
    "gpu.temperature": temperature,
    "gpu.throttle": throttle,
    "gpu.ecc": ecc,
    "gpu.row_remap": rows,
    "gpu.pcie_replay": pcie_replay,
    "gpu.pcie_width": pcie_width,
    "gpu.nvlink": nvlink,
    "gpu.stuck": stuck,
}
