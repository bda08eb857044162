"""What the VRAM story came to: its claims with the figures they rest on, as text, as a document and as a page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from osremed.core.event import Event
from osremed.core.files import read_bytes, write_atomic
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.demo.vram_picture import Sight, draw_vram, instants
from osremed.demo.vram_stage import APPROVER, MIB, SERVER
from osremed.report.svg import STYLE, inline, standalone
from osremed.runbook.model import Applied, Happening, Run, RunState
from osremed.timeline.growth import growth

_WITNESS_SLACK_REQUESTS = 3
_FLAT, _BACK = 0.1, 0.5  #: of the slope before: at most, at least
_SCRATCH_MIB = {0: 26, 1: 14}


@record
class Claim:
    """`rests_on`: what was measured, in words."""

    name: str
    holds: bool
    rests_on: str


@record
class Chapter:
    """One host's half of the story. `keeps`: its program itself holds on to memory, so that no limit helps.
    `before` and `after`: what the server said of itself at the alert and at the end. `program`: its path there."""

    host: str
    keeps: bool
    unit: str
    event: Event
    run: Run
    happenings: tuple[tuple[int, Happening], ...]
    others: tuple[str, ...]
    sights: tuple[Sight, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    drop_in: str
    report: str
    program: str = SERVER

    @property
    def gpu(self) -> int:
        return int(self.event.attributes["gpu"])

    @property
    def chain(self) -> Mapping[str, Any]:
        """Of the process that took most; empty when the alert names none."""
        chains = self.event.attributes.get("chains") or [{}]
        found: Mapping[str, Any] = chains[0]
        return found

    @property
    def slopes(self) -> tuple[tuple[float, float], ...]:
        """Of each GPU, bytes a second until the alert and after the restart."""
        moments = instants(self.event, self.happenings)
        return tuple(
            (
                _slope(self.sights, gpu, self.sights[0].at_ns, moments["alert"]),
                _slope(self.sights, gpu, moments["restarted"], moments["verdict"]),
            )
            for gpu in range(len(self.sights[0].used_bytes))
        )

    @property
    def claims(self) -> tuple[Claim, ...]:
        return (*_explained(self), *_changed(self), *_proved(self))


def read_sights(path: str) -> tuple[Sight, ...]:
    lines = [json.loads(line) for line in read_bytes(path).splitlines()]
    return tuple(Sight(line["at_ns"], tuple(line["used_bytes"])) for line in lines)


def _slope(sights: Sequence[Sight], gpu: int, from_ns: int, until_ns: int) -> float:
    points = [(each.at_ns / 1e9, each.used_bytes[gpu]) for each in sights if from_ns <= each.at_ns <= until_ns]
    found = growth(points)
    return float("nan") if found is None else found.slope_bytes_per_s


def the_line(program: str) -> str:
    """FILE:LINE of the only line of the server's program that takes scratch memory."""
    lines = read_bytes(SERVER).decode().splitlines()
    return f"{program}:{next(at for at, line in enumerate(lines, 1) if line.endswith('# THE LINE'))}"


