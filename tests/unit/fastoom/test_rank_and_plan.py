"""Who dies: the order is a law, protection is hard, and the batch is the shortest that covers the need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason
from osremed.fastoom.plan import MAX_BATCH, make_plan, why_left
from osremed.fastoom.rank import Bounds, rank
from tests.unit.fastoom.conftest import MIB, policy, process

RULES = policy(protect=[{"name": "safe*"}], prefer=[{"name": "log*"}], avoid=[{"name": "db*"}])


def bounds(*pids: int, own: frozenset[int] = frozenset({2}), dying=frozenset()) -> Bounds:
    return Bounds(frozenset(pids), own, frozenset(dying))


def order(*processes, rules=RULES, **more) -> list[int]:
    limits = bounds(*(one.pid for one in processes), **more)
    return [one.process.pid for one in rank(processes, rules, limits).candidates]


def test_kernel_policy_then_preferred_then_heap_then_avoided() -> None:
    assert order(
        process(10, 500),
        process(11, 900, name="db"),
        process(12, 5, name="logcollect"),
        process(13, 2, adj=900),
        process(14, 3, adj=999),
        process(15, 600, adj=899),
    ) == [14, 13, 12, 15, 10, 11]


def test_avoid_wins_over_prefer_and_over_the_kernel_policy() -> None:
    rules = policy(prefer=[{"name": "*"}], avoid=[{"name": "db"}])
    assert order(process(10, 1, name="x"), process(11, 9, name="db", adj=999), rules=rules) == [10, 11]


def test_equal_heaps_take_the_younger_first() -> None:
    assert order(process(10, start=5), process(11, start=9), process(12, start=5)) == [11, 12, 10]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (process(1), "pid 1"),
        (process(2), "the guard"),
        (process(10, kernel_thread=True), "kernel thread"),
        (process(10, adj=-1000), "-1000"),
        (process(10, name="safe"), "protected by name"),
        (process(10, name="safe-log", adj=999), "protected by name"),
        (process(10, argv=Missing(Reason.DENIED, "/proc/10/cmdline")), "may be protected"),
    ],
)
def test_the_untouchable_are_spared_with_their_reason(one, why: str) -> None:
    ranking = rank([one], RULES, bounds(one.pid))
    assert ranking.candidates == ()
    assert why in ranking.spared[0].why


def test_an_unreadable_command_line_spares_only_while_a_rule_needs_it() -> None:
    unread = Missing(Reason.DENIED, "/proc/10/cmdline")
    assert order(process(10, argv=unread), rules=policy()) == [10]


def test_when_growth_is_the_need_only_those_who_grew_die_and_the_idle_heap_lives() -> None:
    idle, leak, helper = process(10, 600), process(11, 80), process(12, 30)
    before = {idle.identity: 595 * MIB, leak.identity: 20 * MIB, helper.identity: 25 * MIB}
    limits = Bounds(frozenset({10, 11, 12}), frozenset(), before=before)
    ranking = rank([idle, leak, helper], RULES, limits)
    assert [one.process.pid for one in ranking.candidates] == [11]
    assert {one.pid for one in ranking.spared if "grows" in one.why} == {10, 12}


def test_who_is_new_grew_by_all_it_holds() -> None:
    limits = Bounds(frozenset({10, 11}), frozenset(), before={(10, 100): 600 * MIB})
    assert [one.process.pid for one in rank([process(10, 600), process(11, 90)], RULES, limits).candidates] == [11]


def test_nobody_pays_for_the_growth_of_a_protected_process() -> None:
    limits = Bounds(frozenset({10, 11}), frozenset(), before={(10, 100): 10 * MIB, (11, 110): 100 * MIB})
    assert rank([process(10, 300, name="safe"), process(11, 140)], RULES, limits).candidates == ()


def test_the_preferred_may_die_for_the_growth_of_others() -> None:
    log = process(10, 50, name="logd")
    limits = Bounds(frozenset({10, 11}), frozenset(), before={log.identity: 50 * MIB})
    assert [one.process.pid for one in rank([log, process(11, 90)], RULES, limits).candidates] == [10, 11]


def test_outside_the_scope_and_already_dying_are_spared() -> None:
    inside, outside, dying = process(10), process(11), process(12)
    ranking = rank([inside, outside, dying], RULES, bounds(10, 12, dying={(12, dying.start_time_ticks)}))
    assert [one.process.pid for one in ranking.candidates] == [10]
    assert {one.pid: one.why for one in ranking.spared} == {
        11: "outside the scope",
        12: "signalled already, not gone yet",
    }


_PROCESSES = st.lists(
    st.builds(
        process,
        st.integers(1, 40),
        st.integers(0, 900),
        name=st.sampled_from(["safe1", "log1", "db1", "web", "x"]),
        argv=st.one_of(st.just(()), st.just(Missing(Reason.DENIED, "x"))),
        adj=st.sampled_from([-1000, 0, 500, 900, 999]),
        kernel_thread=st.booleans(),
    ),
    unique_by=lambda one: one.pid,
    max_size=20,
)


@given(_PROCESSES, st.frozensets(st.integers(1, 40)), st.frozensets(st.integers(1, 40)), st.integers(0, 3000))
def test_no_plan_ever_holds_what_must_not_die(processes, members, own, deficit_mib: int) -> None:
    ranking = rank(processes, RULES, Bounds(members, own))
    plan = make_plan(ranking, deficit_mib * MIB)
    for victim in plan.victims:
        one = victim.process
        assert one.pid != 1
        assert one.pid in members - own
        assert not one.kernel_thread
        assert one.oom_score_adj != -1000
        assert not one.name.startswith("safe")
        assert not isinstance(one.argv, Missing)
    assert len(ranking.candidates) + len(ranking.spared) == len(processes)


@given(_PROCESSES, st.integers(-5, 3000))
def test_a_plan_covers_the_deficit_from_the_head_or_says_that_it_does_not(processes, deficit_mib: int) -> None:
    ranking, need = rank(processes, RULES, bounds(*range(3, 50))), max(0, deficit_mib * MIB)
    plan = make_plan(ranking, deficit_mib * MIB)
    heaps = [one.process.heap_bytes for one in plan.victims]
    together = sum(one.process.heap_bytes for one in ranking.candidates)
    assert plan.expected_bytes == sum(heaps)
    assert plan.covers is (together >= need)
    if plan.covers:
        assert plan.victims == ranking.candidates[: len(heaps)], "someone was passed over"
        assert not heaps or sum(heaps[:-1]) < need, "one more than needed"
    else:
        assert all(heap * 400 >= need for heap in heaps), "a victim that holds next to nothing"
        assert not heaps or sum(heaps) * 10 >= need, "victims that cure nothing"


def test_a_hog_behind_more_small_ones_than_a_batch_holds_is_reached_batch_by_batch() -> None:
    small = [process(pid, 2, adj=1000) for pid in range(1000, 1000 + MAX_BATCH + 1)]
    everyone = [*small, process(10, 20_000)]
    seen = bounds(*(one.pid for one in everyone))
    first = make_plan(rank(everyone, RULES, seen), 2000 * MIB)
    assert len(first.victims) == MAX_BATCH, "the kernel's policy comes first"
    second = make_plan(rank(everyone[MAX_BATCH:], RULES, seen), 1600 * MIB)
    assert 10 in [one.process.pid for one in second.victims]


def test_when_the_memory_is_elsewhere_nobody_dies_for_it() -> None:
    processes = [process(10, 30), *(process(pid, 1) for pid in range(20, 70))]
    ranking = rank(processes, RULES, bounds(*(one.pid for one in processes)))
    plan = make_plan(ranking, 2000 * MIB)
    assert plan.victims == ()
    assert "would not help" in why_left(plan, ranking.candidates[0])


def test_a_hog_that_is_not_enough_dies_without_the_small_ones() -> None:
    processes = [process(10, 900), *(process(pid, 1) for pid in range(20, 70))]
    ranking = rank(processes, RULES, bounds(*(one.pid for one in processes)))
    plan = make_plan(ranking, 2000 * MIB)
    assert [one.process.pid for one in plan.victims] == [10]
    assert not plan.covers
    assert "next to nothing" in why_left(plan, ranking.candidates[1])


@given(_PROCESSES, st.randoms())
def test_the_order_does_not_depend_on_the_order_of_looking(processes, random) -> None:
    shuffled = list(processes)
    random.shuffle(shuffled)
    assert order(*processes) == order(*shuffled)


def test_a_batch_is_bounded_and_says_that_it_does_not_cover() -> None:
    processes = [process(pid, 1) for pid in range(10, 10 + MAX_BATCH + 50)]
    plan = make_plan(rank(processes, RULES, bounds(*(one.pid for one in processes))), 220 * MIB)
    assert len(plan.victims) == MAX_BATCH
    assert not plan.covers


def test_a_command_line_too_long_to_search_spares_only_where_a_rule_needs_it_and_stalls_nobody() -> None:
    long = process(10, 900, argv=("python ",) * 100_000)
    plain = process(11, 900, argv=("/usr/bin/hog",))
    rules = policy(protect=[{"cmdline": "python.*ota_gateway"}])
    ranking = rank([long, plain], rules, bounds(10, 11))
    assert [one.process.pid for one in ranking.candidates] == [11]
    assert "too long to search" in ranking.spared[0].why
    assert [one.process.pid for one in rank([long], policy(), bounds(10)).candidates] == [10]


def test_both_ends_of_a_long_command_line_are_searched() -> None:
    java = process(10, 900, argv=("java", "-cp", "x" * 50_000, "com.example.Gateway"))
    ranking = rank([java], policy(protect=[{"cmdline": "Gateway$"}]), bounds(10))
    assert "protected by" in ranking.spared[0].why


@pytest.mark.parametrize("adj", [-1000, -999, -900])
def test_who_the_owner_told_the_kernel_to_spare_is_spared(adj: int) -> None:
    ranking = rank([process(10, 900, adj=adj)], policy(), bounds(10))
    assert ranking.candidates == ()
    assert f"kernel policy: oom_score_adj {adj}" in ranking.spared[0].why
