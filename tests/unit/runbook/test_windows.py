"""Which events together begin a run, and which do not; the same after a restart; never more memory than said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.event import Event
from osremed.runbook.lint import lint_text
from osremed.runbook.matcher import LATE_NS, Matcher
from osremed.runbook.text import parse_text
from osremed.runbook.triggers import Trigger
from tests.unit.runbook.conftest import BEGIN_NS, ROOT

SECOND = 10**9
SOURCE = (ROOT / "runbooks/near-oom/runbook.yaml").read_text()
TRIGGER = SOURCE[SOURCE.index("  - event: memory.near_oom") : SOURCE.index("\nguards:")]


def catalog_of(entry, *triggers):
    on = [Trigger.model_validate(trigger) for trigger in triggers]
    return {"near-oom": replace(entry, runbook=entry.runbook.model_copy(update={"on": on}))}


def event(number, at_s, name="a.b", host="web-1", **attributes):
    return Event(f"e{number}", name, host, BEGIN_NS + round(at_s * SECOND), attributes)


class Told:
    """A matcher, and (seconds, id of the event) of each run that would have begun."""

    def __init__(self, catalog, **options):
        self.matcher, self.begun = Matcher(catalog, **options), []

    def _note(self, found):
        for match in found:
            if match.event is not None:
                self.begun.append(((match.event.time_ns - BEGIN_NS) / SECOND, match.event.id))
        return found

    def hear(self, *events):
        answers = [match.why for each in events for match in self._note(self.matcher.hear(each))]
        return answers[-1] if answers else "nobody names it"

    def until(self, at_s):
        """Time goes by; what was late has come."""
        self._note(self.matcher.due(BEGIN_NS + round(at_s * SECOND) + LATE_NS))


@pytest.fixture
def told(entry):
    return lambda *triggers, **options: Told(catalog_of(entry, *triggers), **options)


def test_once_within_begins_one_run_and_counts_each_group_by_itself(told):
    seen = told({"event": "a.b", "throttle": {"once_within": "60s"}, "group_by": ["host", "gpu"]})
    why = seen.hear(event(1, 0, gpu=0), event(2, 59, gpu=0), event(3, 59, gpu=1), event(4, 59.5, gpu=0))
    assert "once within 60.00 s: e1 was the one" in why
    seen.hear(event(5, 60, gpu=0))
    assert seen.begun == [(0, "e1"), (59, "e3"), (60, "e5")]


def test_once_after_begins_one_run_for_all_that_came_and_tells_of_them(told):
    seen = told({"event": "a.b", "throttle": {"once_after": "60s"}})
    seen.hear(event(1, 0), event(2, 30))
    seen.until(59)
    assert seen.begun == []
    (match,) = seen.matcher.due(BEGIN_NS + 62 * SECOND)
    assert match.timed
    assert match.event.attributes["window"] == {
        "kind": "once_after",
        "count": 2,
        "since_ns": BEGIN_NS,
        "event_ids": ["e1", "e2"],
    }


def test_what_is_late_by_two_seconds_still_counts(told):
    seen = told({"event": "a.b", "not": [{"event": "c.d"}], "within": "60s"})
    seen.hear(event(1, 0))
    assert seen.matcher.due(BEGIN_NS + 61 * SECOND) == []
    seen.hear(event(2, 59, "c.d"))
    seen.until(100)
    assert seen.begun == []


def test_events_accumulate_within_a_window_that_slides_and_begin_anew_after_a_run(told):
    seen = told({"event": "a.b", "throttle": {"accumulate_within": "60s", "threshold": 3}})
    assert seen.hear(event(1, 0), event(2, 50)) == "2 of 3 within 60.00 s"
    assert seen.hear(event(3, 61)) == "2 of 3 within 60.00 s"
    seen.hear(event(4, 62), event(5, 63), event(6, 64))
    assert seen.begun == [(62, "e4")]


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(2, 5), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_accumulation_is_what_counting_every_window_by_hand_gives(entry, gaps, needed, span_s):
    trigger = {"event": "a.b", "throttle": {"accumulate_within": f"{span_s}s", "threshold": needed}}
    seen, at_s, kept, expected = Told(catalog_of(entry, trigger)), 0, [], []
    for number, gap in enumerate(gaps):
        at_s += gap
        kept = [*(each for each in kept if each > at_s - span_s), at_s]
        if len(kept) >= needed:
            expected.append((at_s, f"e{number}"))
            kept = []
        seen.hear(event(number, at_s))
    assert seen.begun == expected


def test_all_of_them_in_any_order_within_the_window_and_not_across_hosts(told):
    both = {"all": [{"event": "a.b", "where": "event.level == 'high'"}, {"event": "c.d"}], "within": "60s"}
    seen = told(both)
    seen.hear(event(1, 0, "c.d"), event(2, 10, level="low"), event(3, 20, level="high", host="web-2"))
    assert seen.begun == []
    seen.hear(event(4, 61, level="high"))
    assert seen.begun == []
    seen.hear(event(5, 70, "c.d"))
    assert seen.begun == [(70, "e5")]


def test_any_of_them_begins_a_run(told):
    seen = told({"any": [{"event": "a.b"}, {"event": "c.d"}]})
    seen.hear(event(1, 0), event(2, 1, "c.d"))
    assert seen.matcher.hear(event(3, 2, "e.f")) == []
    assert seen.begun == [(0, "e1"), (1, "e2")]


def test_not_begins_a_run_only_when_the_other_event_stayed_away(told):
    seen = told({"event": "a.b", "not": [{"event": "c.d", "where": "event.ok"}], "within": "60s"})
    seen.hear(event(1, 0), event(2, 30, "c.d", ok=False))
    seen.until(60)
    assert seen.begun == [(60, "e1")]
    assert "off" in seen.hear(event(3, 100), event(4, 130, "c.d", ok=True))
    seen.until(500)
    assert seen.begun == [(60, "e1")]


def test_a_host_that_goes_on_telling_is_enough_for_its_own_time(told):
    """Events that come after the window was over decide it before they count themselves."""
    seen = told({"event": "a.b", "not": [{"event": "c.d"}], "within": "60s"})
    seen.hear(event(1, 0), event(2, 61, "c.d"))
    assert seen.begun == [(60, "e1")]


LASTS = {"event": "m.level", "where": "event.used > 90", "for": "60s", "clear": "event.used < 80"}


def level(number, at_s, used):
    return event(number, at_s, "m.level", used=used)


def test_what_holds_for_long_enough_begins_one_run(told):
    seen = told(LASTS)
    seen.hear(level(1, 0, 95))
    seen.until(59)
    assert seen.begun == []
    seen.until(60)
    assert "has begun its run" in seen.hear(level(2, 70, 99))
    seen.until(500)
    assert seen.begun == [(60, "e1")]


def test_between_the_two_limits_nothing_changes(told):
    seen = told(LASTS)
    seen.hear(level(1, 0, 95), level(2, 30, 85))
    seen.until(60)
    assert len(seen.begun) == 1
    assert seen.hear(level(3, 70, 85), level(4, 80, 79)) == "cleared after 80.00 s"
    assert seen.hear(level(5, 90, 85)) == "`event.used > 90` is false"
    seen.until(500)
    assert len(seen.begun) == 1


def test_what_clears_before_its_time_begins_nothing_and_without_a_second_limit_the_first_one_clears(told):
    seen = told({**LASTS, "clear": None})
    assert seen.hear(level(1, 0, 95), level(2, 30, 85)) == "cleared after 30.00 s of 60.00 s"
    seen.until(500)
    assert seen.begun == []


def test_what_comes_back_soon_after_it_cleared_is_the_same(told):
    seen = told({**LASTS, "keep_firing_for": "5m"})
    seen.hear(level(1, 0, 95))
    seen.until(60)
    seen.hear(level(2, 100, 10), level(3, 200, 95), level(4, 300, 10))
    seen.until(450)
    seen.hear(level(5, 500, 95))
    seen.until(580)
    assert len(seen.begun) == 1
    seen.hear(level(6, 600, 10), level(7, 901, 95))
    seen.until(1000)
    assert [at_s for at_s, _ in seen.begun] == [60, 961]


def test_a_condition_without_a_value_neither_holds_nor_clears(told):
    seen = told({**LASTS, "clear": None})
    seen.hear(level(1, 0, 95))
    assert "has no value" in seen.hear(event(2, 30, "m.level"))
    seen.until(60)
    assert seen.begun == [(60, "e1")]


def test_an_event_without_what_it_is_grouped_by_does_not_count_and_says_so(told):
    seen = told({"event": "a.b", "throttle": {"once_within": "60s"}, "group_by": ["gpu.uuid"]})
    assert seen.hear(event(1, 0, gpu=3)) == "the event has no `gpu.uuid` to group by"
    assert seen.begun == []


def test_a_late_event_counts_as_of_the_latest_and_a_clock_that_jumped_back_begins_anew(told):
    seen = told({"event": "a.b", "throttle": {"accumulate_within": "60s", "threshold": 3}})
    assert seen.hear(event(1, 50), event(2, 40)) == "2 of 3 within 60.00 s"
    assert seen.hear(event(3, -3600)) == "1 of 3 within 60.00 s; the clock went back, so it begins anew"
    assert seen.begun == []
    seen.hear(event(4, 50, host="web-2"), event(5, 40, host="web-2"), event(6, 105, host="web-2"))
    assert seen.begun == [(105, "e6")]


def test_memory_is_bounded_and_who_is_forgotten_is_said(told):
    seen = told({"event": "a.b", "throttle": {"once_within": "1h"}}, max_groups=100)
    for number in range(100):
        assert "forgotten" not in seen.hear(event(number, 0, host=f"h{number}"))
    assert seen.hear(event(100, 1, host="new")).endswith("; 100 groups are kept: ('h0') was forgotten")
    assert seen.matcher.forgotten == 1
    seen.hear(event(101, 2, host="h0"))
    assert seen.begun[-1] == (2, "e101")


def test_waiting_times_that_changed_their_mind_take_no_memory(told):
    seen = told(LASTS)
    for number in range(0, 6000, 2):
        seen.hear(level(number, number / 100, 95), level(number + 1, (number + 1) / 100, 10))
    assert len(seen.matcher._due) < 1100


EVERY_KIND = (
    {"event": "a.b", "throttle": {"once_within": "10s"}},
    {"event": "a.b", "throttle": {"once_after": "10s"}},
    {"event": "a.b", "throttle": {"accumulate_within": "10s", "threshold": 3}},
    {"all": [{"event": "a.b"}, {"event": "c.d"}], "within": "10s"},
    {"all": [{"event": "a.b"}, {"event": "c.d"}], "not": [{"event": "m.level"}], "within": "10s"},
    {"event": "m.level", "where": "event.used > 90", "for": "10s", "keep_firing_for": "20s"},
)
STREAM = st.lists(
    st.tuples(st.sampled_from(["a.b", "c.d", "m.level"]), st.integers(0, 12), st.sampled_from([95, 10])), max_size=40
)


def events_of(drawn):
    at_s, events = 0, []
    for number, (name, gap_s, used) in enumerate(drawn):
        at_s += gap_s
        events.append(event(number, at_s, name, used=used, host=f"h{number % 2}"))
    return events


@given(STREAM, st.sampled_from(EVERY_KIND), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_a_restart_anywhere_changes_nothing(entry, drawn, trigger, cut):
    """What began before the restart does not begin again, and what was waited for still is."""
    events, catalog = events_of(drawn), catalog_of(entry, trigger)

    def walk(told, part):
        for each in part:
            told._note(told.matcher.due(each.time_ns))
            told.hear(each)

    whole, first, second = Told(catalog), Told(catalog), Told(catalog)
    walk(whole, events)
    walk(first, events[:cut])
    second.matcher.rebuild(events[:cut], {(number, "near-oom") for _, number in first.begun})
    walk(second, events[cut:])
    for told in (whole, second):
        told.until(10_000)
    assert first.begun + second.begun == whole.begun


def test_a_reload_keeps_what_triggers_remember_that_are_the_same(entry):
    throttle, other = {"event": "a.b", "throttle": {"once_within": "60s"}}, {"event": "x.y"}
    seen = Told(catalog_of(entry, throttle))
    seen.hear(event(1, 0))
    new = Told(catalog_of(entry, other, throttle))
    new.matcher.adopt(seen.matcher)
    assert "e1 was the one" in new.hear(event(2, 10))


@pytest.mark.parametrize(
    ("trigger", "what"),
    [
        ("{where: event.x}", "give one of `event`, `any`, `all`"),
        ("{event: a.b, any: [{event: a.b}, {event: c.d}]}", "give one of `event`, `any`, `all`"),
        ("{all: [{event: a.b}, {event: c.d}]}", "need `within`"),
        ("{event: a.b, within: 5m}", "`within` goes with"),
        ("{event: a.b, not: [{event: c.d}], within: 5m, throttle: {once_within: 5m}}", "`throttle` goes with"),
        ("{event: a.b, throttle: {once_within: 5m, once_after: 5m}}", "give one of once_within"),
        ("{event: a.b, throttle: {accumulate_within: 5m}}", "go together"),
        ("{event: a.b, throttle: {accumulate_within: 5m, threshold: 1}}", "greater than or equal to 2"),
        ("{event: a.b, for: 5m}", "`for` needs `where`"),
        ("{event: a.b, clear: event.x}", "go with `for`"),
        ("{event: a.b, where: evnt.x}", "undefined name 'evnt'"),
        ("{any: [{event: a.b}, {event: c.d, where: evnt.x}]}", "undefined name 'evnt'"),
        ("{event: a.b, where: event.x, for: 5m, clear: evnt.x}", "undefined name 'evnt'"),
        ("{event: a.b, not: [{event: c.d, where: 'event.x >'}], within: 5m}", "does not parse"),
        ("{event: a.b, throttle: {once_within: 0s}}", "holds nothing"),
        ("{event: a.b, group_by: ['{{ x }}']}", "match pattern"),
        ("{event: a.b, throtle: {once_within: 5m}}", "unknown key 'throtle'"),
    ],
)
def test_a_trigger_that_cannot_mean_anything_is_a_lint_error_with_its_place(trigger, what):
    text = SOURCE.replace(TRIGGER, f"  - {trigger}\n")
    book, errors = lint_text(parse_text(text.encode(), "rb.yaml"))
    assert book is None
    assert any(what in error.what for error in errors), errors
    assert all(error.where.startswith("rb.yaml:11:") for error in errors)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3))


@given(st.lists(st.tuples(st.sampled_from(["a.b", "c.d", "m.level"]), st.integers(-100, 100), JSON), max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_event_breaks_a_trigger(entry, drawn):
    seen = Told(catalog_of(entry, *EVERY_KIND))
    for number, (name, at_s, used) in enumerate(drawn):
        seen.matcher.hear(event(number, at_s, name, used=used))
    seen.until(10_000)
