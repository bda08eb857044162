"""The ring -> a Profile of a window: records are joined, named and weighed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.reading import Reading, Value
from osremed.core.record import record
from osremed.hotspot import records
from osremed.hotspot.governor import levels
from osremed.hotspot.hostseconds import second_of
from osremed.hotspot.model import (
    CALLS,
    INTERPRETER_LOCK,
    NOT_RECORDED,
    SWITCHES,
    TIME,
    WAITS,
    Blocked,
    CallRate,
    Cost,
    Frame,
    Mode,
    OpenRate,
    Profile,
    Sample,
    Second,
)
from osremed.hotspot.ring import Window, run_of
from osremed.hotspot.segment import Segment
from osremed.hotspot.symbols import Kernel, Mapped, ProcessFacts, Symbols
from osremed.hotspot.syscalls import syscall_name

MARGIN_NS = 20_000_000_000  #: a wait that began before the window, or ended after it, is in a segment beside it
_TICK_NS = 10_000_000
_MOST_SCALE = 1000.0
_BUCKETS = 20
_MOST_UNSEEN = 0.1  #: of a window
_LEVELS = {level.name: level for level in levels(1)}  #: of any number of CPUs: what is on is the same
_UNKNOWN = ProcessFacts(0, "", "", ())

Key = tuple[int, int, int]  #: pid, start in clock ticks since boot, which of the programs it became (exec)
Group = tuple[int, int, int]  #: pid, system call, bucket of length


@record
class _Away:
    """A sampled wait: wall times of its begin and end, the exact seconds it stands for, and its stack."""

    raw: records.Raw
    run: int
    start_ns: int
    end_ns: int
    scale: float
    kernel: Kernel


def profile_of(window: Window, start_ns: int, end_ns: int, symbols: Symbols) -> Profile:
    """The profile of start_ns <= t < end_ns. `window` reaches MARGIN_NS further on both sides, so that waits that cross
    the border are seen; they count with their part inside."""
    inside = [each for each in window.segments if each.end_ns > start_ns and each.start_ns < end_ns]
    damaged = list(window.damaged)
    processes = _processes(window)
    texts = {run: {number: text for book in books for number, text in book.texts.items()}
             for run, books in window.books.items()}  # fmt: skip
    samples: list[Sample] = []
    opened: dict[tuple[int, str, str], int] = {}
    waits: list[tuple[records.Raw, Segment]] = []
    sampled: Counter[Group] = Counter()
    frames = _Frames(symbols)
    stacks = _stacks(window.segments, damaged)
    ends: Counter[int] = Counter()
    lost_stacks = 0
    counted = _Counted()
    for segment in window.segments:
        counted.add(segment, damaged)
        names = texts.get(run_of(segment), {})
        offset_ns = int(segment.tables.get("mono_to_wall_ns", 0))
        hz = int(segment.tables.get("hz", 0)) or 99
        try:
            for raw in records.read(segment.records, stacks.get(run_of(segment), {})):
                if raw is None:
                    lost_stacks += 1
                    continue
                at_ns = raw.at_ns + offset_ns
                if raw.kind == records.AWAY:
                    sampled[_group(raw)] += 1
                    if at_ns > start_ns and raw.since_ns + offset_ns < end_ns:
                        waits.append((raw, segment))
                elif not start_ns <= at_ns < end_ns:
                    continue
                elif raw.kind == records.CPU_SAMPLE:
                    ends.update(flag for flag, _ in _CUT if raw.flags & flag)
                    stack = frames.of(raw, _facts(raw, processes), run_of(segment), names, _kernel_of(segment))
                    samples.append(_sample(raw, at_ns, round(1e9 / hz), _facts(raw, processes), stack))
                else:
                    name = _facts(raw, processes).name or raw.comm
                    opened[raw.tgid, name, raw.path] = opened.get((raw.tgid, name, raw.path), 0) + 1
        except ValueError as error:
            damaged.append(f"segment of {segment.start_ns}: {error}")
    for away in _scaled(waits, sampled, counted.rows(window.segments, records.WAITS)):
        begin, end = max(away.start_ns, start_ns), min(away.end_ns, end_ns)
        if begin < end:
            weight_ns = round((end - begin) * away.scale)
            facts = _facts(away.raw, processes)
            stack = frames.of(away.raw, facts, away.run, texts.get(away.run, {}), away.kernel)
            sample = _sample(away.raw, begin, weight_ns, facts, stack)
            samples.append(sample._replace(wait_ns=away.end_ns - away.start_ns))
    samples.sort(key=lambda sample: sample.at_ns)
    tables = [segment.tables for segment in inside]
    windows_s = sum(float(table.get("windows_s", 0.0)) for table in tables)
    return Profile(
        host=str(tables[0].get("host", "")) if tables else "",
        start_ns=start_ns,
        end_ns=end_ns,
        mode=_mode(tables),
        samples=tuple(samples),
        blocked=_blocked(counted.rows(inside, records.WAITS)),
        call_rates=_call_rates(counted.rows(inside, records.CALLS), windows_s),
        open_rates=_open_rates(opened, windows_s),
        seconds=_seconds(tables, start_ns, end_ns),
        lost=sum(int(table.get("lost", 0)) for table in tables),
        cost=_cost(tables),
        gaps=(*damaged, *_gaps(inside, start_ns, end_ns), *_uncounted(lost_stacks, ends)),
        unrecorded=frozenset(_unrecorded(inside, start_ns, end_ns)),
    )


class _Frames:
    """What stacks are called: events are many, stacks few, and each is there once."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._named: dict[tuple[int, int, int, int, int, Kernel], tuple[Frame, ...]] = {}

    def of(
        self, raw: records.Raw, facts: ProcessFacts, run: int, texts: Mapping[int, records.Text], kernel: Kernel
    ) -> tuple[Frame, ...]:
        leaf, cut = next(iter(raw.kernel or raw.user), 0), raw.flags & (records.PYTHON_CUT | records.PYTHON_ERROR)
        key = run, raw.number, raw.program, leaf, cut, kernel
        named = self._named.get(key)
        if named is None:
            named = self._named[key] = self._symbols.stack(raw, facts, texts, kernel)
        return named


