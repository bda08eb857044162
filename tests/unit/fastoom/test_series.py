"""Recorded series and what a policy would have done on them."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.fastoom import replay
from osremed.fastoom.model import Signals, Stall
from osremed.fastoom.series import FORMAT, Look, look_as_json, read_series
from osremed.fastoom.simulate import simulate
from tests.unit.fastoom.conftest import MIB, policy, process
from tests.unit.spoken import spoken

HEAD = json.dumps({"series": FORMAT}).encode()
LIMIT = 1000 * MIB


def look(at_s: float, available: float, *processes, **more) -> Look:
    return Look(at_s, {"node": Value(Signals(LIMIT, round(LIMIT * available), **more))}, {}, tuple(processes))


def leak(*extra) -> list[Look]:
    """200 MiB at the start, 20 MiB more each second; 50 MiB left after 15 s."""
    return [look(t, 0.35 - 0.02 * t, process(10, 200 + 20 * t), process(11, 50), *extra) for t in range(16)]


def killed(decisions):
    return [
        (one.at_s, [each.candidate.process.pid for each in one.intervention.killed])
        for one in decisions
        if one.intervention.action == "killed"
    ]


def test_a_series_is_read_back_as_it_was_seen() -> None:
    seen = [
        look(
            0.5,
            0.3,
            process(7, 5, argv=["a", "b"], exe=Value("/x"), uid=3),
            stall=Stall(0.25, 10.0, 5, 3.0, 1.0, 0.5),
            grown_bytes=4,
            crept_bytes=6,
        ),
        Look(
            1.0,
            {"/g": Missing(Reason.GONE, "/g", "x")},
            {"/g": frozenset({7})},
            (process(8, argv=Missing(Reason.DENIED, "c")),),
        ),
    ]
    lines = [HEAD, *(json.dumps(look_as_json(one)).encode() for one in seen)]
    assert list(read_series(lines, "s")) == seen


def test_the_leak_is_ended_once_and_stays_ended() -> None:
    decisions, levels = simulate(leak(), policy())
    assert killed(decisions) == [(14, [10])]
    assert [one.intervention.action for one in decisions] == ["killed", "recovered"]
    assert [(one.at_s, one.change.level.word) for one in levels][:2] == [(10, "low"), (14, "medium")]


def test_a_more_sensitive_policy_steps_in_earlier_and_the_comparison_says_by_how_much(tmp_path) -> None:
    file = tmp_path / "s.jsonl"
    file.write_bytes(b"\n".join([HEAD, *(json.dumps(look_as_json(one)).encode() for one in leak())]) + b"\n")
    for name in ("medium", "high"):
        text = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": name}
        (tmp_path / name).write_text(json.dumps(text))
    answer = replay.run_simulation(file=str(file), policy=str(tmp_path / "medium"), against=str(tmp_path / "high"))
    assert answer.document["earlier_s"] == 2
    assert "2.0 s earlier" in answer.text
    assert [one["decisions"][0]["victims"][0]["pid"] for one in answer.document["policies"]] == [10, 10]
    told = {}
    for language in ("en", "zh_CN", "zh_TW"):
        with spoken(language):
            told[language] = replay.run_simulation(
                file=str(file), policy=str(tmp_path / "medium"), against=str(tmp_path / "high")
            ).text.replace(str(tmp_path), "")
    assert told["en"] == answer.text.replace(str(tmp_path), "")
    for phrase, simplified, traditional in (
        (
            "/medium (medium): 1 interventions, 1 processes ended\n",
            "/medium（medium）：干预 1 次，终止 1 个进程\n",
            "/medium（medium）：介入 1 次，終止 1 個處理程序\n",
        ),
        ("s  node level ", "s  node 等级 ", "s  node 等級 "),
        ("s  node: killed p10[10]; available ",) + ("s  node：killed p10[10]；可用 ",) * 2,
        (
            "/high would have stepped in 2.0 s earlier than /medium",
            "/high 会比 /medium 早 2.0 秒干预",
            "/high 會比 /medium 早 2.0 秒介入",
        ),
    ):
        assert phrase in told["en"]
        assert simplified in told["zh_CN"]
        assert traditional in told["zh_TW"]
    assert [text for text in told.values() if text.count("\n") != told["en"].count("\n")] == []


def test_who_grows_into_cache_in_use_dies_once_in_a_simulation_and_the_larger_idle_heap_lives() -> None:
    idle, helper = process(20, 400), process(21, 20)
    calm = [look(t, 0.49 - 0.01 * t, process(10, 50 + 10 * t), idle, helper, grown_bytes=0) for t in range(3)]
    stall = Stall(0.6, 0.0, 100 * MIB, 60.0 * MIB, 1.0 * MIB)
    stalled = [
        look(
            t, 0.46, process(10, 50 + 10 * t), idle, helper, anon_bytes=t * 10 * MIB, grown_bytes=30 * MIB, stall=stall
        )
        for t in range(3, 9)
    ]
    decisions, _ = simulate([*calm, *stalled], policy())
    assert killed(decisions) == [(3, [10])]


def test_a_protected_hog_lives_in_a_simulation_too() -> None:
    decisions, _ = simulate(leak(), policy(protect=[{"name": "p10"}]))
    assert 10 not in [pid for _, pids in killed(decisions) for pid in pids]


def test_what_could_not_be_measured_then_is_not_acted_on_now() -> None:
    blind = [Look(1.0, {"node": Missing(Reason.DENIED, "meminfo")}, {}, (process(10, 900),))]
    assert simulate(blind, policy()) == ([], [])


def test_scopes_that_the_policy_does_not_guard_are_left_out() -> None:
    group = Look(0.0, {"/g": Value(Signals(LIMIT, 1))}, {"/g": frozenset({10})}, (process(10, 900),))
    assert simulate([group], policy()) == ([], [])
    assert killed(simulate([group], policy(scopes=[{"cgroup": "/*"}], overrides={"grace_s": 0}))[0]) == [(0.0, [10])]


@pytest.mark.parametrize(
    ("lines", "where", "what"),
    [
        ([b"{}"], "s:1", "not a series"),
        ([HEAD, b"{"], "s:2", "not a look"),
        ([HEAD, b'{"at_s": 1, "scopes": {}, "members": {}}'], "s:2", "not a look"),
        (
            [
                HEAD,
                b'{"at_s": 1, "scopes": {"node": {"limit_bytes": 1, "available_bytes": 2}}, "members": {}, '
                b'"processes": []}',
            ],
            "s:2",
            "between",
        ),
        ([HEAD, *(b'{"at_s": %d, "scopes": {}, "members": {}, "processes": []}' % t for t in (2, 1))], "s:3", "before"),
        ([HEAD, b'{"at_s": NaN, "scopes": {}, "members": {}, "processes": []}'], "s:2", "before"),
    ],
)
def test_what_is_no_series_is_refused_with_its_line(lines, where, what) -> None:
    with pytest.raises(BadInput) as caught:
        list(read_series(lines, "s"))
    assert caught.value.where == where
    assert what in str(caught.value)


@given(st.lists(st.binary(max_size=60) | st.just(HEAD), max_size=4))
def test_noise_is_refused_and_nothing_else_happens(lines) -> None:
    try:
        list(read_series(lines, "s"))
    except BadInput as error:
        assert error.where.startswith("s:")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.integers(1, 400), max_size=8)), max_size=12),
    st.sampled_from(["low", "medium", "high"]),
)
def test_protected_ones_never_die_and_nobody_dies_twice_or_without_need(moments, sensitivity) -> None:
    rules = policy(sensitivity=sensitivity, protect=[{"name": "p1[13579]"}])
    looks = [
        look(float(t), share, *(process(10 + index, size) for index, size in enumerate(sizes)))
        for t, (share, sizes) in enumerate(moments)
    ]
    decisions, _ = simulate(looks, rules)
    dead = [pid for _, pids in killed(decisions) for pid in pids]
    assert not {11, 13, 15, 17, 19} & set(dead)
    assert len(dead) == len(set(dead))
    for one in decisions:
        done = one.intervention
        if done.action == "killed":
            assert done.signals.headroom_ratio <= rules.thresholds.enter_ratio
            held = sum(each.candidate.process.heap_bytes for each in done.killed)
            assert held >= done.deficit_bytes or held * 10 >= done.deficit_bytes