def _explained(chapter: Chapter) -> Iterator[Claim]:
    chain, facts = chapter.chain, chapter.event.attributes
    place = (chain.get("places") or [{}])[0]
    stack = [line.split(" ")[0] for line in place.get("python", ())]
    marks = place.get("marks", ())
    yield Claim("the line that asks is named", chain.get("line") == the_line(chapter.program), str(chain.get("line")))
    inference = any(name.endswith("decorate_context") for name in stack)
    yield Claim("its stack runs through decorate_context", inference, " < ".join(stack))
    size = _SCRATCH_MIB[chapter.gpu] * MIB
    sizes = f"{len(marks)} marked allocations of {', '.join(sorted({format_bytes(each) for _, each in marks}))}"
    yield Claim("each marked allocation is what a request takes", {each for _, each in marks} == {size}, sizes)
    seen = chain.get("explained", 0)
    yield Claim(
        "the growth was seen being allocated", seen >= 0.9, f"{seen:.0%} of {format_bytes(facts['grown_bytes'])}"
    )
    verdict = place.get("family") == "caching allocator" and "caching-allocator" in _findings(chapter.run)
    yield Claim("the verdict is the caching allocator", verdict, str(facts["signature"]))
    usage = chapter.before["kv_cache_usage"]
    yield Claim("the KV cache is not full", usage < 0.5, f"{usage:.0%} after {chapter.before['requests']} requests")
    witnessed = _witnessed(chapter)
    slack = _WITNESS_SLACK_REQUESTS * size
    both = f"{format_bytes(witnessed)} by nvidia-ml-py, {format_bytes(facts['grown_bytes'])} by the watch"
    yield Claim("NVIDIA's own binding saw the same growth", abs(witnessed - facts["grown_bytes"]) <= slack, both)


def _findings(run: Run) -> list[str]:
    return [finding.name for finding in run.findings]


def _witnessed(chapter: Chapter) -> int:
    """What the witness saw grow in the span of the alert."""
    until_ns = chapter.event.time_ns
    from_ns = until_ns - round(chapter.event.attributes["span_s"] * 1e9)
    used = [each.used_bytes[chapter.gpu] for each in chapter.sights if from_ns <= each.at_ns <= until_ns]
    return used[-1] - used[0] if used else 0


def _changed(chapter: Chapter) -> Iterator[Claim]:
    run = chapter.run
    steps = [step.action for step in run.plan.steps] if run.plan else []
    yield Claim("the plan is the limit, then the restart", steps == ["gpu_app_limits", "service_restart"], str(steps))
    yield Claim("a person approved it", run.approved_by == APPROVER, f"by {run.approved_by}")
    gate = [each.outcome.result for _, each in chapter.happenings if isinstance(each, Applied) and each.step == 1]
    healthy = bool(gate) and gate[0].get("healthy") is True
    waited = f"its health address answered without a break, {gate[0]['waited_s']:.1f} s after it" if healthy else "no"
    yield Claim("the server was healthy after its restart", healthy, waited)


def _proved(chapter: Chapter) -> Iterator[Claim]:
    more = chapter.after["requests"]
    yield Claim("it served on", more >= 10, f"{more} requests since the restart")
    ratios = ", ".join(
        f"GPU {gpu}: {before / MIB * 60:.0f} -> {after / MIB * 60:.0f} MiB/min"
        for gpu, (before, after) in enumerate(chapter.slopes)
    )
    rose = all(before > 0 for before, _after in chapter.slopes)
    if chapter.keeps:
        back = rose and all(after >= _BACK * before for before, after in chapter.slopes)
        yield Claim("the limit does not help a program that holds on to its memory", back, ratios)
        undo = {each.action: each.result for each in chapter.run.undo}
        # The restart cannot be taken back, and is what the run says is left.
        undone = undo == {"gpu_app_limits": "restored", "service_restart": "irreversible"}
        yield Claim("the verification failed, and the limit was taken back", undone, chapter.run.reason)
        yield Claim("the drop-in is gone", not chapter.drop_in, chapter.drop_in or "no file, as before")
        return
    flat = rose and all(abs(after) <= _FLAT * before for before, after in chapter.slopes)
    yield Claim("the memory is flat", flat, ratios)
    yield Claim("the run succeeded", chapter.run.state is RunState.SUCCEEDED, chapter.run.reason)
    kept = "PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8" in chapter.drop_in
    yield Claim("the drop-in is kept", kept, chapter.drop_in.strip().splitlines()[-1] if chapter.drop_in else "no file")


# --- telling ---


