"""An opinion in words for a terminal: marked as a model's, with what was dropped of it."""

from __future__ import annotations

from collections.abc import Iterator

from osremed.core.language import filled
from osremed.core.shown import printable
from osremed.runbook.opinions import Opinion


def as_text(opinion: Opinion) -> str:
    return "\n".join(map(printable, _lines(opinion)))


def _lines(opinion: Opinion) -> Iterator[str]:
    yield filled("OPINION OF A MODEL ({1}), not a finding. Nothing was done; the rules' findings stand.", opinion.model)
    yield filled("about {1}", opinion.about)
    yield opinion.summary
    for number, each in enumerate(opinion.hypotheses, 1):
        yield f"  {number}. {each.claim}"
        sure = f"{100 * each.confidence:.0f}"
        yield filled("     it says it is {1} % sure; rests on {2}", sure, ", ".join(each.evidence))
        yield filled("     wrong if: {1}", each.disproved_by)
    for reworded in opinion.reworded:
        yield filled("  in other words ({1}): {2}", reworded.finding, reworded.words)
    if opinion.suggestion:
        yield filled("  it suggests the runbook {1}: {2}", opinion.suggestion.runbook, opinion.suggestion.why)
        yield filled("     nothing has begun; this shows what it would do:")
        yield f"     {opinion.suggestion.command}"
    for asked in opinion.asked:
        said = ", ".join(f"{key}={value}" for key, value in asked.arguments.items())
        yield filled("  {1} is: {2}", asked.id, f"{asked.tool} {said}".rstrip())
    yield from (filled("  dropped: {1}", why) for why in opinion.dropped)
    if not opinion.shown and not opinion.asked:
        yield filled("  it looked at nothing: this rests on no evidence")
    used = (str(opinion.tokens), f"{opinion.seconds:.1f}", opinion.call)
    yield filled("{1} tokens, {2} s, call {3} in the audit", *used)
