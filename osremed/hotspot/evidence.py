"""What a runbook gets of a moment: the windows before, during and after it, a diff, and the traps in it."""

from __future__ import annotations

from typing import Any

from osremed.core.errors import BadInput
from osremed.hotspot.detect import findings_document, judge
from osremed.hotspot.diff import compare
from osremed.hotspot.model import Profile
from osremed.hotspot.report import diff_document, profile_document
from osremed.hotspot.verbs import read_profiles

_BEFORE_WINDOWS = 6  #: the window before is this much longer: it says what is usual


def evidence_around(moment_ns: int, window_s: int) -> dict[str, Any]:
    """Documents of `window_s` around the moment, of the time before it (six times as long) and behind it, and the diff
    of before and during. What cannot be compared is Missing in it, with the reason. NotFound without a ring."""
    half_ns, length_ns = window_s * 500_000_000, window_s * 10**9
    start_ns, end_ns = moment_ns - half_ns, moment_ns + half_ns
    spans = [
        (start_ns - _BEFORE_WINDOWS * length_ns, start_ns),
        (start_ns, end_ns),
        (end_ns, end_ns + length_ns),
    ]
    before, during, after = read_profiles(spans)
    found = judge(during)
    during = during.with_gaps(found.gaps)
    return {
        "moment_ns": moment_ns,
        "before": profile_document(before),
        "during": {**profile_document(during), "findings": findings_document(found.traps, during)["findings"]},
        "after": profile_document(after),
        "diff": _diff(before, during),
    }


def _diff(before: Profile, during: Profile) -> dict[str, Any]:
    try:
        return diff_document(compare(before, during))
    except BadInput as error:
        return {"missing": "no_data", "source": "hotspot diff", "detail": error.what, "functions": []}
