"""What the flood came to: claims, each true or not, a text for people and a document for machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.event import Event
from osremed.core.probe import Verdict
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.demo.flooded import SERVICE, TRAP
from osremed.runbook.model import ProbeResult, Run, RunState

PROBE = "answers.p99_ratio"
RATIO = 0.8


@record
class Lookback:
    """What the recorder's ring says of the second; empty where it says nothing."""

    hottest: str
    names: tuple[str, ...]
    trap: str
    who: str
    where: str
    summary: str
    fix: str
    expected_gain: str


def lookback_of(at: Mapping[str, Any], traps: Mapping[str, Any]) -> Lookback:
    """From the documents of `hotspot at` and `hotspot traps`."""
    rows = at["states"]["cpu"]["processes"]
    ours = [trap for trap in traps["findings"] if trap["name"] == TRAP and trap["who"].startswith(f"{SERVICE}[")]
    found: Mapping[str, Any] = ours[0] if ours else {}
    return Lookback(
        hottest=", ".join(f"{row['name']} {row['seconds']:.2f} s" for row in rows[:3]),
        names=tuple(row["name"] for row in rows),
        trap=str(found.get("name", "")),
        who=str(found.get("who", "")),
        where=str(found.get("where", "")),
        summary=str(found.get("summary", "none")),
        fix=str(found.get("fix", "")),
        expected_gain=str(found.get("expected_gain", "")),
    )


@record
class Mending:
    """A run of the trap's runbook, and the service's configuration. `customers_…`: the P99 of the flood itself."""

    run: Run
    approved_by: str
    p99_before_ms: float | None
    customers_before_ms: float | None
    customers_after_ms: float | None
    config_before: bytes
    config_after: bytes
    undo_left: tuple[Any, ...]
    report: str

    @property
    def proof(self) -> ProbeResult | None:
        return next((each for each in self.run.results if each.probe == PROBE), None)

    @property
    def ratio(self) -> float | None:
        """The last one that was measured."""
        values = [each["value"] for each in self.proof.samples] if self.proof else []
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        return numbers[-1] if numbers else None

    @property
    def config_unchanged(self) -> bool:
        return self.config_before == self.config_after

    def proven(self, verdict: Verdict) -> bool:
        return self.proof is not None and self.proof.verdict is verdict


@record
class Launch:
    host: str
    seconds: int
    calm_ms: float
    oom_events: tuple[Event, ...]
    gateway_alive: bool
    logcollect_alive: bool
    kernel_oom_kills: int
    jitter: Event
    flood_ns: int
    lookback: Lookback
    mending: Mending

    @property
    def killed(self) -> list[Mapping[str, Any]]:
        return [victim for event in self.oom_events for victim in event.attributes.get("killed", ())]


@record
class Placebo:
    host: str
    mending: Mending
    gateway_alive: bool


def claims_of(launch: Launch, placebo: Placebo) -> dict[str, bool]:
    """Each claim of the story in words, and whether it held."""
    killed = [victim["name"] for victim in launch.killed]
    back, mended, undone = launch.lookback, launch.mending, placebo.mending
    return {
        "FastOOM ended processes of the flood, and nobody else": bool(killed) and set(killed) == {"ota-burst"},
        "the service and the log collector lived": launch.gateway_alive and launch.logcollect_alive,
        "the kernel never had to kill": launch.kernel_oom_kills == 0,
        "a late answer of the service was told with its second": launch.jitter.attributes["worst"] == "ota-gateway"
        and launch.jitter.attributes["second_ns"] >= launch.flood_ns - 10**9,
        "the look back to that second shows the service on the CPU": any("ota-gateway" in each for each in back.names),
        "the trap there is the service's reading, with advice and gain": back.trap == TRAP
        and back.who.startswith("ota-gateway[")
        and "keep the result" in back.fix
        and bool(back.expected_gain),
        "somebody approved the switch": bool(mended.approved_by) and bool(undone.approved_by),
        "the switch was kept: P99 is at most 0.8 of before": mended.run.state is RunState.SUCCEEDED
        and mended.proven(Verdict.HOLDS)
        and mended.ratio is not None
        and mended.ratio <= RATIO,
        "the configuration has the switch, and the host holds no undo for it": not mended.config_unchanged
        and not mended.undo_left,
        "the placebo was not proven, and was taken back": undone.run.state is RunState.UNDONE
        and undone.proven(Verdict.FAILS)
        and [each.result for each in undone.run.undo] == ["restored"],
        "its configuration has the bytes of before": undone.config_unchanged and not undone.undo_left,
        "its service lived": placebo.gateway_alive,
    }


