"""The verdict of a soak says each thing that did not hold, and nothing when all did."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from tests.soak.verdict import Seen, Whole, violations


def process(pid, start=7):
    return {"pid": pid, "start_ticks": start, "rss_kib": 1000}


def journal(*ids, first_seq=0, damaged=()):
    rows = [{"id": each, "name": "gpu.xid", "attributes": {}} for each in ids]
    return {"rows": rows, "damaged": list(damaged), "first_seq": first_seq}


BEFORE = {"units": {"gateway": process(10), "osremed-agent": process(20)}, "oom_kills": 0}
AFTER = {
    "units": {"gateway": process(10), "osremed-agent": process(21, 90)}, "oom_kills": 0,
    "events": {"fastoom": journal("a", "b"), "timeline": journal("c")},
}  # fmt: skip
FINE = Whole(
    hosts=[Seen("vm0", BEFORE, AFTER, [(0.0, "osremed-agent", 20, 20000), (90.0, "osremed-agent", 20, 21000)])],
    taken=[("vm0", "a"), ("vm0", "b"), ("vm0", "c")],
    runs=[{"id": "1", "runbook": "near-oom", "state": "SUCCEEDED", "ended": True}],
    audit=(0, ""),
)


def changed(**after):
    seen = FINE.hosts[0]
    return replace(FINE, hosts=[replace(seen, after={**copy.deepcopy(AFTER), **after})])


def test_nothing_is_said_when_everything_held() -> None:
    assert violations(FINE) == []


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (replace(FINE, taken=[*FINE.taken, ("vm0", "a")]), "event a of vm0 was taken 2 times"),
        (replace(FINE, taken=FINE.taken[1:]), "event a of vm0 never reached the intake"),
        (replace(FINE, taken=[*FINE.taken, ("vm0", "z")]), "event z of vm0 is not on its disk"),
        (replace(FINE, runs=[{**FINE.runs[0], "state": "APPLYING", "ended": False}]), "run 1 (near-oom) is APPLYING"),
        (replace(FINE, audit=(2, "torn")), "osremed audit verify ended with 2: torn"),
        (replace(FINE, failed=[{"host": "vm0", "fault": "xid", "failed": "late"}]), "vm0: xid: late"),
        (changed(oom_kills=2), "vm0: the kernel's own OOM killer acted 2 times"),
        (changed(units={**AFTER["units"], "osremed-agent": None}), "vm0: osremed-agent does not run"),
        (changed(events={"timeline": journal("a", "b", "c", damaged=["1.jsonl:3: torn"])}), "timeline: 1.jsonl:3"),
        (changed(events={"timeline": journal("a", "b", "c", first_seq=4)}), "begins at 4"),
        (changed(events={"timeline": journal("a", "b", "c", "c")}), "event c is on the disk of vm0 2 times"),
    ],
)  # fmt: skip
def test_each_thing_that_did_not_hold_is_said_once(whole, said) -> None:
    found = violations(whole)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize("gateway", [None, process(11), process(10, start=8)])
def test_a_protected_process_that_is_not_the_same_is_said(gateway) -> None:
    found = violations(changed(units={**AFTER["units"], "gateway": gateway}))
    assert "the protected gateway was" in found[0]


def test_memory_that_grows_in_one_life_is_said_and_that_of_another_life_is_not() -> None:
    grows = [(0.0, "agent", 1, 10000), (60.0, "agent", 1, 12000), (600.0, "agent", 1, 20000)]
    anew = [(0.0, "agent", 1, 10000), (60.0, "agent", 1, 12000), (70.0, "agent", 2, 30000), (600.0, "agent", 2, 30000)]
    told = [violations(replace(FINE, hosts=[replace(FINE.hosts[0], memory=rows)])) for rows in (grows, anew)]
    assert told == [["vm0: agent (pid 1) grew from 11.7 to 19.5 MiB in 540 s"], []]
