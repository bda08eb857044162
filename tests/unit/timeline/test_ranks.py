"""Dumps of many ranks -> the slow one, the one that stopped, or nobody. Dumps are made as torch 2.13 writes them."""

from __future__ import annotations

import json
import os
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.cli.main import main
from osremed.core.errors import BadInput
from osremed.timeline.flightrecorder import load_dump, parse_dump
from osremed.timeline.hang import find_hang, parse_watchdog, suspects_of_log
from osremed.timeline.slowrank import binomial_tail, slow_ranks

STEP_NS = 10_000_000
START_NS = 1_795_323_760_000_000_000


def entry(group, seq, created_ns, *, name="nccl:all_reduce", done=True, p2p=False, sizes=((1000,),)):
    frames = [{"name": "train", "filename": "/job/train.py", "line": 40 + seq % 7}]
    return {
        "frames": frames,
        "record_id": seq,
        "pg_id": 0,
        "process_group": group,
        "collective_seq_id": 0 if p2p else seq,
        "p2p_seq_id": seq if p2p else 0,
        "op_id": seq,
        "profiling_name": name,
        "time_created_ns": created_ns,
        "input_sizes": [list(each) for each in sizes],
        "output_sizes": [list(each) for each in sizes],
        "state": "completed" if done else "scheduled",
        "time_discovered_started_ns": None,
        "time_discovered_completed_ns": created_ns + 1000 if done else None,
        "retired": done,
        "is_p2p": p2p,
    }


def dump(rank, entries, groups):
    config = {name: {"name": name, "desc": desc, "ranks": str(list(ranks))} for (name, desc), ranks in groups.items()}
    return parse_dump({"version": "2.10", "pg_config": config, "entries": entries}, rank, f"fr_{rank}")


WORLD = {("0", "default_pg"): range(4)}


def job(slow, factor, *, steps=60, seed=0, skew=None):
    """Four ranks that work and meet: each step is as long as the slowest rank's; noise is 1 % of a step."""
    rng, at_ns = random.Random(seed), START_NS
    entries = {rank: [] for rank in range(4)}
    for seq in range(1, steps + 1):
        arrive = {}
        for rank in range(4):
            work = STEP_NS * (factor if rank == slow else 1.0) + rng.gauss(0, STEP_NS * 0.01)
            arrive[rank] = at_ns + round(work)
            entries[rank].append(entry(("0", "default_pg"), seq, arrive[rank] + (skew or {}).get(rank, 0)))
        at_ns = max(arrive.values()) + 100_000
    return [dump(rank, entries[rank], WORLD) for rank in range(4)]


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.1, 1.3])
def test_the_slow_rank_is_named_and_nobody_when_none_is_slow(factor):
    right = 0
    for repetition in range(40):
        slow = repetition % 4
        (verdict,) = slow_ranks(job(slow, factor, seed=repetition))
        right += verdict.rank == (slow if factor > 1 else -1)
    assert right >= 38


def test_the_cost_is_said_as_a_share_of_the_step():
    (verdict,) = slow_ranks(job(2, 1.3))
    assert verdict.rank == 2
    assert 0.18 < verdict.step_share < 0.28
    assert 2e-3 < verdict.lateness_s < 4e-3
    assert verdict.last == verdict.collectives == 60


def test_a_rank_whose_clock_differs_is_not_blamed_and_the_gap_is_named():
    (verdict,) = slow_ranks(job(-1, 1.0, skew={3: 500_000_000}))
    assert verdict.rank == -1
    assert "clock of rank 3 differs by 500" in verdict.gaps[0]
    (verdict,) = slow_ranks(job(1, 1.3, skew={3: -500_000_000}))
    assert verdict.rank == 1


def test_few_collectives_are_not_judged():
    (verdict,) = slow_ranks(job(2, 1.3, steps=5))
    assert verdict.rank == -1
    assert "too few" in verdict.why


