"""A million random inputs to everything FastOOM reads and decides: no crash, no wrong victim. Prints what it counted.

Files are real ones of this host, damaged: bytes flipped, cut, repeated, names with every byte. Decisions are made over
random processes and policies, and held against rules written down a second time, here.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from osremed.core.reading import Value
from osremed.fastoom.model import Process, Signals, Stall
from osremed.fastoom.plan import make_plan
from osremed.fastoom.policy import SENSITIVITY, parse_policy
from osremed.fastoom.pressure import needs_action, next_level, sleep_s
from osremed.fastoom.rank import Bounds, rank
from osremed.sensors import cgroup, nodefiles, procfs, psi

_FILES: tuple[tuple[str, Callable[[bytes], Any]], ...] = (
    ("/proc/meminfo", nodefiles.parse_memory),
    ("/proc/meminfo", procfs.parse_meminfo),
    ("/proc/vmstat", nodefiles.parse_reclaim),
    ("/proc/zoneinfo", procfs.parse_zoneinfo_pcp_pages),
    ("/proc/swaps", nodefiles.parse_swaps),
    ("/proc/pressure/memory", psi.parse),
    ("/proc/self/stat", procfs.parse_stat),
    ("/proc/self/statm", procfs.parse_statm),
    ("/proc/self/status", procfs.parse_status),
    ("/proc/self/cmdline", procfs.parse_cmdline),
    ("/proc/self/cgroup", procfs.parse_cgroup),
    ("/proc/self/oom_score_adj", procfs.parse_oom_score_adj),
    ("/proc/self/mountinfo", cgroup.parse_mountinfo),
)
_MEMORY_STAT = b"anon 4096\nfile 8192\nactive_file 1\ninactive_file 2\nworkingset_refault_file 3\n"
_POLICY = b"""{"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "protect": [{"name": "safe*"}, {"user": 7}],
 "prefer": [{"name": "first*"}], "avoid": [{"cmdline": "later"}]}"""
_RULES = parse_policy(_POLICY, "fuzz")


def samples() -> list[tuple[bytes, Callable[[bytes], Any]]]:
    found = [(_MEMORY_STAT, cgroup.parse_flat)]
    for path, parse in _FILES:
        try:
            found.append((Path(path).read_bytes()[:6000], parse))
        except OSError:
            continue
    return found


def damaged(data: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randint(1, 4)):
        at, how = dice.randint(0, len(data)), dice.randint(0, 5)
        if how == 0:
            data = data[:at]
        elif how == 1:
            data = data[:at] + dice.randbytes(dice.randint(1, 8)) + data[at:]
        elif how == 2:
            data = data[:at] + data[at + dice.randint(1, 40) :]
        elif how == 3:
            data = (
                data[:at] + dice.choice((b") R 1 ", b"\n", b"\0", b"9" * 30, b"-1", b" kB", b"(", b"max")) + data[at:]
            )
        elif how == 4:
            data = data[at:] + data[:at]
        else:
            data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
    return data


def parse_one(known: list[tuple[bytes, Callable[[bytes], Any]]], dice: random.Random) -> str:
    data, parse = dice.choice(known)
    try:
        parse(damaged(data, dice))
    except ValueError:
        return "refused"
    return "parsed"


def decide_one(dice: random.Random) -> str:
    """Holds the decision against the law: who may die, in which order, and no more than are needed."""
    processes = [_process(pid, dice) for pid in dice.sample(range(1, 60), dice.randint(0, 12))]
    members = frozenset(one.pid for one in processes if dice.random() < 0.9)
    own = frozenset(dice.sample(range(1, 60), 2))
    ranking = rank(processes, _RULES, Bounds(members, own))
    need = dice.choice((0, 1, 10 << 20, 500 << 20, 1 << 40))
    plan = make_plan(ranking, need)
    victims = [one.process for one in plan.victims]
    for one in victims:
        assert one.pid not in own, one
        assert one.pid != 1, one
        assert one.pid in members, one
        assert not one.kernel_thread, one
        assert one.oom_score_adj > -900, one
        assert not one.name.startswith("safe"), one
        assert one.uid != 7, one
    assert len({one.identity for one in victims}) == len(victims)
    assert sum(one.heap_bytes for one in victims[:-1]) < max(need, 1), "one more than needed"
    assert len(ranking.candidates) + len(ranking.spared) == len(processes)
    return "decided" if victims else "nobody"


def _process(pid: int, dice: random.Random) -> Process:
    name = dice.choice(("safe", "first", "x", "p)\n(", ""))
    return Process(
        pid=pid,
        start_time_ticks=dice.randint(0, 1 << 62),
        name=name,
        argv=Value(tuple(dice.choice(("later", "a", "", "\udcff")) for _ in range(dice.randint(0, 3)))),
        oom_score_adj=dice.choice((-1000, -900, 0, 899, 900, 999)),
        heap_bytes=dice.choice((0, 1 << 20, 80 << 20, 1 << 45)),
        kernel_thread=dice.random() < 0.1,
        uid=dice.choice((0, 7)),
    )


def judge_one(dice: random.Random) -> str:
    t = SENSITIVITY[dice.choice(("low", "medium", "high"))]
    limit = dice.randint(1, 1 << 50)
    swap = dice.choice((0, dice.randint(1, 1 << 40)))
    stall = Stall(dice.choice((None, dice.random())), dice.random() * 1e12, dice.randint(0, 1 << 40))
    state = Signals(limit, dice.randint(0, limit), swap, dice.randint(0, swap), stall=stall)
    need = needs_action(state, t)
    level = next_level(dice.choice((0, 1, 2, 3)), state, t)  # type: ignore[arg-type]  an IntEnum's own values
    assert not need or level >= 2
    assert need or state.headroom_ratio > t.enter_ratio
    assert t.floor_s / 2 <= sleep_s(state, t, dice.random() * 1e12) <= t.ceiling_s
    return "need" if need else "no need"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    dice, known = random.Random(options.seed), samples()
    counts: collections.Counter[str] = collections.Counter()
    for number in range(options.count):
        kind = number % 10
        counts[parse_one(known, dice) if kind < 7 else judge_one(dice) if kind < 9 else decide_one(dice)] += 1
    print(", ".join(f"{count:,} {word}" for word, count in counts.most_common()))


if __name__ == "__main__":
    main()