class _Counted:
    """Counts by process and system call, of each segment."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def add(self, segment: Segment, damaged: list[str]) -> None:
        for which in (records.WAITS, records.CALLS):
            try:
                self._rows[segment.start_ns, which] = list(records.counts_of(segment.records, which))
            except ValueError as error:
                damaged.append(f"segment of {segment.start_ns}: {error}")

    def rows(self, segments: Sequence[Segment], which: int) -> list[dict[str, Any]]:
        return [row for each in segments for row in self._rows.get((each.start_ns, which), [])]


def _stacks(segments: Sequence[Segment], damaged: list[str]) -> dict[int, dict[int, records.Stack]]:
    """Of all segments of a run: at the border of two of them an event may name a stack that the one before holds."""
    found: dict[int, dict[int, records.Stack]] = {}
    for segment in segments:
        try:
            found.setdefault(run_of(segment), {}).update(records.stacks_of(segment.records))
        except ValueError as error:
            damaged.append(f"segment of {segment.start_ns}: {error}")
    return found


def _processes(window: Window) -> dict[Key, ProcessFacts]:
    """Facts by (pid, start, program); of several captures of one the last counts."""
    found: dict[Key, ProcessFacts] = {}
    for row in window.processes():
        key = int(row["pid"]), int(row["start_ticks"]), int(row.get("exec", 0))
        found[key] = ProcessFacts(
            pid=key[0],
            name=row["name"],
            container=row["container"],
            maps=tuple(Mapped(*each) for each in row["maps"]),
            language=row.get("language", ""),
            runtime=tuple(row.get("runtime", (0, 0))),
            start_ticks=key[1],
            program=key[2],
        )
    return found


def _facts(raw: records.Raw, processes: Mapping[Key, ProcessFacts]) -> ProcessFacts:
    return processes.get((raw.tgid, raw.start_ns // _TICK_NS, raw.program), _UNKNOWN)


def _kernel_of(segment: Segment) -> Kernel:
    return str(segment.tables.get("boot_id", "")), str(segment.tables.get("modules", ""))


def _sample(raw: records.Raw, at_ns: int, weight_ns: int, facts: ProcessFacts, stack: tuple[Frame, ...]) -> Sample:
    syscall = syscall_name(raw.syscall)
    if raw.kind != records.CPU_SAMPLE and syscall == "futex" and facts.runtime[0] <= raw.argument < facts.runtime[1]:
        stack = (*stack, INTERPRETER_LOCK)
    if not stack:
        stack = (Frame("note", "[no stack]"),)
    return Sample(
        at_ns=at_ns,
        state="cpu" if raw.kind == records.CPU_SAMPLE else "off",
        weight_ns=weight_ns,
        pid=raw.tgid,
        tid=raw.tid,
        process=facts.name or raw.comm,
        thread=raw.comm,
        container=facts.container,
        syscall=syscall,
        argument=raw.argument,
        stack=stack,
    )


def _scaled(
    waits: Sequence[tuple[records.Raw, Segment]], sampled: Mapping[Group, int], blocked: Sequence[dict[str, Any]]
) -> Iterable[_Away]:
    """These waits; `sampled` counts those of all segments. Each stands for as many waits of its process, system call
    and length (powers of two) as the kernel side counted exactly. Lengths of which none was sampled are told by one
    next to them, if there is one: further away they are another kind of wait, which has no stack here."""
    stands_for = dict.fromkeys(sampled, 0.0)
    for (pid, syscall, bucket), count in _exact(blocked).items():
        for near in (bucket, bucket - 1, bucket + 1):
            if (pid, syscall, near) in sampled:
                stands_for[pid, syscall, near] += count * 2.0 ** (bucket - near)
                break
    for raw, segment in waits:
        offset_ns = int(segment.tables.get("mono_to_wall_ns", 0))
        scale = min(_MOST_SCALE, max(1.0, stands_for[_group(raw)] / sampled[_group(raw)]))
        kernel = _kernel_of(segment)
        yield _Away(raw, run_of(segment), raw.since_ns + offset_ns, raw.at_ns + offset_ns, scale, kernel)


def _exact(blocked: Sequence[dict[str, Any]]) -> dict[Group, int]:
    """How many waits there were of each kind."""
    found: dict[Group, int] = {}
    for row in blocked:
        for bucket, count in enumerate(row["buckets"]):
            group = (int(row["pid"]), int(row["syscall"]), bucket)
            if count:
                found[group] = found.get(group, 0) + int(count)
    return found


def _group(raw: records.Raw) -> Group:
    bucket = min(_BUCKETS, max(1, (raw.at_ns - raw.since_ns) // 1000).bit_length()) - 1
    return raw.tgid, raw.syscall, bucket


def _mode(tables: Sequence[dict[str, Any]]) -> Mode:
    """The mode of the window; a rate that changed in it (the governor stepped) is 0."""
    if not tables:
        return Mode("none", 0, 0)
    rates = {int(table.get("hz", 0)) for table in tables}
    return Mode(str(tables[0].get("clock", "")), rates.pop() if len(rates) == 1 else 0, int(tables[0].get("cpus", 0)))


def _blocked(rows: Sequence[dict[str, Any]]) -> tuple[Blocked, ...]:
    found: dict[tuple[int, str, int], Blocked] = {}
    for row in rows:
        key = (int(row["pid"]), str(row["name"]), int(row["syscall"]))
        before = found.get(key)
        buckets = tuple(row["buckets"])
        found[key] = Blocked(
            pid=key[0],
            process=key[1],
            syscall=syscall_name(key[2]) or "(preempted or faulting)",
            count=row["count"] + (before.count if before else 0),
            total_s=row["total_ns"] / 1e9 + (before.total_s if before else 0.0),
            longest_s=max(row["longest_ns"] / 1e9, before.longest_s if before else 0.0),
            buckets=tuple(map(sum, zip(buckets, before.buckets))) if before else buckets,
        )
    return tuple(sorted(found.values(), key=lambda each: -each.total_s))


def _call_rates(rows: Sequence[dict[str, Any]], windows_s: float) -> tuple[CallRate, ...]:
    counts: dict[tuple[int, str, int], tuple[int, int]] = {}
    for row in rows:
        key = (int(row["pid"]), str(row["name"]), int(row["syscall"]))
        count, size = counts.get(key, (0, 0))
        counts[key] = (count + int(row["count"]), size + int(row["bytes"]))
    rates = [
        CallRate(pid, name, syscall_name(number), count / windows_s, size / max(count, 1), windows_s)
        for (pid, name, number), (count, size) in counts.items()
        if windows_s > 0
    ]
    return tuple(sorted(rates, key=lambda each: -each.per_s))


def _open_rates(opened: Mapping[tuple[int, str, str], int], windows_s: float) -> tuple[OpenRate, ...]:
    rates = [
        OpenRate(pid, name, path, count / windows_s, windows_s)
        for (pid, name, path), count in opened.items()
        if windows_s > 0
    ]
    return tuple(sorted(rates, key=lambda each: -each.per_s))


def _seconds(tables: Sequence[dict[str, Any]], start_ns: int, end_ns: int) -> tuple[Second, ...]:
    rows = (row for table in tables for row in table.get("seconds", []))
    return tuple(second_of(row) for row in rows if start_ns <= int(row["at_ns"]) < end_ns)


def _cost(tables: Sequence[dict[str, Any]]) -> Reading[Cost]:
    rows = [table["cost"] for table in tables if "cost" in table]
    if not rows:
        return NOT_RECORDED
    return Value(Cost(*(sum(float(row[name]) for row in rows) for name in ("wall_s", "bpf_s", "own_s"))))


def _gaps(inside: Sequence[Segment], start_ns: int, end_ns: int) -> Iterable[str]:
    if not inside:
        yield "the ring holds nothing of this window"
        return
    unseen_s = _unseen_ns(inside, start_ns, end_ns) / 1e9
    if unseen_s > 0.2:
        yield f"{unseen_s:.1f} s of the window were not recorded"
    yield from dict.fromkeys(str(gap) for each in inside for gap in each.tables.get("gaps", []))


def _unseen_ns(inside: Sequence[Segment], start_ns: int, end_ns: int) -> int:
    return end_ns - start_ns - sum(min(each.end_ns, end_ns) - max(each.start_ns, start_ns) for each in inside)


def _unrecorded(inside: Sequence[Segment], start_ns: int, end_ns: int) -> Iterable[str]:
    """What Profile.unrecorded says. A level that is not known had nothing on."""
    if _unseen_ns(inside, start_ns, end_ns) > _MOST_UNSEEN * (end_ns - start_ns):
        yield TIME
    for each in inside:
        level = _LEVELS.get(str(each.tables.get("level")))
        if level is None or not level.duty:
            yield CALLS
        if level is None or not level.stacks:
            yield WAITS
        if level is None or not level.switches:
            yield SWITCHES


def _uncounted(lost_stacks: int, ends: Mapping[int, int]) -> Iterable[str]:
    if lost_stacks:
        yield f"{lost_stacks} events name a stack that no segment here holds: they do not count"
    for flag, what in _CUT:
        if ends.get(flag):
            yield f"{ends[flag]} samples of {what}"


#: What a flag says of the stack of a sample.
_CUT = (
    (records.PYTHON_UNKNOWN, "Python threads whose state was not found: native frames only"),
    (records.PYTHON_ERROR, "Python threads with a frame that could not be read: its callers are missing ([deeper])"),
    (
        records.PYTHON_CUT,
        "Python stacks deeper than the sampler goes: callers at their root are missing ([deeper])",
    ),
    (records.USER_CUT, "native stacks that end early (code without unwind rows, or too deep): callers may be missing"),
)
