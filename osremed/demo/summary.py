"""What a story came to, as a table for people and a document for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.event import Event
from osremed.core.record import record
from osremed.core.units import format_bytes, format_duration
from osremed.runbook.model import Happening, Run, RunState


@record
class Chapter:
    """One host's half of the story, as measured. `resident`: VmRSS of each daemon."""

    host: str
    event: Event
    events: tuple[Event, ...]
    run: Run
    happenings: tuple[tuple[int, Happening], ...]
    shown_ns: int | None
    report: str
    policy_before: str
    policy_after: str
    gateway_alive: bool
    heartbeat_gap_ms: float
    answered: int
    failed: int
    slowest_ms: float
    kernel_oom_kills: int
    resident: Mapping[str, int]

    @property
    def helped(self) -> bool:
        return self.run.state is RunState.SUCCEEDED

    @property
    def ended_well(self) -> bool:
        """The peak succeeds with another policy; the other is undone byte for byte; the service and the kernel's OOM
        killer were left in peace."""
        policy_as_told = (self.policy_before == self.policy_after) is (self.run.state is RunState.UNDONE)
        ended = self.run.state is (RunState.SUCCEEDED if self.host == "demo-peak" else RunState.UNDONE)
        return ended and policy_as_told and self.gateway_alive and self.kernel_oom_kills == 0


def _instants(chapter: Chapter) -> Iterator[tuple[str, int]]:
    attributes = chapter.event.attributes
    for label, key in (
        ("level crossed", "crossed_ns"),
        ("decided", "decided_ns"),
        ("victims signalled", "signalled_ns"),
        ("memory free", "freed_ns"),
    ):
        at_ns = attributes.get(key)
        if isinstance(at_ns, int):
            yield label, at_ns
    yield "event recorded", chapter.event.time_ns
    if chapter.shown_ns is not None:
        yield "shown in Prefect", chapter.shown_ns
    labels = {
        "raised": "run started",
        "collected": "evidence collected",
        "decided": "plan made",
        "applied": "change applied",
        "verified": "verdict",
        "undone": "change undone",
    }
    for at_ns, happening in chapter.happenings:
        if happening.kind in labels:
            yield labels[happening.kind], at_ns


def _times(chapter: Chapter) -> Iterator[str]:
    instants = sorted(_instants(chapter), key=lambda instant: instant[1])
    first = previous = instants[0][1]
    for label, at_ns in instants:
        since_first, step = (at_ns - first) / 1e9, (at_ns - previous) / 1e9
        yield f"    {label:<20} {format_duration(since_first):>10}   +{format_duration(step)}"
        previous = at_ns


def _people(chapter: Chapter) -> Iterator[str]:
    for event in chapter.events:
        attributes = event.attributes
        level = f"{attributes.get('level')}, {attributes.get('available_ratio', 0):.1%} available"
        yield f"    {attributes.get('action')} (level {level}, sensitivity {attributes.get('sensitivity')})"
        for victim in attributes.get("killed", ()):
            size = format_bytes(victim["heap_bytes"])
            yield f"      ended   {victim['name']:<14} {size:>10}   {victim['why']}"
        for spared in attributes.get("spared", ())[:6]:
            yield f"      spared  {spared['name']:<14} {'':>10}   {spared['why']}"


def _chapter_text(chapter: Chapter) -> Iterator[str]:
    run = chapter.run
    yield f"{chapter.host}: {run.state.value}: {run.reason}"
    yield "  time since the level was crossed"
    yield from _times(chapter)
    yield "  who was ended and who was spared"
    yield from _people(chapter)
    yield "  findings"
    yield from (f"    {finding.name}: {finding.summary}" for finding in run.findings)
    yield "  change"
    for step in run.plan.steps if run.plan else ():
        yield from (f"    {line}" for line in step.diff.splitlines() if line.startswith(("+", "-")))
    yield from (f"    undo: {undo.action} {undo.result} {undo.detail}" for undo in run.undo)
    same = "the same bytes as before" if chapter.policy_before == chapter.policy_after else "changed and kept"
    yield f"    policy file: {same} (sha256 {chapter.policy_after[:12]})"
    yield "  verification"
    yield from (
        f"    {each.probe}: {each.verdict.value} ({each.tolerance}, {len(each.samples)} samples)"
        for each in run.results
    )
    alive = "alive" if chapter.gateway_alive else "DEAD"
    yield (
        f"  ota-gateway: {alive}, longest heartbeat gap {chapter.heartbeat_gap_ms:.0f} ms, {chapter.answered} requests "
        f"answered, {chapter.failed} failed, slowest {chapter.slowest_ms:.0f} ms"
    )
    yield f"  kernel OOM kills in the group: {chapter.kernel_oom_kills}"
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in chapter.resident.items())
    yield f"  resident: {sizes}"
    yield f"  report: {chapter.report}"


def _kill_to_run(chapter: Chapter) -> float | None:
    """Seconds from the first signal until Prefect showed the run."""
    signalled = chapter.event.attributes.get("signalled_ns")
    if not isinstance(signalled, int) or chapter.shown_ns is None:
        return None
    return (chapter.shown_ns - signalled) / 1e9


def summary_text(chapters: Sequence[Chapter]) -> str:
    lines = ["", "THE NEAR-OOM STORY", ""]
    for chapter in chapters:
        lines += [*_chapter_text(chapter), ""]
    delays = [delay for chapter in chapters if (delay := _kill_to_run(chapter)) is not None]
    lines.append(
        "from kill to a run in Prefect: " + ", ".join(format_duration(delay) for delay in delays) + " (target 2 s)"
    )
    verdict = "ended as it must" if all(chapter.ended_well for chapter in chapters) else "did NOT end as it must"
    lines.append(f"the story {verdict}")
    return "\n".join(lines)


def summary_document(chapters: Sequence[Chapter]) -> dict[str, Any]:
    return {
        "chapters": [
            {
                "host": chapter.host,
                "state": chapter.run.state.value,
                "reason": chapter.run.reason,
                "run_id": chapter.run.run_id,
                "kill_to_run_s": _kill_to_run(chapter),
                "instants_ns": dict(_instants(chapter)),
                "killed": [victim["name"] for event in chapter.events for victim in event.attributes.get("killed", ())],
                "gateway_alive": chapter.gateway_alive,
                "heartbeat_gap_ms": chapter.heartbeat_gap_ms,
                "kernel_oom_kills": chapter.kernel_oom_kills,
                "policy_unchanged": chapter.policy_before == chapter.policy_after,
                "resident_bytes": dict(chapter.resident),
                "report": chapter.report,
                "ended_well": chapter.ended_well,
            }
            for chapter in chapters
        ]
    }