def _chapter_text(chapter: Chapter) -> Iterator[str]:
    run = chapter.run
    yield f"{chapter.host}: {run.state.value}: {run.reason}"
    yield "  since the alert"
    moments = instants(chapter.event, chapter.happenings)
    yield from (f"    {label:<12} +{(at_ns - moments['alert']) / 1e9:.1f} s" for label, at_ns in moments.items())
    yield "  findings"
    yield from (f"    {finding.name}: {finding.summary}" for finding in run.findings)
    yield "  the stack of the allocations, innermost first"
    yield from (f"    {line}" for line in (chapter.chain.get("places") or [{}])[0].get("python", ()))
    yield "  change"
    for step in run.plan.steps if run.plan else ():
        changed = (each for each in step.diff.splitlines() if each[:1] in "+-" and each[:3] not in ("+++", "---"))
        yield from (f"    {each[0]}{each[1:].rpartition('.conf: ')[2]}" for each in changed)
    yield from (f"    undo: {undo.action} {undo.result} {undo.detail}" for undo in run.undo)
    yield from (f"  other alerts of the host: {other}" for other in chapter.others)
    yield "  claims"
    for claim in chapter.claims:
        yield f"    {'holds' if claim.holds else 'FAILS'}  {claim.name}: {claim.rests_on}"
    yield f"  report of the run: {chapter.report}"


def summary_text(chapters: Sequence[Chapter], page: str) -> str:
    lines = ["", "THE VRAM STORY", ""]
    for chapter in chapters:
        lines += [*_chapter_text(chapter), ""]
    good = all(claim.holds for chapter in chapters for claim in chapter.claims)
    lines += [f"report with the timeline: {page}", "every claim held" if good else "NOT every claim held"]
    return "\n".join(lines)


def summary_document(chapters: Sequence[Chapter], page: str) -> dict[str, Any]:
    return {"chapters": [_chapter_document(chapter) for chapter in chapters], "page": page}


def _chapter_document(chapter: Chapter) -> dict[str, Any]:
    run = chapter.run
    place = (chapter.chain.get("places") or [{}])[0]
    return {
        "host": chapter.host,
        "unit": chapter.unit,
        "state": run.state.value,
        "reason": run.reason,
        "run_id": run.run_id,
        "gpu": chapter.gpu,
        "line": chapter.chain.get("line"),
        "stack": place.get("python", []),
        "marks": place.get("marks", []),
        "verdict": place.get("family"),
        "cause": chapter.chain.get("cause"),
        "findings": _findings(run),
        "approved_by": run.approved_by,
        "moments_ns": instants(chapter.event, chapter.happenings),
        "kv_cache_usage": chapter.before["kv_cache_usage"],
        "slopes_bytes_per_s": [{"before": before, "after": after} for before, after in chapter.slopes],
        "drop_in": chapter.drop_in,
        "undo": [{"action": undo.action, "result": undo.result} for undo in run.undo],
        "others": list(chapter.others),
        "report": chapter.report,
        "claims": [{"name": each.name, "holds": each.holds, "rests_on": each.rests_on} for each in chapter.claims],
    }


def write_page(chapters: Sequence[Chapter], directory: str) -> str:
    """A self-contained page with the timeline of each host, and each timeline as a file of its own; the page's path."""
    os.makedirs(directory, exist_ok=True)
    parts = []
    for chapter in chapters:
        drawing = draw_vram(chapter.sights, chapter.chain, instants(chapter.event, chapter.happenings), chapter.gpu)
        write_atomic(os.path.join(directory, f"{chapter.host}.svg"), standalone(drawing).encode())
        text = escape("\n".join(_chapter_text(chapter)))
        parts.append(f"<h2>{escape(chapter.host)}</h2>\n{inline(drawing)}\n<pre>{text}</pre>")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>VRAM growth</title><style>'
        f"{STYLE}body{{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto}}"
        "svg{max-width:100%;height:auto}"
        "pre{white-space:pre-wrap}</style></head><body>\n<h1>VRAM grows though the KV cache is not full</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path = os.path.join(directory, "vram-growth.html")
    write_atomic(path, page.encode())
    return path
