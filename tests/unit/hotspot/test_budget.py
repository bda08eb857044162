"""A policy of the recorder sets what it names and leaves the rest as the command line has it."""

from __future__ import annotations

import json

import pytest

from osremed.core.errors import BadInput
from osremed.hotspot.budget import Budget, parse_budget


def parse(**keys):
    document = {"apiVersion": "osremed/v1", "kind": "HotspotPolicy", **keys}
    return parse_budget(json.dumps(document).encode(), "hotspot.json", Budget(0.02, 1 << 25, 120.0))


def test_only_what_the_policy_names_is_other_than_before():
    assert parse() == Budget(0.02, 1 << 25, 120.0)
    assert parse(ceiling_percent=0.5, keep_s=3600) == Budget(0.005, 1 << 25, 3600.0)
    assert parse(ring_bytes=1 << 30) == Budget(0.02, 1 << 30, 120.0)


@pytest.mark.parametrize(
    "keys",
    [
        {"ceiling": 1},
        {"ceiling_percent": 0},
        {"ceiling_percent": 51},
        {"ceiling_percent": True},
        {"ceiling_percent": "1%"},
        {"ring_bytes": 1 << 10},
        {"ring_bytes": 2.5e6 + 0.5},
        {"keep_s": 1},
        {"keep_s": None},
        {"kind": "TimelinePolicy"},
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(keys):
    with pytest.raises(BadInput, match=next(iter(keys))):
        parse(**keys)
