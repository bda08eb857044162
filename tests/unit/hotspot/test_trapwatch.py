"""What is told of traps: those that stay, once, and that they went."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from osremed.core.log import Log
from osremed.hotspot import trapwatch
from osremed.hotspot.governor import levels
from osremed.hotspot.ring import RingWriter
from osremed.hotspot.trapwatch import Standing, TrapWatch
from tests.unit.hotspot.made import raw, segment

PAIR = {"trap": "fsync-storm", "who": "db[7]"}


def facts(trap: str = "fsync-storm", who: str = "db[7]") -> dict[str, str]:
    return {"trap": trap, "who": who}


def told(standing: Standing, *found: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(each["trap"], each["who"], each["state"]) for each in standing.look(found)]


def test_a_trap_is_told_once_when_it_stays() -> None:
    standing = Standing()
    assert told(standing, facts()) == []
    assert told(standing, facts()) == [("fsync-storm", "db[7]", "raised")]
    assert told(standing, facts()) == []


def test_a_trap_that_comes_and_goes_is_never_told() -> None:
    standing = Standing()
    assert [told(standing, *([facts()] if at % 2 else [])) for at in range(8)] == [[]] * 8


def test_it_is_cleared_when_two_looks_do_not_find_it_and_may_be_raised_again() -> None:
    standing = Standing()
    for _ in range(2):
        told(standing, facts())
    assert told(standing) == []
    assert told(standing, facts()) == []  # one look without it was not enough
    assert (told(standing), told(standing)) == ([], [("fsync-storm", "db[7]", "cleared")])
    assert (told(standing, facts()), told(standing, facts())) == ([], [("fsync-storm", "db[7]", "raised")])


def test_a_sick_host_does_not_flood() -> None:
    standing = Standing()
    many = [facts(who=f"p[{pid}]") for pid in range(50)]
    told(standing, *many)
    assert len(told(standing, *many)) == 20
    assert told(standing, *many) == []


def test_thirty_that_stand_are_not_cleared_when_their_order_changes() -> None:
    standing, told_states = Standing(), []
    for look in range(8):
        order = [facts(who=f"p[{(at + 10 * (look >= 4)) % 30}]") for at in range(30)]
        told_states += [state for _, _, state in told(standing, *order)]
    assert told_states == ["raised"] * 20


def test_what_could_not_be_judged_is_neither_cleared_nor_forgotten() -> None:
    standing = Standing()
    lock, storm = facts("lock-contention"), facts()
    told(standing, lock, storm)
    told(standing, lock, storm)
    for _ in range(3):
        assert list(standing.look([storm], judged={"fsync-storm"})) == []
    assert [list(standing.look([storm])) for _ in range(2)] == [[], [{**lock, "state": "cleared"}]]


def test_a_trap_seen_before_a_look_that_could_not_see_it_needs_only_one_more() -> None:
    standing = Standing()
    assert told(standing, facts()) == []
    assert list(standing.look([], judged=())) == []
    assert told(standing, facts()) == [("fsync-storm", "db[7]", "raised")]


def test_what_stands_is_known_to_the_next_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trapwatch, "_look", lambda _window_s, path: os.rename(tmp_path / "answer", path) or 0)

    def states(watch: TrapWatch, *found: dict[str, str]) -> list[str]:
        """What one look that finds these has to tell."""
        (tmp_path / "answer").write_text(json.dumps({"found": found, "judged": None}))
        watch.begin()
        os.waitid(os.P_PID, watch._child, os.WEXITED | os.WNOWAIT)
        news = watch.news()
        watch.keep()
        return [each["state"] for each in news]

    first = TrapWatch(1e-9, str(tmp_path), Log("test"))
    assert [states(first, PAIR), states(first, PAIR)] == [[], ["raised"]]
    second = TrapWatch(1e-9, str(tmp_path), Log("test"))
    assert [states(second, PAIR), states(second), states(second), states(second)] == [[], [], ["cleared"], []]
    third = TrapWatch(1e-9, str(tmp_path), Log("test"))
    assert [states(third), states(third)] == [[], []]


def test_a_host_without_a_process_to_spare_is_looked_at_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trapwatch, "_look", lambda _window_s, path: os.mkdir(path) or 0)
    watch = TrapWatch(1e-9, str(tmp_path), Log("test"))
    with monkeypatch.context() as full:
        full.setattr(os, "fork", no_process)
        watch.begin()
    assert watch.news() == ()
    assert "no look for traps" in watch.error
    watch.begin()
    os.waitid(os.P_PID, watch._child, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / "hotspot-traps.json").exists()
    watch.close()


def test_a_look_that_needs_too_much_memory_fails_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trapwatch, "_look", lambda _window_s, _path: len(bytearray(400 << 20)) and 0)
    watch = TrapWatch(1e-9, str(tmp_path), Log("test"))
    watch.begin()
    os.waitid(os.P_PID, watch._child, os.WEXITED | os.WNOWAIT)
    assert watch.news() == ()
    assert "failed" in watch.error


def test_a_look_reads_less_time_where_more_cpus_fill_it() -> None:
    assert [trapwatch.window_s(cpus) for cpus in (1, 16, 48, 96, 512)] == [60, 60, 20, 10, 10]


def no_process() -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize("kept", [b"", b"[", b"{}", b"[1]", b'[{"trap": "x"}]', b"\xff"])
def test_a_damaged_file_of_what_stands_costs_nothing_else(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "hotspot-standing.json").write_bytes(kept)
    assert TrapWatch(1.0, str(tmp_path), Log("test")).news() == ()


@pytest.mark.parametrize(("level", "seconds", "absent"), [
    (0, 70, None),
    (2, 70, {"fsync-storm", "spin"}),
    (3, 70, {"fsync-storm", "lock-contention", "gil-waits"}),
    (4, 70, {"lock-contention", "run-queue-starvation"}),
    (0, 20, {"fsync-storm", "lock-contention", "throttled", "page-fault-storm"}),
])  # fmt: skip
def test_a_look_says_which_traps_it_could_have_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, seconds: int, absent: set[str] | None
) -> None:
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    ring = RingWriter(str(tmp_path / "var/lib/osremed/hotspot"), max_bytes=1 << 30, max_age_s=1e9)
    now_ns = time.time_ns()
    for ago_s in range(0, seconds, 10):
        made = segment(raw(at_ns=0), level=levels(2)[level].name)
        end_ns = now_ns - ago_s * 10**9 + (10**12 if ago_s == 0 else 0)
        ring.append(now_ns - (ago_s + 10) * 10**9, end_ns, made.tables, [made.records])
    found = tmp_path / "found"
    assert trapwatch._look(60.0, str(found)) == 0
    judged = json.loads(found.read_text())["judged"]
    assert (judged is None) == (absent is None)
    if judged is not None:
        assert not absent & set(judged)
        assert ("throttled" in judged) == ("throttled" not in absent)


def test_a_process_that_is_named_like_a_path_is_no_control_group() -> None:
    words = dict.fromkeys(("name", "where", "summary", "confidence", "expected_gain", "fix", "figures"), "")
    told = trapwatch.facts_of({**words, "who": f"/usr/sbin/postg[{os.getpid()}]"}, os.getpid(), 0, 60.0)
    assert not told["scope"].startswith("/usr/sbin")
    assert trapwatch.facts_of({**words, "who": "/batch"}, 0, 0, 60.0)["scope"] == "/batch"
