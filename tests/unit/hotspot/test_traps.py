from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from osremed.core.finding import Finding
from osremed.core.reading import Missing, Reason, Value
from osremed.hotspot.detect import detect, judge, render_findings
from osremed.hotspot.governor import Governor, govern, levels
from osremed.hotspot.jitter import JitterDetector
from osremed.hotspot.model import INTERPRETER_LOCK, CallRate, Frame, OpenRate, Profile, Second
from osremed.hotspot.traps import Trap
from tests.unit.hotspot.made import START_NS, frame, profile, sample

PROC = Frame("kernel", "proc_reg_read")
LOCK = 0x7F00AA


def names(found: Profile) -> list[str]:
    return [trap.finding.name for trap in detect(found)]


def test_reading_proc_per_request_is_found_with_path_rate_line_and_gain() -> None:
    busy = [sample(at / 50, frame("serve", line=8), frame("rate", line=21), PROC) for at in range(100)]
    rest = [sample(at / 50, frame("serve", line=9)) for at in range(300)]
    rates = (OpenRate(7, "app", "/proc/net/tcp", 24.0, 0.2),)
    trap = detect(profile(*busy, *rest, open_rates=rates))[0]
    assert trap.finding.name == "frequent-proc-reads"
    assert "25 % of its CPU reading /proc/net/tcp, about 24 opens/s" in trap.finding.summary
    assert trap.where == "serve (app.py:8) > rate (app.py:21)"
    assert "cached for 1 s" in trap.finding.expected_gain
    assert trap.figures["opens_per_s"] == 24.0


def test_a_rare_read_of_proc_is_no_trap() -> None:
    made = [sample(at / 50, frame("serve"), *([PROC] if at % 100 == 0 else [])) for at in range(400)]
    assert names(profile(*made)) == []


def waits(wait_s: float, count: int, *extra: Frame, threads: int = 3) -> list:
    return [
        sample(at / 30, frame("locked", line=17), *extra, state="off", weight_ns=round(wait_s * 1e9), tid=at % threads,
               syscall="futex", argument=LOCK, wait_ns=round(wait_s * 1e9))
        for at in range(count)
    ]  # fmt: skip


def test_a_contended_lock_is_found_with_waiters_and_holder() -> None:
    holder = [sample(at / 50, frame("holds", line=5), tid=9) for at in range(200)]
    trap = detect(profile(*waits(0.02, 200), *holder))[0]
    assert trap.finding.name == "lock-contention"
    assert trap.figures["waited_s_per_s"] == pytest.approx(0.4)
    assert trap.where == "locked (app.py:17)"
    assert "holds (app.py:5)" in trap.finding.summary


@pytest.mark.parametrize("made", [waits(0.5, 60), waits(0.02, 200, threads=1)])
def test_an_idle_pool_and_a_single_thread_are_no_contention(made: list) -> None:
    assert "lock-contention" not in names(profile(*made))


def test_workers_of_a_pool_that_gets_a_task_now_and_then_are_no_contention() -> None:
    task = frame("_worker", file="/usr/lib/python3.11/concurrent/futures/thread.py", line=81)
    assert "lock-contention" not in names(profile(*waits(0.1, 100, task)))
    assert "lock-contention" in names(profile(*waits(0.1, 100, task, frame("locked"))))


def test_waits_for_the_interpreter_lock_have_a_name_of_their_own() -> None:
    assert names(profile(*waits(0.02, 200, INTERPRETER_LOCK))) == ["gil-waits"]


@pytest.mark.parametrize(
    ("syscall", "per_s", "mean_bytes", "expected"),
    [
        ("sched_yield", 5000, 0, ["spin"]),
        ("write", 5000, 1, ["tiny-io"]),
        ("write", 5000, 65536, []),
        ("fsync", 50, 0, ["fsync-storm"]),
        ("newfstatat", 3000, 0, ["excess-stat"]),
        ("openat", 800, 0, ["excess-open"]),
        ("clock_nanosleep", 3000, 0, ["timer-storm"]),
        ("epoll_wait", 9000, 0, ["polling"]),
        ("openat", 5, 0, []),
    ],
)
def test_rates_of_calls(syscall: str, per_s: float, mean_bytes: float, expected: list[str]) -> None:
    made = [sample(at / 5, frame("loop"), syscall=syscall) for at in range(50)]
    assert names(profile(*made, call_rates=(CallRate(7, "app", syscall, per_s, mean_bytes, 0.2),))) == expected


def test_a_program_that_only_starts_is_not_judged_by_its_rates() -> None:
    made = [sample(at / 100, frame("start")) for at in range(50)]
    assert names(profile(*made, call_rates=(CallRate(7, "app", "openat", 900, 0, 0.2),))) == []


@pytest.mark.parametrize(("kernel", "expected"), [("handle_mm_fault", "page-fault-storm"),
                                                  ("try_to_free_pages", "direct-reclaim")])  # fmt: skip
