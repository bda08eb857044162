"""Two profiles -> what changed, and how sure that is. Unlike profiles are refused, not compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.hotspot.model import Frame, Profile, Sample, of_state
from osremed.hotspot.stats import LEAST_EFFECT, Estimate, discoveries, estimate, p_value
from osremed.hotspot.tree import stack_of, whole_function

_FEW_SAMPLES = 300
Path = tuple[Frame, ...]


@record
class Change:
    """A function or a path in both profiles. Shares are of all weight; `significant` holds the false-discovery rate and
    the least effect; `fresh` was not seen before, `vanished` is not seen after."""

    path: Path
    before: Estimate
    after: Estimate
    p_value: float
    significant: bool

    @property
    def effect(self) -> float:
        return self.after.share - self.before.share

    @property
    def fresh(self) -> bool:
        return self.before.share == 0 and self.after.share > 0

    @property
    def vanished(self) -> bool:
        return self.after.share == 0 and self.before.share > 0


@record
class Diff:
    """`functions` by effect, the greatest first, each with its share anywhere on a stack; `paths` are the nodes of the
    tree, if they were asked for. Only what has half a percentage point of either profile is tested. `cores` is weight
    per second of wall time, before and after."""

    state: str
    samples: tuple[int, int]
    cores: tuple[float, float]
    functions: tuple[Change, ...]
    paths: tuple[Change, ...]
    test: str
    warnings: tuple[str, ...]


def compare(before: Profile, after: Profile, state: str = "cpu", *, paths: bool = False) -> Diff:
    """`paths`: of the nodes of the tree too, which costs ten times as much. BadInput when the profiles were not taken
    alike, or one has nothing to compare."""
    _same_mode(before, after)
    pair = (weighted(before, state), weighted(after, state))
    for samples, which in zip(pair, ("before", "after")):
        if not samples:
            raise BadInput(f"no {state} samples in the window `{which}`", hint="osremed hotspot status")
    blocks = min(len({_second(sample) for sample in samples}) for samples in pair)
    timed = all(sample.at_ns for samples in pair for sample in samples)
    return Diff(
        state=state,
        samples=(_count(pair[0]), _count(pair[1])),
        cores=(_cores(pair[0], before), _cores(pair[1], after)),
        functions=_changes(pair, _functions_of),
        paths=_changes(pair, _paths_of) if paths else (),
        test=_test_name(timed, blocks),
        warnings=tuple(_warnings(before, after, pair, timed, blocks)),
    )


def _same_mode(before: Profile, after: Profile) -> None:
    """Rates may differ: a sample stands for its own time, and the recorder takes fewer just when a host is busy."""
    one, two = before.mode.clock, after.mode.clock
    if one != two:
        what = f"the profiles were not taken alike: clock {one} before, {two} after"
        raise BadInput(what, hint="compare windows of one clock; shares of different clocks mean different things")


def weighted(profile: Profile, state: str) -> tuple[Sample, ...]:
    """The samples of a state that stand for any time."""
    return tuple(sample for sample in of_state(profile, state) if sample.weight_ns > 0)


def _cores(samples: Sequence[Sample], profile: Profile) -> float:
    return sum(sample.weight_ns for sample in samples) / 1e9 / max(profile.duration_s, 1e-9)


def _count(samples: Sequence[Sample]) -> int:
    return sum(sample.merged for sample in samples)


def _second(sample: Sample) -> int:
    return sample.at_ns // 1_000_000_000


def _functions_of(sample: Sample) -> Iterable[Path]:
    return {(whole_function(frame),) for frame in sample.stack if frame.kind != "note"}


def _paths_of(sample: Sample) -> Iterable[Path]:
    frames = stack_of(sample)
    return (frames[:depth] for depth in range(1, len(frames) + 1))


class _Blocks:
    """Weight by second, of all and of each subject, in units of the mean sample: binomial errors need counts."""

    def __init__(self, samples: Sequence[Sample], subjects: Callable[[Sample], Iterable[Path]]) -> None:
        unit_ns = sum(sample.weight_ns for sample in samples) / sum(sample.merged for sample in samples)
        first = min(_second(sample) for sample in samples)
        self._first, self.totals = first, [0.0] * (max(_second(sample) for sample in samples) - first + 1)
        self.hits: dict[Path, dict[int, float]] = {}
        known: dict[tuple[object, ...], tuple[Path, ...]] = {}  # stacks repeat
        for sample in samples:
            at, weight = _second(sample) - first, sample.weight_ns / unit_ns
            self.totals[at] += weight
            key = (sample.process, sample.container, sample.state, sample.syscall, sample.stack)
            if key not in known:
                known[key] = tuple(subjects(sample))
            for subject in known[key]:
                seconds = self.hits.setdefault(subject, {})
                seconds[at] = seconds.get(at, 0.0) + weight
        self.total = sum(self.totals)

    def share(self, subject: Path) -> float:
        return sum(self.hits.get(subject, {}).values()) / self.total

    def estimate(self, subject: Path) -> Estimate:
        seconds = self.hits.get(subject, {})
        return estimate([seconds.get(at, 0.0) for at in range(len(self.totals))], self.totals)


def _changes(
    pair: tuple[Sequence[Sample], Sequence[Sample]], subjects: Callable[[Sample], Iterable[Path]]
) -> tuple[Change, ...]:
    blocks = [_Blocks(samples, subjects) for samples in pair]
    known = sorted(set(blocks[0].hits) | set(blocks[1].hits))
    tested = [path for path in known if max(block.share(path) for block in blocks) >= LEAST_EFFECT]
    estimates = [(blocks[0].estimate(path), blocks[1].estimate(path)) for path in tested]
    p_values = [p_value(one, two) for one, two in estimates]
    changes = [
        Change(path, one, two, p, found and abs(two.share - one.share) >= LEAST_EFFECT)
        for path, (one, two), p, found in zip(tested, estimates, p_values, discoveries(p_values))
    ]
    return tuple(sorted(changes, key=lambda change: (-abs(change.effect), change.path)))


def _test_name(timed: bool, blocks: int) -> str:
    errors = f"errors from blocks of 1 to 8 s ({blocks} seconds seen)" if timed else "binomial errors (no times)"
    return f"difference of shares, {errors}; false-discovery rate 1 %, least effect 0.5 percentage points"


def _warnings(
    before: Profile, after: Profile, pair: tuple[Sequence[Sample], Sequence[Sample]], timed: bool, blocks: int
) -> Iterable[str]:
    fewest = min(_count(samples) for samples in pair)
    if fewest < _FEW_SAMPLES:
        yield f"only {fewest} samples in the smaller window: changes below several points cannot be seen"
    if timed and blocks < 16:
        yield f"only {blocks} seconds in the shorter window: the errors are not well known"
    if before.mode.hz != after.mode.hz:
        rates = [f"{mode.hz} a second" if mode.hz else "changing rates" for mode in (before.mode, after.mode)]
        yield f"samples were taken at {rates[0]} before, at {rates[1]} after: each counts with the time it stands for"
    if before.mode.cpus != after.mode.cpus:
        yield f"{before.mode.cpus} CPUs before, {after.mode.cpus} after: compare cores with care"
    for name, profile in (("before", before), ("after", after)):
        if profile.lost:
            yield f"{profile.lost} records lost in the window `{name}`"
