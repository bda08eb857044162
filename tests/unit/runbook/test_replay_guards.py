"""Guards over past time say what they would have said then; a faster rule is seen in the decisions it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osremed.core.clock import FakeClock
from osremed.core.event import event_from_json
from osremed.core.evidence import Bundle, write_bundle
from osremed.runbook.catalog import load_entry
from osremed.runbook.model import RunState
from osremed.runbook.replay import kept_evidence, no_evidence, replay_events
from osremed.runbook.replayguards import Course
from osremed.runbook.store import RunStore, run_id_for
from osremed.runbook.triggers import Trigger
from tests.support.cost import cpu_s

SECOND = 10**9
BEGINS = "a run begins; would ask a person"
BEGIN = 1_800_000_000 * SECOND


@pytest.fixture(scope="module")
def entry():
    return load_entry("runbooks/near-oom/runbook.yaml")


def event(number, at_s, host="web-1"):
    attributes = {"level": "high", "sensitivity": "low", "scope": "node", "available_ratio": 0.05}
    document = {"id": f"e{number}", "name": "memory.near_oom", "host": host, "attributes": attributes}
    return event_from_json({**document, "time_ns": BEGIN + round(at_s * SECOND)})


def with_guards(entry, **changed):
    guards = entry.runbook.guards.model_copy(update=changed)
    return replace(entry, runbook=entry.runbook.model_copy(update={"guards": guards}))


def replayed(events, entry, old=None, courses=None):
    return replay_events(
        events, {"near-oom": old} if old else {}, {"near-oom": entry}, no_evidence, courses=courses or {}
    )


def answers(result):
    return [each.new for each in sorted(result.differences, key=lambda each: int(each.event_id[1:]))]


def test_a_second_event_is_refused_until_run_and_cooldown_are_over(entry):
    entry = with_guards(entry, cooldown=600.0)
    found = answers(replayed([event(1, 0), event(2, 30), event(3, 300), event(4, 661)], entry))
    assert found == [BEGINS, "refused by target-busy", "refused by cooldown", BEGINS]


def test_the_time_of_the_event_counts_and_not_its_place_in_the_log(entry):
    entry = with_guards(entry, cooldown=600.0)
    events = [event(1, 0), event(2, 661)]
    assert answers(replayed(reversed(events), entry)) == answers(replayed(events, entry)) == [BEGINS] * 2


def test_what_a_run_took_and_how_it_ended_is_what_was_recorded(entry):
    entry = with_guards(entry, cooldown=1.0, failures=entry.runbook.guards.failures.model_copy(update={"max": 1}))
    events = [event(1, 0), event(2, 120)]
    long = {run_id_for(events[0], "near-oom"): Course(300.0)}
    assert answers(replayed(events, entry, courses=long))[1] == "refused by target-busy"
    undone = {run_id_for(events[0], "near-oom"): Course(10.0, RunState.UNDONE)}
    assert answers(replayed(events, entry, courses=undone))[1] == "refused by backoff"
    assert answers(replayed(events, entry))[1] == BEGINS


def test_a_storm_over_many_hosts_is_broken_and_the_refusals_are_counted(entry):
    entry = with_guards(entry, storm=entry.runbook.guards.storm.model_copy(update={"max_runs": 3}))
    entry = with_guards(entry, concurrency=entry.runbook.guards.concurrency.model_copy(update={"fleet": 100}))
    entry = with_guards(entry, blast_radius=None)
    result = replayed([event(number, number, f"web-{number}") for number in range(10)], entry)
    assert answers(result).count(BEGINS) == 3
    assert result.refusals == {"storm": 7}
    assert result.refused == "storm 7"


def test_a_shorter_cooldown_is_a_difference_in_what_would_have_been_done(entry):
    old, new = with_guards(entry, cooldown=3600.0), with_guards(entry, cooldown=60.0)
    result = replayed([event(1, 0), event(2, 600)], new, old=old)
    assert [(each.event_id, each.old, each.new) for each in result.differences] == [
        ("e2", "refused by cooldown", BEGINS)
    ]


def test_rules_against_themselves_differ_in_nothing_and_their_guards_say_what_they_say_alone(entry):
    events = [event(number, 30 * number, f"web-{number % 3}") for number in range(12)]
    alone, same = replayed(events, entry), replayed(events, entry, old=entry)
    assert same.differences == ()
    assert (same.decisions, same.refusals) == (alone.decisions, alone.refusals)
    assert same.refusals


def test_a_changed_runbook_shows_in_what_an_unchanged_one_may_do_on_the_same_host(entry):
    """Only near-oom changed, yet what it no longer does lets the other act: guards look at the host, not at a rule."""
    renamed = entry.runbook.model_copy(update={"metadata": entry.runbook.metadata.model_copy(update={"name": "other"})})
    never = [Trigger.model_validate({"event": "memory.near_oom", "where": "event.level == 'never'"})]
    silent = replace(entry, runbook=entry.runbook.model_copy(update={"on": never}))
    other = replace(entry, runbook=renamed)
    old, new = {"near-oom": entry, "other": other}, {"near-oom": silent, "other": other}
    result = replay_events([event(1, 0)], old, new, no_evidence, courses={})
    assert [(each.runbook, each.old, each.new) for each in result.differences] == [
        ("near-oom", BEGINS, "no run"),
        ("other", "refused by target-busy", BEGINS),
    ]


def test_the_evidence_of_an_event_is_found_whichever_runbook_had_its_run(entry, tmp_path):
    store, clock = RunStore(str(tmp_path)), FakeClock()
    renamed = entry.runbook.model_copy(update={"metadata": entry.runbook.metadata.model_copy(update={"name": "other"})})
    for number, one in ((1, entry), (2, replace(entry, runbook=renamed))):
        opened = store.create(event(number, 0), one, clock)
        write_bundle(opened.directory.bundle, Bundle("web-1", BEGIN, {"fastoom": {"number": number}}, {}))
        opened.close()
    find = kept_evidence(store)
    assert [find(event(number, 0)).items["fastoom"] for number in (1, 2)] == [{"number": 1}, {"number": 2}]
    assert find(event(3, 0)) is None
    assert find(event(1, 0, host="web-2")) is None


def test_without_the_course_of_things_guards_are_not_asked(entry):
    result = replay_events([event(1, 0), event(2, 1)], {}, {"near-oom": entry}, no_evidence)
    assert answers(result) == [BEGINS] * 2


def test_a_storm_of_events_is_replayed_in_a_time_that_grows_with_its_length_alone(entry):
    def cost_s(count):
        events = [event(number, number * 0.05, f"web-{number % 500}") for number in range(count)]
        return cpu_s(lambda: replayed(events, entry))

    cost_s(200)
    small, large = cost_s(1_000), cost_s(4_000)
    assert large < 12 * max(small, 0.02), f"{small:.2f} s for 1,000, {large:.2f} s for 4,000"


def test_a_replay_hears_windows_at_the_time_of_their_events_and_shows_what_they_change(entry):
    """Three within five minutes instead of each begin one run; and one that waits begins it late."""

    def on(**trigger):
        wanted = [Trigger.model_validate({"event": "memory.near_oom", **trigger})]
        return replace(entry, runbook=entry.runbook.model_copy(update={"on": wanted}))

    events = [event(1, 0), event(2, 100), event(3, 200), event(4, 2000)]
    three = on(throttle={"accumulate_within": "5m", "threshold": 3})
    result = replay_events(events, {"near-oom": on()}, {"near-oom": three}, no_evidence)
    assert [(each.event_id, each.new) for each in result.differences] == [
        ("e1", "no run"),
        ("e2", "no run"),
        ("e4", "no run"),
    ]
    late = on(throttle={"once_after": "60s"})
    result = replay_events(events[:2], {}, {"near-oom": late}, no_evidence)
    assert [(each.event_id, each.new) for each in result.differences] == [("e1", BEGINS)]