def test_kernel_time_of_a_kind(kernel: str, expected: str) -> None:
    made = [sample(at / 40, frame("f"), *([Frame("kernel", kernel)] if at % 3 == 0 else [])) for at in range(400)]
    assert names(profile(*made)) == [expected]


def second(at_s: int, **other: object) -> Second:
    gap = Missing(Reason.NO_DATA, "test")
    figures = {name: other.get(name, gap) for name in ("run_delay_s", "cpu_stall_s", "io_stall_s", "memory_stall_s",
                                                       "reclaim_stalls", "major_faults", "throttled_s")}  # fmt: skip
    return Second(START_NS + at_s * 10**9, **figures)


def test_starvation_and_throttling_come_from_the_seconds() -> None:
    seconds = tuple(second(at, run_delay_s=Value(1.5), throttled_s=Value(0.3)) for at in range(10))
    assert sorted(names(profile(seconds=seconds))) == ["run-queue-starvation", "throttled"]
    assert names(profile(seconds=tuple(second(at) for at in range(10)))) == []


def test_a_throttled_group_is_named() -> None:
    seconds = tuple(
        dataclasses.replace(second(at, throttled_s=Value(0.4)), throttled={"/batch": 0.39, "/web": 0.01})
        for at in range(10)
    )
    (trap,) = detect(profile(seconds=seconds))
    assert (trap.finding.name, trap.who, round(trap.figures["seconds_per_s"], 3)) == ("throttled", "/batch", 0.39)


def test_a_rule_of_the_user_adds_its_findings() -> None:
    def rule(found: Profile) -> list[Trap]:
        return [Trap(Finding("own", "seen", 1.0, ("hotspot",)), "app", "", {}, "mend it")]

    assert [trap.finding.name for trap in detect(profile(), (rule,))] == ["own"]


def test_a_rule_that_fails_hides_no_other_and_is_a_gap() -> None:
    def early(found: Profile) -> list[Trap]:
        raise KeyError("\x1b[2Jmine")

    def late(found: Profile) -> Iterator[Trap]:
        yield Trap(Finding("own", "seen", 1.0, ("hotspot",)), "app", "", {}, "mend it")
        yield "no trap"  # type: ignore[misc]

    busy = profile(*(sample(at / 50, frame("serve"), PROC) for at in range(100)))
    found = judge(busy, (early, late))
    assert [trap.finding.name for trap in found.traps] == ["own", "frequent-proc-reads"]
    assert [gap.split(":")[0] for gap in found.gaps] == ["rule early", "rule late"]
    assert "gap: rule early: KeyError" in render_findings(found.traps, busy.with_gaps(found.gaps))


def test_findings_print_hostile_names_harmlessly() -> None:
    made = [sample(at / 50, frame("\x1b[2Jevil"), PROC, process="\x1b]0;x\x07") for at in range(100)]
    text = render_findings(detect(profile(*made)), profile(*made))
    assert "frequent-proc-reads" in text
    assert "\x1b" not in text


def test_jitter_is_told_with_its_second_once_a_minute_and_after_learning() -> None:
    detector = JitterDetector(2)
    assert detector.second(second(0, run_delay_s=Value(9.0))) is None
    for at in range(1, 40):
        assert detector.second(second(at, run_delay_s=Value(0.05))) is None
    told = detector.second(second(40, run_delay_s=Value(1.7), io_stall_s=Value(0.1)))
    assert told is not None
    assert (told["second_ns"], told["worst"]) == (START_NS + 40 * 10**9, "run_delay_s")
    assert told["signs"] == [{"sign": "run_delay_s", "value": 1.7, "usual": 0.05, "words": "threads waited for a CPU"}]
    assert detector.second(second(41, run_delay_s=Value(1.7))) is None
    assert detector.second(second(101, run_delay_s=Value(1.9))) is not None


def test_what_cannot_be_read_is_neither_jitter_nor_learnt() -> None:
    detector = JitterDetector(2)
    for at in range(60):
        assert detector.second(second(at)) is None
    assert detector.second(second(60, run_delay_s=Value(5.0))) is None


def test_the_governor_steps_down_at_once_and_up_after_calm() -> None:
    count = len(levels(2))
    assert govern(Governor(0), 0.011, 0.01, count).at == 1
    assert govern(Governor(0), 0.05, 0.01, count).at == 2
    assert govern(Governor(count - 1), 0.05, 0.01, count).at == count - 1
    state = Governor(3)
    for _ in range(6):
        state = govern(state, 0.002, 0.01, count)
    assert state.at == 2
    assert govern(Governor(3, 5), 0.009, 0.01, count) == Governor(3)


def test_large_hosts_are_sampled_at_half_the_rate() -> None:
    assert (levels(2)[0].hz, levels(128)[0].hz) == (99, 49)
    assert [level.switches for level in levels(2)] == sorted((level.switches for level in levels(2)), reverse=True)
