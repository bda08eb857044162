"""The command line's functions on series: `osremed fastoom record | simulate`."""

from __future__ import annotations

import os
import time
from typing import Any

from osremed.core.answer import Answer
from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.core.language import filled
from osremed.core.paths import host_name, host_paths
from osremed.core.reading import Missing, Value
from osremed.core.units import format_bytes, parse_duration_s
from osremed.fastoom import collect, levels, series
from osremed.fastoom.plan import FLOOR_BYTES
from osremed.fastoom.policy import Policy, load_policy
from osremed.fastoom.simulate import Decision, LevelAt, simulate

_SHOWN = 30
_MOST_LOOKS = 100_000


def record_series(*, out: str, lasting: str = "60s", every: str = "1s", policy: str | None = None) -> Answer:
    """Looks at the policy's scopes `every` so often for so long and writes the series. Reads only. The file must not
    exist yet; it holds command lines, so it is for root alone."""
    lasting_s, every_s = parse_duration_s(lasting), parse_duration_s(every)
    if every_s < 0.05 or lasting_s / every_s > _MOST_LOOKS:
        raise BadInput("too many looks", hint="at least 50 ms apart, at most 100,000")
    loaded = load_policy(policy or host_paths().fastoom_policy)
    source = collect.open_source(asked=frozenset({"exe", "cgroup"}))
    try:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BadInput("there is such a file already", where=out, hint="name another one") from None
    looks, began = 0, time.monotonic()
    with os.fdopen(fd, "wb") as stream:
        head = {"series": series.FORMAT, "host": host_name(), "started_ns": time.time_ns()}
        stream.write(canonical_json(head) + b"\n")
        while True:
            at_s = time.monotonic() - began
            stream.write(canonical_json(series.look_as_json(_look(loaded, source, at_s))) + b"\n")
            looks += 1
            if at_s + every_s > lasting_s:
                break
            time.sleep(max(0.0, began + looks * every_s - time.monotonic()))
    document = {"path": out, "looks": looks, "lasting_s": round(time.monotonic() - began, 3)}
    return Answer(document, filled("{1}: {2} looks in {3} s", out, str(looks), str(document["lasting_s"])))


def _look(policy: Policy, source: collect.Source, at_s: float) -> series.Look:
    scopes = [scope for entry in policy.scopes for scope in collect.expand(entry, source)]
    members = {scope.label: collect.members(scope, source) for scope in scopes}
    pids: frozenset[int] = frozenset().union(*(one.value for one in members.values() if isinstance(one, Value)))
    return series.Look(
        at_s=at_s,
        signals={scope.label: collect.signals(scope, source, time.monotonic_ns()) for scope in scopes},
        members={label: one.value for label, one in members.items() if isinstance(one, Value) and label != "node"},
        processes=collect.scan(pids, FLOOR_BYTES, source).processes,
    )


def run_simulation(*, file: str, policy: str | None = None, against: str | None = None) -> Answer:
    """What the policy would have done on a recorded series; with `against`, what each of the two would have done and
    how much earlier. Ends nobody."""
    first = load_policy(policy or host_paths().fastoom_policy)
    policies = [first] if against is None else [first, load_policy(against)]
    results = []
    for one in policies:
        try:
            with open(file, "rb") as stream:
                results.append((one, *simulate(series.read_series(stream, file), one)))
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror}", where=file) from error
    document: dict[str, Any] = {"file": file, "policies": [_document(*each) for each in results]}
    lines = [line for each in results for line in _lines(*each)]
    if against is not None:
        document["earlier_s"] = _earlier(results[0][1], results[1][1])
        lines.append(_comparison(results, document["earlier_s"]))
    return Answer(document, "\n".join(lines))


def _document(policy: Policy, decisions: list[Decision], told: list[LevelAt]) -> dict[str, Any]:
    return {
        "path": policy.path,
        "sensitivity": policy.sensitivity,
        "sha256": policy.sha256,
        "decisions": [_decision(one) for one in decisions],
        "levels": [
            {"at_s": one.at_s, "scope": one.change.scope.label, "level": levels.WORDS[one.change.level]} for one in told
        ],
    }


def _decision(one: Decision) -> dict[str, Any]:
    done = one.intervention
    return {
        "at_s": one.at_s,
        "scope": done.scope.label,
        "action": done.action,
        "available_ratio": round(done.signals.available_ratio, 4),
        "deficit_bytes": done.deficit_bytes,
        "victims": [
            {
                "pid": each.candidate.process.pid,
                "name": each.candidate.process.name,
                "heap_bytes": each.candidate.process.heap_bytes,
                "why": each.candidate.why,
            }
            for each in done.killed
        ],
        "missing": list(done.missing),
    }


def _lines(policy: Policy, decisions: list[Decision], told: list[LevelAt]) -> list[str]:
    acted = [one for one in decisions if one.intervention.action == "killed"]
    ended = sum(len(one.intervention.killed) for one in acted)
    named = (policy.path, policy.sensitivity, str(len(acted)), str(ended))
    lines = [filled("{1} ({2}): {3} interventions, {4} processes ended", *named)]
    moments = [
        (one.at_s, 0, filled("{1} level {2}", one.change.scope.label, levels.WORDS[one.change.level])) for one in told
    ]
    moments += [(one.at_s, 1, _said(one)) for one in decisions]
    lines += [f"  {at_s:8.1f} s  {text}" for at_s, _, text in sorted(moments)[:_SHOWN]]
    return lines + ([filled("  ... and {1} more", str(len(moments) - _SHOWN))] if len(moments) > _SHOWN else [])


def _said(one: Decision) -> str:
    done = one.intervention
    names = ", ".join(f"{each.candidate.process.name}[{each.candidate.process.pid}]" for each in done.killed)
    what = f"{done.action} {names}".encode("unicode_escape").decode("ascii").rstrip()
    after = done.available_after_bytes
    then = "" if isinstance(after, Missing) else f" -> {format_bytes(after)}"
    before = format_bytes(done.signals.available_bytes)
    return filled("{1}: {2}; available {3}", done.scope.label, what, f"{before}{then}")


def _earlier(one: list[Decision], other: list[Decision]) -> float | None:
    """By how many seconds the other's first kill comes before the one's; None when either has none."""
    firsts = [[each.at_s for each in found if each.intervention.action == "killed"][:1] for found in (one, other)]
    return round(firsts[0][0] - firsts[1][0], 3) if all(firsts) else None


def _comparison(results: list[tuple[Policy, list[Decision], list[LevelAt]]], earlier_s: float | None) -> str:
    names = [each[0].path for each in results]
    if earlier_s is None:
        return filled("not both of {1} and {2} would have stepped in", *names)
    told = (names[1], f"{abs(earlier_s):.1f}", names[0])
    if earlier_s >= 0:
        return filled("{1} would have stepped in {2} s earlier than {3}", *told)
    return filled("{1} would have stepped in {2} s later than {3}", *told)


__all__ = ["record_series", "run_simulation"]
