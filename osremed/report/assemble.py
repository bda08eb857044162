"""A run in its store -> RunStory, the plain data a report is drawn from."""

from __future__ import annotations

from collections.abc import Iterator

from osremed.core.errors import BadInput
from osremed.core.event import Event
from osremed.core.evidence import Bundle, load_bundle
from osremed.core.probe import sample_from_json
from osremed.core.reading import Missing, Reason
from osremed.report.model import Moment, ProbeResult, RunStory, StoryGap, StoryStep, UndoStep
from osremed.runbook.model import Happening, Run
from osremed.runbook.store import RunStore

#: Instants FastOOM measured, in their order: attribute of the event -> label.
_EVENT_MOMENTS = (
    ("crossed_ns", "level crossed"),
    ("decided_ns", "decided"),
    ("signalled_ns", "killed"),
    ("freed_ns", "memory free"),
)
#: Happening -> what it marks in the story.
_RUN_MOMENTS = {
    "raised": "run start",
    "collected": "evidence",
    "decided": "plan",
    "applied": "applied",
    "answered": "a person answered",
    "verified": "verdict",
    "finished": "finished",
    "undone": "undone",
    "recovered": "recovered",
}


def _moments(event: Event, happenings: tuple[tuple[int, Happening], ...]) -> Iterator[Moment]:
    for key, label in _EVENT_MOMENTS:
        at_ns = event.attributes.get(key)
        if isinstance(at_ns, int) and at_ns > 0:
            yield Moment(label, at_ns)
        elif key in event.attributes:
            yield Moment(label, Missing(Reason.NO_DATA, f"event.{key}"))
    yield Moment("event", event.time_ns)
    for at_ns, happening in happenings:
        if happening.kind in _RUN_MOMENTS:
            yield Moment(_RUN_MOMENTS[happening.kind], at_ns)


def bundle_of(store: RunStore, run: Run) -> Bundle | Missing:
    """The evidence from before the change."""
    if not run.bundle:
        return Missing(Reason.NO_DATA, "bundle", "the run ended before evidence was collected")
    try:
        return load_bundle(store.of(run.run_id).bundle)
    except BadInput as error:
        return Missing(Reason.MALFORMED, error.where, error.what)


def story_of(store: RunStore, run: Run) -> RunStory:
    """Everything known about the run; what is not is a gap."""
    bundle = bundle_of(store, run)
    if isinstance(bundle, Missing):
        gaps = [StoryGap("evidence", bundle)]
        panorama = bundle
    else:
        gaps = [StoryGap(name, why) for name, why in bundle.gaps.items()]
        panorama = bundle.items.get("panorama", bundle.gaps.get("panorama", Missing(Reason.NO_DATA, "panorama")))
    gaps += [StoryGap("decision", Missing(Reason.NO_DATA, "runbook", note)) for note in run.notes]
    return RunStory(
        run_id=run.run_id,
        runbook=run.runbook,
        host=run.host,
        state=run.state.value,
        reason=run.reason,
        event=run.event,
        timeline=tuple(_moments(run.event, store.happenings(run.run_id))),
        findings=run.findings,
        plan=tuple(
            StoryStep(step.action, step.args, step.diff, step.risk, step.irreversible)
            for step in (run.plan.steps if run.plan else ())
        ),
        guards=run.guards,
        verdicts=tuple(
            ProbeResult(
                result.probe,
                result.tolerance,
                result.verdict.value,
                tuple(sample_from_json(sample) for sample in result.samples),
            )
            for result in run.results
        ),
        undo=tuple(UndoStep(undo.action, f"{undo.result} {undo.detail}".strip()) for undo in run.undo),
        panorama=panorama,
        bundle_sha256=run.bundle or Missing(Reason.NO_DATA, "bundle"),
        gaps=tuple(gaps),
        people=tuple(f"step {each.number} {each.said}" for each in run.answered),
    )