def text_of(launch: Launch, placebo: Placebo, claims: Mapping[str, bool]) -> Iterator[str]:
    yield from ("", "THE COMMAND FLOOD", "")
    yield from _launch_text(launch)
    yield ""
    yield f"{placebo.host}: the same flood, and a switch that does nothing"
    yield from _mending_text(placebo.mending)
    yield from ("", "what was claimed")
    yield from (f"  {'held' if held else 'DID NOT HOLD':<12}  {words}" for words, held in claims.items())
    yield f"the story {'ended as it must' if all(claims.values()) else 'did NOT end as it must'}"


def _launch_text(launch: Launch) -> Iterator[str]:
    yield f"{launch.host}: memory flooded in for {launch.seconds} s, requests until the run had ended"
    killed, back = launch.killed, launch.lookback
    freed = format_bytes(sum(victim["heap_bytes"] for victim in killed))
    names = sorted({victim["name"] for victim in killed})
    yield f"  FastOOM ended {len(killed)} processes of the flood ({', '.join(names)}, {freed} of heap)"
    yield f"  ota-gateway {_life(launch.gateway_alive)}, logcollect {_life(launch.logcollect_alive)}"
    yield f"  kernel OOM kills in the group: {launch.kernel_oom_kills}"
    sign = launch.jitter.attributes["signs"][0]
    second = time.strftime("%H:%M:%S", time.localtime(launch.jitter.attributes["second_ns"] // 10**9))
    yield f"  jitter: an answer took {1000 * sign['value']:.0f} ms at {second}; {launch.calm_ms:.1f} ms in the calm"
    yield f"  that second, on the CPU: {back.hottest}"
    yield f"  trap {back.trap}: {back.summary}"
    yield f"    at {back.where}"
    yield f"    advice: {back.fix}; gain: {back.expected_gain}"
    yield from _mending_text(launch.mending)


def _life(alive: bool) -> str:
    return "alive" if alive else "DEAD"


def _mending_text(mending: Mending) -> Iterator[str]:
    run = mending.run
    yield f"  run {run.run_id} {run.state.value}: {run.reason}"
    yield from (f"    finding {finding.name}: {finding.summary}" for finding in run.findings)
    for step in run.plan.steps if run.plan else ():
        yield from (
            f"    {line}"
            for line in step.diff.splitlines()
            if line.startswith(("+", "-")) and line[1:3] not in ("++", "--")
        )
    yield f"    approved by {mending.approved_by or 'nobody'}"
    if mending.proof is not None:
        yield f"    {PROBE}: {mending.proof.verdict.value} ({mending.proof.tolerance}, last {_number(mending.ratio)})"
    after = None
    if mending.p99_before_ms is not None and mending.ratio is not None:
        after = mending.p99_before_ms * mending.ratio
    yield f"    P99 as the probe asked: {_ms(mending.p99_before_ms)} before, {_ms(after)} after"
    felt = f"{_ms(mending.customers_before_ms)} before, {_ms(mending.customers_after_ms)} after"
    yield f"    P99 of the flood itself: {felt}"
    yield from (f"    undo: {undo.action} {undo.result} {undo.detail}".rstrip() for undo in run.undo)
    yield f"    configuration: {'the same bytes as before' if mending.config_unchanged else 'changed and kept'}"
    yield f"    report: {mending.report}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f} ms"


def document_of(launch: Launch, placebo: Placebo, claims: Mapping[str, bool]) -> dict[str, Any]:
    sign = launch.jitter.attributes["signs"][0]
    return {
        "claims": dict(claims),
        "launch": {
            "host": launch.host,
            "killed": [victim["name"] for victim in launch.killed],
            "gateway_alive": launch.gateway_alive,
            "logcollect_alive": launch.logcollect_alive,
            "kernel_oom_kills": launch.kernel_oom_kills,
            "calm_ms": launch.calm_ms,
            "flood_ns": launch.flood_ns,
            "jitter": {**launch.jitter.attributes, "took_ms": 1000 * sign["value"]},
            "lookback": {
                name: getattr(launch.lookback, name) for name in ("names", "trap", "who", "fix", "expected_gain")
            },
            **_mending_document(launch.mending),
        },
        "placebo": {
            "host": placebo.host,
            "gateway_alive": placebo.gateway_alive,
            **_mending_document(placebo.mending),
        },
    }


def _mending_document(mending: Mending) -> dict[str, Any]:
    run = mending.run
    return {
        "run_id": run.run_id,
        "state": run.state.value,
        "reason": run.reason,
        "findings": [finding.name for finding in run.findings],
        "actions": [step.action for step in run.plan.steps] if run.plan else [],
        "approved_by": mending.approved_by,
        "verdict": mending.proof.verdict.value if mending.proof else "",
        "p99_before_ms": mending.p99_before_ms,
        "p99_ratio": mending.ratio,
        "customers_before_ms": mending.customers_before_ms,
        "customers_after_ms": mending.customers_after_ms,
        "undo": [each.result for each in run.undo],
        "undo_left": len(mending.undo_left),
        "config_unchanged": mending.config_unchanged,
        "report": mending.report,
    }
