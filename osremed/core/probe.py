"""Probe + Tolerance -> Verdict. The same pure judgement runs on the host (to stop early) and on the controller."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import record
from osremed.core.units import parse_ratio

_EXPECT = re.compile(r"value\s*(>=|<=|==|!=|>|<)\s*([0-9]+(?:\.[0-9]+)?%?)")


class Verdict(str, Enum):
    HOLDS = "HOLDS"
    FAILS = "FAILS"
    UNKNOWN = "UNKNOWN"


@record
class Tolerance:
    """`value <op> bound`, to be met without a break for `hold_s`, beginning no later than `within_s` minus `hold_s`."""

    op: str
    bound: float
    within_s: float
    hold_s: float

    def accepts(self, value: float) -> bool:
        """False for a value that is not a number, whatever the comparison."""
        met = {
            ">": value > self.bound,
            ">=": value >= self.bound,
            "<": value < self.bound,
            "<=": value <= self.bound,
            "==": value == self.bound,
            "!=": value != self.bound,
        }
        return met[self.op] and not math.isnan(value)

    def __str__(self) -> str:
        return f"value {self.op} {self.bound:g} for {self.hold_s:g} s within {self.within_s:g} s"


@record
class ProbeSample:
    """One reading, `at_s` seconds after the probe began."""

    at_s: float
    reading: Reading[float]


def parse_tolerance(expect: str, *, within_s: float, hold_s: float) -> Tolerance:
    """`value > 0.10` or `value >= 10%`. BadInput for anything else, or when `hold_s` does not fit into `within_s`."""
    match = _EXPECT.fullmatch(expect.strip()) if isinstance(expect, str) else None
    if match is None:
        hint = "write one comparison with a number, such as: value > 0.10"
        raise BadInput(f"{expect!r} is not an expectation", hint=hint)
    if not 0 <= hold_s <= within_s:
        raise BadInput(f"`for` ({hold_s:g} s) is longer than `within` ({within_s:g} s)", hint="raise `within`")
    op, number = match.groups()
    bound = parse_ratio(number) if number.endswith("%") else float(number)
    return Tolerance(op, bound, within_s, hold_s)


def judge(samples: Sequence[ProbeSample], tolerance: Tolerance, *, ended: bool) -> Verdict | None:
    """HOLDS once the tolerance was met for `hold_s` without a break up to the latest sample, beginning no later than
    `within_s` minus `hold_s`; None while that may still happen. At the end: FAILS if the last reading was outside or
    did not hold long enough, UNKNOWN if there is no reading at all or the last ones are Missing: what cannot be seen
    is not fine."""
    held_since: float | None = None
    for sample in samples:
        inside = isinstance(sample.reading, Value) and tolerance.accepts(sample.reading.value)
        if not inside:
            held_since = None
        elif held_since is None:
            held_since = sample.at_s
    latest_start_s = tolerance.within_s - tolerance.hold_s
    if held_since is not None and held_since <= latest_start_s and samples[-1].at_s - held_since >= tolerance.hold_s:
        return Verdict.HOLDS
    if not ended:
        return None
    if not samples or isinstance(samples[-1].reading, Missing):
        return Verdict.UNKNOWN
    return Verdict.FAILS


def sample_as_json(sample: ProbeSample) -> dict[str, Any]:
    return {"at_s": round(sample.at_s, 4), "value": reading_as_json(sample.reading)}


def sample_from_json(document: Any) -> ProbeSample:
    """BadInput unless it is `{at_s, value}` with a number or a Missing object."""
    try:
        at_s, value = float(document["at_s"]), document["value"]
        if not math.isfinite(at_s):
            raise ValueError(f"at_s {at_s}")
        if isinstance(value, dict):
            missing = Missing(Reason(value["missing"]), str(value["source"]), str(value.get("detail", "")))
            return ProbeSample(at_s, missing)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"value {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"value {value!r}")
        return ProbeSample(at_s, Value(float(value)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"not a probe sample: {error!r}") from error