def test_the_innermost_group_is_blamed_and_the_outer_one_says_by_whom_it_is_held_up():
    """Rank 1 is slow in its pair (0, 1); the pair then comes late to the whole, where rank 0 may well be the last."""
    entries = {rank: [] for rank in range(4)}
    groups = {**WORLD, ("1", "tp_a"): (0, 1), ("2", "tp_b"): (2, 3)}
    at_ns = START_NS
    for seq in range(1, 31):
        for rank in range(4):
            pair = ("1", "tp_a") if rank < 2 else ("2", "tp_b")
            entries[rank].append(entry(pair, seq, at_ns + (3_000_000 if rank == 1 else 0) + rank * 1000 * (seq % 3)))
            late = 3_100_000 if rank < 2 else 0
            entries[rank].append(entry(("0", "default_pg"), seq, at_ns + late + (50_000 if rank == 0 else 0)))
        at_ns += STEP_NS
    verdicts = {each.group.name: each for each in slow_ranks([dump(rank, entries[rank], groups) for rank in range(4)])}
    assert (verdicts["tp_a"].rank, verdicts["tp_a"].explained_by) == (1, -1)
    assert verdicts["tp_b"].rank == -1
    assert (verdicts["default_pg"].rank, verdicts["default_pg"].explained_by) == (0, 1)


def test_chance_is_counted_exactly():
    assert binomial_tail(0, 10, 0.25) == pytest.approx(1.0)
    assert binomial_tail(10, 10, 0.5) == pytest.approx(2**-10)
    assert binomial_tail(1, 2, 0.25) == pytest.approx(1 - 0.75**2)


def stopped(last):
    """Ranks whose latest collective, pending unless all have entered it, is number `last[rank]`."""
    everyone = min(last.values())
    return [
        dump(
            rank,
            [entry(("0", "default_pg"), seq, START_NS + seq, done=seq <= everyone) for seq in range(1, end + 1)],
            WORLD,
        )
        for rank, end in last.items()
    ]


def test_the_rank_that_did_not_come_is_named_with_the_line_it_was_last_seen_at():
    verdict = find_hang(stopped({0: 8, 1: 8, 2: 7, 3: 8}))
    (suspect,) = verdict.suspects
    assert (suspect.rank, suspect.side, suspect.waiting) == (2, "cpu", (0, 1, 3))
    assert suspect.frames == ("train (/job/train.py:40)",)
    assert verdict.waits[0] == (2,)


def test_two_ranks_that_did_not_come_are_a_tie():
    verdict = find_hang(stopped({0: 8, 1: 7, 2: 7, 3: 8}))
    assert [each.rank for each in verdict.suspects] == [1, 2]


def test_a_rank_without_a_recording_is_waited_for_by_everybody():
    verdict = find_hang(stopped({0: 8, 1: 8, 3: 8, 2: 7})[:3])
    (suspect,) = verdict.suspects
    assert (suspect.rank, suspect.side, suspect.waiting) == (2, "absent", (0, 1, 3))


def test_a_collective_that_all_entered_accuses_no_rank():
    everywhere = [dump(rank, [entry(("0", "default_pg"), 1, START_NS, done=False)], WORLD) for rank in range(4)]
    verdict = find_hang(everywhere)
    assert verdict.suspects == ()
    assert "entered by all" in verdict.entered_by_all[0]


def test_ranks_that_wait_for_each_other_in_different_groups_are_a_deadlock():
    groups = {("1", "a"): (0, 1), ("2", "b"): (0, 1)}
    first = dump(0, [entry(("1", "a"), 1, START_NS, done=False)], groups)
    second = dump(1, [entry(("2", "b"), 1, START_NS, done=False)], groups)
    verdict = find_hang([first, second])
    assert [(each.rank, each.side) for each in verdict.suspects] == [(0, "deadlock"), (1, "deadlock")]


