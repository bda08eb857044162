"""What must hold when the faults are over. Pure: records in, sentences about what does not hold out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A daemon is warm after a minute; later growth is bounded by a share of what it had then, and never below some MiB.
_WARM_S, _GROWS, _GROWS_KIB = 60, 0.25, 4096


@dataclass(frozen=True)
class Seen:
    """One host, before and after, and the samples of memory between: (seconds, unit, pid, KiB)."""

    host: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    memory: Sequence[tuple[float, str, int, int]] = ()


@dataclass(frozen=True)
class Whole:
    hosts: Sequence[Seen]
    taken: Sequence[tuple[str, str]]
    runs: Sequence[Mapping[str, Any]]
    audit: tuple[int, str]
    failed: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def violations(whole: Whole) -> list[str]:
    """Empty when everything held."""
    found = [f"{each['host']}: {each['fault']}: {each['failed']}" for each in whole.failed]
    for seen in whole.hosts:
        found += [f"{seen.host}: {each}" for each in (*_life(seen), *_memory(seen.memory))]
    found += _events(whole)
    found += [f"run {each['id']} ({each['runbook']}) is {each['state']}" for each in whole.runs if not each["ended"]]
    if whole.audit[0]:
        found.append(f"osremed audit verify ended with {whole.audit[0]}: {whole.audit[1]}")
    return found


def _life(seen: Seen) -> Iterator[str]:
    before, after = seen.before["units"], seen.after["units"]
    keys = ("pid", "start_ticks")
    if after["gateway"] is None or any(before["gateway"][key] != after["gateway"][key] for key in keys):
        yield f"the protected gateway was {before['gateway']} and is {after['gateway']}"
    for unit, process in after.items():
        if process is None:
            yield f"{unit} does not run"
    if seen.after["oom_kills"] != seen.before["oom_kills"]:
        yield f"the kernel's own OOM killer acted {seen.after['oom_kills'] - seen.before['oom_kills']} times"


def _memory(samples: Sequence[tuple[float, str, int, int]]) -> Iterator[str]:
    """Each life of a daemon by itself."""
    for unit, pid in dict.fromkeys((unit, pid) for _, unit, pid, _ in samples):
        life = [(at, kib) for at, its, its_pid, kib in samples if (its, its_pid) == (unit, pid)]
        warm = [kib for at, kib in life if at >= life[0][0] + _WARM_S]
        if len(warm) >= 2 and warm[-1] - warm[0] > max(_GROWS_KIB, _GROWS * warm[0]):
            span_s = life[-1][0] - life[0][0] - _WARM_S
            yield f"{unit} (pid {pid}) grew from {warm[0] / 1024:.1f} to {warm[-1] / 1024:.1f} MiB in {span_s:.0f} s"


def _events(whole: Whole) -> Iterator[str]:
    """What hosts have on disk and what the intake took are the same, each once."""
    taken = Counter(whole.taken)
    yield from (
        f"event {ident} of {host} was taken {count} times" for (host, ident), count in taken.items() if count > 1
    )
    told: Counter[tuple[str, str]] = Counter()
    for seen in whole.hosts:
        for name, journal in seen.after["events"].items():
            yield from (f"{seen.host}: journal {name}: {line}" for line in journal["damaged"])
            if journal["first_seq"]:
                yield f"{seen.host}: journal {name} begins at {journal['first_seq']}: older events are not counted"
            told.update((seen.host, row["id"]) for row in journal["rows"])
    yield from (
        f"event {ident} is on the disk of {host} {count} times" for (host, ident), count in told.items() if count > 1
    )
    yield from (
        f"event {ident} of {host} never reached the intake" for host, ident in told if (host, ident) not in taken
    )
    yield from (f"event {ident} of {host} is not on its disk" for host, ident in taken if (host, ident) not in told)
