"""An opinion in words for a terminal: marked as a model's, with what was dropped of it."""

from __future__ import annotations

from collections.abc import Iterator

from osremed.core.shown import printable
from osremed.runbook.opinions import Opinion


def as_text(opinion: Opinion) -> str:
    return "\n".join(map(printable, _lines(opinion)))


def _lines(opinion: Opinion) -> Iterator[str]:
    yield f"OPINION OF A MODEL ({opinion.model}), not a finding. Nothing was done; the rules' findings stand."
    yield f"about {opinion.about}"
    yield opinion.summary
    for number, each in enumerate(opinion.hypotheses, 1):
        yield f"  {number}. {each.claim}"
        yield f"     it says it is {100 * each.confidence:.0f} % sure; rests on {', '.join(each.evidence)}"
        yield f"     wrong if: {each.disproved_by}"
    for reworded in opinion.reworded:
        yield f"  in other words ({reworded.finding}): {reworded.words}"
    if opinion.suggestion:
        yield f"  it suggests the runbook {opinion.suggestion.runbook}: {opinion.suggestion.why}"
        yield "     nothing has begun; this shows what it would do:"
        yield f"     {opinion.suggestion.command}"
    for asked in opinion.asked:
        said = ", ".join(f"{key}={value}" for key, value in asked.arguments.items())
        yield f"  {asked.id} is: {asked.tool} {said}".rstrip()
    yield from (f"  dropped: {why}" for why in opinion.dropped)
    if not opinion.shown and not opinion.asked:
        yield "  it looked at nothing: this rests on no evidence"
    yield f"{opinion.tokens} tokens, {opinion.seconds:.1f} s, call {opinion.call} in the audit"
