"""One step: act on need and only on need, once at a time, and never on what cannot be seen."""

from __future__ import annotations

from osremed.core.reading import Missing
from osremed.fastoom.guard import Storm, Watch, step
from osremed.fastoom.model import Level, Scope, Stall
from osremed.fastoom.plan import FLOOR_BYTES
from tests.unit.fastoom.conftest import MIB, policy, process

APP = Scope("/app")
POLICY = policy(protect=[{"name": "safe"}], overrides={"grace_s": 0})


class Run:
    """A watch and its world, stepped by the test."""

    def __init__(self, host, rules=POLICY, scopes=(APP,)) -> None:
        self.host, self.rules = host, rules
        storm = Storm()
        self.watches = [Watch(scope, storm) for scope in scopes]
        self.watch = self.watches[0]

    def step(self, share: float | None = None, watch: int = 0, **more):
        if share is not None:
            self.host.set_available(share)
        return step(self.watches[watch], self.watches, self.rules, self.host, **more)

    @property
    def victims(self) -> list[int]:
        return [pid for pid, _ in self.host.sent]


def test_above_enter_nothing_is_even_looked_at(world) -> None:
    run = Run(world(process(10, 300)))
    assert run.step(0.09) is None
    assert run.host.scans == []
    assert run.watch.level is Level.LOW


def test_at_enter_the_batch_is_signalled_and_recorded_when_it_is_gone(world) -> None:
    run = Run(world(process(10, 300), process(11, 5)))
    assert run.step(0.08) is None
    assert run.victims == [10]
    run.host.die(10)
    done = run.step()
    assert done.action == "killed"
    assert [(one.candidate.process.pid, one.freed) for one in done.killed] == [(10, True)]
    assert done.deficit_bytes == 60 * MIB
    assert done.available_after_bytes == 380 * MIB
    assert 0 < done.crossed_ns <= done.decided_ns <= done.signalled_ns <= done.freed_ns
    assert {one.pid: one.why for one in done.spared} == {11: "not needed: those before it cover the need"}
    assert run.host.closed == 1


def test_while_victims_die_nobody_else_is_chosen(world) -> None:
    run = Run(world(process(10, 300), process(11, 200)))
    run.step(0.08)
    for _ in range(5):
        assert run.step(0.02) is None
    assert run.victims == [10]


def test_a_victim_that_outlives_its_deadline_is_not_counted_on_any_more_and_the_next_one_dies(world) -> None:
    run = Run(world(process(10, 300), process(11, 200)))
    run.host.immortal = {10}
    run.step(0.08)
    run.host.advance(3)
    done = run.step()
    assert [one.freed for one in done.killed] == [False]
    assert done.freed_ns == 0
    run.step()
    assert run.victims == [10, 11]
    run.host.die(11)
    spared = {one.pid: one.why for one in run.step().spared}
    assert spared[10] == "signalled already, not gone yet"


def test_memory_that_came_back_after_planning_saves_the_victims(world) -> None:
    run = Run(world(process(10, 300)))
    run.host.before_aim = lambda: run.host.set_available(0.5)
    assert run.step(0.08) is None
    assert run.victims == []
    assert run.watch.flight is None
    assert run.host.closed == 1


def test_a_victim_whose_pid_changed_hands_is_not_signalled(world) -> None:
    run = Run(world(process(10, 300)))
    run.host.replaced = {10}
    assert run.step(0.08) is None
    assert run.victims == []


def test_a_victim_that_left_the_scope_meanwhile_is_not_signalled(world) -> None:
    run = Run(world(process(10, 300), process(11, 200)))
    listed = run.host.members
    calls = []

    def members(scope):
        calls.append(scope)
        run.host.outside = {10} if len(calls) > 1 else set()
        return listed(scope)

    run.host.members = members
    run.step(0.08)
    assert run.victims == []


def test_a_scope_that_cannot_be_measured_is_never_acted_on(world) -> None:
    run = Run(world(process(10, 300)))
    run.step(0.081)
    run.host.vanish()
    assert run.step() is None
    assert run.victims == []


def test_a_scope_that_vanishes_with_its_victims_is_recorded_with_the_gap(world) -> None:
    run = Run(world(process(10, 300)))
    run.step(0.08)
    run.host.die(10)
    run.host.vanish()
    done = run.step()
    assert done.action == "killed"
    assert isinstance(done.available_after_bytes, Missing)
    assert any("available after: gone" in gap for gap in done.missing)


