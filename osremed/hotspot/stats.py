"""Is a difference of shares more than noise? Blocks of time carry the variance; the false-discovery rate is held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

FALSE_DISCOVERY = 0.01
LEAST_EFFECT = 0.005  #: half a percentage point: what is smaller is not worth a line, however sure
_BLOCKS_S = (1, 2, 4, 8)
_FEWEST_BLOCKS = 16
_CHANCE = 2.33  #: one-sided 99 % of a normal deviate, for the scatter of a variance


class Estimate(NamedTuple):
    """A share with its standard error; `freedom` 0 means that the error is binomial (no blocks of time)."""

    share: float
    error: float
    freedom: int


def estimate(hits: Sequence[float], totals: Sequence[float]) -> Estimate:
    """The share of `hits` in `totals`, block by block (one a second). The error is binomial unless blocks of 1, 2, 4 or
    8 s scatter more than chance lets them (one in a hundred): samples close in time are alike, and blocks tell it. Few
    blocks know their own scatter badly, so chance is given its room first, and Student's t pays for the rest."""
    total, hit = sum(totals), sum(hits)
    if total <= 0:
        return Estimate(0.0, 0.0, 0)
    share = hit / total
    # One more hit and one more miss: a function never seen is not known to be absent.
    smoothed = (hit + 1) / (total + 2)
    binomial = math.sqrt(smoothed * (1 - smoothed) / total)
    error, freedom = binomial, 0
    for width in _BLOCKS_S:
        blocks = _merge(hits, totals, width)
        if len(blocks) < _FEWEST_BLOCKS:
            break
        residuals = sum((block_hit - share * block_total) ** 2 for block_hit, block_total in blocks)
        found, spare = math.sqrt(residuals * len(blocks) / (len(blocks) - 1)) / total, len(blocks) - 1
        by_chance = binomial * math.sqrt(1 + _CHANCE * math.sqrt(2 / spare))
        if found > max(error, by_chance):
            error, freedom = found, spare
    return Estimate(share, error, freedom)


def _merge(hits: Sequence[float], totals: Sequence[float], width: int) -> list[tuple[float, float]]:
    """Blocks of `width` seconds in which there was anything."""
    return [
        (sum(hits[at : at + width]), block_total)
        for at in range(0, len(totals), width)
        if (block_total := sum(totals[at : at + width])) > 0
    ]


def p_value(before: Estimate, after: Estimate) -> float:
    """Two-sided, by Student's t with Welch's degrees of freedom where blocks gave the error; 1 if nothing is known."""
    variance = before.error**2 + after.error**2
    if variance <= 0:
        return 1.0
    t = abs(after.share - before.share) / math.sqrt(variance)
    denominators = [each.error**4 / each.freedom for each in (before, after) if each.freedom]
    if denominators:
        freedom = variance**2 / sum(denominators)
        # Abramowitz and Stegun 26.7.8: t with `freedom` degrees as a normal deviate.
        t *= (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom))
    return math.erfc(t / math.sqrt(2))


def discoveries(p_values: Sequence[float], rate: float = FALSE_DISCOVERY) -> list[bool]:
    """Benjamini and Hochberg: which hypotheses stand so that at most `rate` of them are false, on average."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    threshold = -1.0
    for rank, index in enumerate(order, start=1):
        if p_values[index] <= rate * rank / len(p_values):
            threshold = p_values[index]
    return [value <= threshold for value in p_values]