def test_a_send_without_its_receive_waits_for_the_peer():
    pair = {("0", "pp"): (0, 1)}
    sender = dump(0, [entry(("0", "pp"), 1, START_NS, name="nccl:send 0->1", done=False, p2p=True)], pair)
    idle, ready = (
        dump(1, [entry(("0", "pp"), 1, START_NS, name=name, done=False, p2p=True)] if name else [], pair)
        for name in ("", "nccl:recv 1<-0")
    )
    assert [each.rank for each in find_hang([sender, idle]).suspects] == [1]
    assert find_hang([sender, ready]).suspects == ()


def test_ranks_that_enter_one_collective_with_different_sizes_are_shown():
    sizes = [((1000,),)] * 3 + [((999,),)]
    dumps = [
        dump(rank, [entry(("0", "default_pg"), 4, START_NS, sizes=each)], WORLD) for rank, each in enumerate(sizes)
    ]
    (mismatch,) = find_hang(dumps).mismatches
    assert "#4 of default_pg" in mismatch
    assert "rank 3: nccl:all_reduce [[999]]" in mismatch


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/osremed-was-here",)


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"version": "2.10", "entries": [Evil()]}),
        pickle.dumps(dict, protocol=0),
        b"cos\nsystem\n(S'id'\ntR.",
        b"",
        b"\x80\x05.",
        b"{not json",
        pickle.dumps([1, 2]),
        pickle.dumps({"entries": 7}),
        pickle.dumps({"entries": [{"process_group": 1}]}),
    ],
)
def test_a_hostile_or_damaged_dump_is_refused(tmp_path, payload):
    path = tmp_path / "fr_0"
    path.write_bytes(payload)
    with pytest.raises(BadInput) as refused:
        load_dump(str(path))
    assert str(path) in str(refused.value)
    assert not os.path.exists("/tmp/osremed-was-here")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_pickles_are_a_dump_or_bad_input(tmp_path_factory, data):
    entries = [entry(("0", "default_pg"), seq, START_NS) for seq in range(2)]
    whole = bytearray(pickle.dumps({"version": "2.10", "pg_config": {}, "entries": entries}))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("dump") / "fr_0"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert load_dump(str(path)).rank == 0
    except BadInput as refused:
        assert "flight-recorder" in refused.what


def test_watchdog_lines_of_a_log_tell_who_is_behind():
    timed_out = (
        "[rank0]:[E1122 ProcessGroupNCCL.cpp:629] [Rank 0] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=8, OpType=ALLREDUCE, NumelIn=1000, NumelOut=1000, Timeout(ms)=600000) ran for 600010 ms"
    )
    found = parse_watchdog(timed_out)
    assert (found.rank, found.seq, found.operation) == (0, 8, "ALLREDUCE")
    status = "[Rank {}] Timeout at NCCL work: 8, last enqueued NCCL work: {}, last completed NCCL work: 7"
    log = [timed_out, *(status.format(rank, 7 if rank == 2 else 8) for rank in range(4)), "other"]
    assert suspects_of_log(log)[0] == [2]
    assert suspects_of_log([status.format(rank, 8) for rank in range(4)])[0] == []


def test_the_verb_reads_a_folder_and_names_what_it_could_not(tmp_path, capsys):
    for rank in range(4):
        entries = [entry(("0", "default_pg"), seq, START_NS + seq, done=seq < 7) for seq in range(1, 8 - (rank == 2))]
        config = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}}
        document = {"version": "2.10", "pg_config": config, "entries": entries}
        path = tmp_path / f"nccl_trace_rank_{rank}"
        path.write_bytes(json.dumps(document).encode() if rank % 2 else pickle.dumps(document))
    (tmp_path / "broken_9").write_bytes(b"\x80")
    assert main(["timeline", "ranks", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "HANG rank 2 has not entered what 3 ranks wait in" in out
    assert "GAP" in out
    assert "broken_9" in out
