"""The probes of this host: name -> one number now, and the loop that watches it until there is a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from osremed.agent import answers, gauges
from osremed.agent.arguments import cgroup_of, check_arguments
from osremed.core.clock import Clock
from osremed.core.errors import BadInput, Unavailable
from osremed.core.probe import ProbeSample, Tolerance, Verdict, judge, sample_as_json
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.fastoom.collect import open_source, signals
from osremed.fastoom.model import Scope, Signals

SAMPLE_EVERY_S = 0.25
_MAX_SAMPLES = 2400
_WITHIN_MAX_S = 86_400.0
_LATE_FACTOR = 4  #: a sample this many intervals late leaves a stretch nobody has seen

Probe = gauges.Probe


@record
class ProbeKind:
    """`prepare` checks the arguments' sense once and returns what is called for each sample."""

    prepare: Callable[..., Probe]
    arguments: Mapping[str, type]


@record
class Probed:
    verdict: Verdict
    samples: tuple[ProbeSample, ...]

    def as_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict.value, "samples": [sample_as_json(sample) for sample in self.samples]}


def run_probe(
    name: str, arguments: Mapping[str, Any], tolerance: Tolerance, clock: Clock, sleep: Callable[[float], None]
) -> Probed:
    """Samples every 250 ms (every `within` / 2400 if that is longer) until the verdict is certain or `within` is over.
    A stretch in which nothing was sampled, because the host stalled, is a gap: nobody saw it hold."""
    probe = prepare_probe(name, arguments)
    if tolerance.within_s > _WITHIN_MAX_S:
        raise BadInput(f"`within` is {tolerance.within_s:g} s", where=name, hint="at most 1d")
    every_s = max(SAMPLE_EVERY_S, tolerance.within_s / _MAX_SAMPLES)
    begin_ns = clock.monotonic_ns()
    samples: list[ProbeSample] = []
    while True:
        at_s = (clock.monotonic_ns() - begin_ns) / 1e9
        late_s = at_s - samples[-1].at_s - every_s if samples else 0.0
        if late_s > _LATE_FACTOR * every_s:
            samples.append(ProbeSample(at_s, Missing(Reason.TIMED_OUT, name, f"not sampled for {late_s:.1f} s")))
        samples.append(ProbeSample(at_s, probe()))
        ended = at_s >= tolerance.within_s
        verdict = judge(samples, tolerance, ended=ended)
        if verdict is not None:
            return Probed(verdict, tuple(samples))
        now_s = (clock.monotonic_ns() - begin_ns) / 1e9
        sleep(max(0.0, min(at_s + every_s, tolerance.within_s) - now_s))


def prepare_probe(name: str, arguments: Mapping[str, Any]) -> Probe:
    """What is called for each sample. BadInput, with the list, for another name or argument."""
    if name not in PROBES:
        raise BadInput(f"no probe {name!r}", hint=f"probes: {', '.join(sorted(PROBES))}")
    kind = PROBES[name]
    return kind.prepare(**check_arguments(arguments, kind.arguments, where=name))


def _memory(number: Callable[[Signals], float], scope: str) -> Probe:
    """As the guard sees it: the same reading, the same arithmetic."""
    group = cgroup_of(scope)
    guarded, source = Scope(group or ""), open_source()

    def probe() -> Reading[float]:
        reading = signals(guarded, source)
        return reading if isinstance(reading, Missing) else Value(float(number(reading.value)))

    return probe


def _available_ratio(*, scope: str = "node") -> Probe:
    return _memory(lambda read: read.available_bytes / read.limit_bytes, scope)


def _available_bytes(*, scope: str = "node") -> Probe:
    return _memory(lambda read: read.available_bytes, scope)


def _gpu_alerts(*, name: str = "", gpu: int = 10_000) -> Probe:
    """How many alerts the GPU watch holds now; all, or those of an event's name, or of one GPU (the
    host's own below 0), or both."""
    from osremed.timeline.verbs import running_status  # noqa: PLC0415  read only when asked: the agent stays small

    def probe() -> Reading[float]:
        try:
            alerts = running_status()["alerts"]
        except Unavailable as error:
            return Missing(Reason.NO_DATA, error.where, error.what)
        subject = (
            "" if gpu == 10_000 else f"gpu{gpu}" if gpu >= 0 else "host"
        )  # no argument is too large a number to be a GPU
        found = [each for each in alerts if name in ("", each["name"]) and subject in ("", each["subject"])]
        return Value(float(len(found)))

    return probe


PROBES: Mapping[str, ProbeKind] = {
    "answers.p99_ratio": ProbeKind(answers.p99_ratio, {"service": str, "of": str}),
    "cpu.stall_ratio": ProbeKind(gauges.cpu_stall_ratio, {}),
    "cpu.throttled_ratio": ProbeKind(gauges.throttled_ratio, {"scope": str}),
    "cpu.used": ProbeKind(gauges.used_cpus, {"scope": str}),
    "gpu.alerts": ProbeKind(_gpu_alerts, {"name": str, "gpu": int}),
    "io.stall_ratio": ProbeKind(gauges.io_stall_ratio, {}),
    "memory.available_bytes": ProbeKind(_available_bytes, {"scope": str}),
    "memory.available_ratio": ProbeKind(_available_ratio, {"scope": str}),
    "memory.dying_ratio": ProbeKind(gauges.dying_ratio, {"scope": str, "of": str}),
    "memory.free_ratio": ProbeKind(gauges.free_ratio, {"scope": str}),
    "memory.held_ratio": ProbeKind(gauges.held_ratio, {"scope": str, "of": str}),
}