def test_nothing_to_kill_is_told_once_an_episode_and_scanned_for_four_times_a_second(world) -> None:
    run = Run(world(process(10, 300, name="safe")))
    told = []
    for _ in range(100):
        told.append(run.step(0.05))
        run.host.advance(0.02)
    events = [one for one in told if one]
    assert [one.action for one in events] == ["nothing_to_kill"]
    assert "protected" in events[0].spared[0].why
    assert len(run.host.scans) <= 2 * (2 / 0.25 + 1)
    assert run.step(0.5).action == "recovered"
    assert run.step(0.05).action == "nothing_to_kill"


def test_recovery_is_told_once_only_above_leave_and_only_if_there_was_something_to_tell(world) -> None:
    run = Run(world(process(10, 20)))
    run.step(0.08)
    run.host.die(10)
    assert run.step().action == "killed"
    assert run.step(0.105) is None
    done = run.step(0.12)
    assert (done.action, done.level) == ("recovered", Level.LOW)
    assert run.step(0.12) is None


def test_a_short_dip_that_is_not_acted_on_leaves_no_event(world) -> None:
    run = Run(world(process(10, 300)))
    assert run.step(0.085) is None
    assert run.step(0.5) is None


def test_small_processes_are_taken_only_when_the_large_do_not_cover(world) -> None:
    crumbs = [process(pid, 0.5) for pid in range(20, 60)]
    run = Run(world(process(10, 300), *crumbs))
    run.step(0.08)
    assert run.victims == [10]
    run = Run(world(process(10, 55), *crumbs))
    run.step(0.08)
    assert run.host.scans == [FLOOR_BYTES, 1]
    assert run.victims[0] == 10
    assert len(run.victims) == 11


def test_high_pressure_leaves_no_time_for_a_grace(world) -> None:
    rules = policy(overrides={"grace_s": 5})
    run = Run(world(process(10, 300)), rules)
    run.step(0.08)
    assert run.host.sent == [(10, "TERM")]
    run = Run(world(process(10, 300)), rules)
    run.step(0.04)
    assert run.host.sent == [(10, "KILL")]


def test_victims_in_flight_for_one_scope_count_as_on_their_way_for_another(world) -> None:
    run = Run(world(process(10, 300), process(11, 200)), scopes=(APP, Scope()))
    run.step(0.08)
    assert run.step(watch=1) is None
    assert run.victims == [10]


def test_what_may_not_be_signalled_is_nothing_to_kill_with_the_reason(world) -> None:
    run = Run(world(process(10, 300)))
    run.host.unsignalable = {10}
    done = run.step(0.08)
    assert done.action == "nothing_to_kill"
    assert done.spared[0].why == "cannot be signalled"
    assert run.watch.flight is None


def test_a_dry_run_decides_and_signals_nobody(world) -> None:
    run = Run(world(process(10, 300)))
    assert run.step(0.08, dry_run=True).action == "dry_run"
    run.host.advance(1)
    assert run.step(0.08, dry_run=True) is None
    assert run.victims == []


OVERGROWN = {"stall": Stall(0.6, 0.0, 100 * MIB, 60.0 * MIB, 1.0 * MIB), "grown_bytes": 40 * MIB}


def test_who_grows_into_cache_in_use_dies_early_and_the_larger_idle_heap_lives(world) -> None:
    run = Run(world(process(10, 400), process(11, 100)))
    run.host.more, run.host.before = OVERGROWN, {(10, 100): 400 * MIB, (11, 110): 60 * MIB}
    run.step(0.45)
    assert run.victims == [11]
    run.host.more = {}
    run.host.die(11)
    done = run.step()
    assert done.action == "killed"
    assert "grows" in {one.pid: one.why for one in done.spared}[10]


def test_while_the_whole_host_stalls_nobody_is_given_a_grace(world) -> None:
    run = Run(world(process(10, 100)), rules=policy(overrides={"grace_s": 5}))
    run.host.more, run.host.before = OVERGROWN, {}
    run.step(0.45)
    assert run.host.sent == [(10, "KILL")]


def test_when_nobody_knows_who_grew_nobody_dies_early(world) -> None:
    run = Run(world(process(10, 400)))
    run.host.more = OVERGROWN
    done = run.step(0.45)
    assert done.action == "nothing_to_kill"
    assert any("who grew" in gap for gap in done.missing)
    assert run.victims == []


def test_near_enter_growth_is_not_asked_for(world) -> None:
    run = Run(world(process(10, 400), process(11, 100)))
    run.host.more, run.host.before = OVERGROWN, {(10, 100): 400 * MIB}
    run.step(0.05)
    assert run.victims == [10]
