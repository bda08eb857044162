"""What may be cited of a run, and what a citation names: `id`, or `id#/a/place/in/it` (a JSON pointer). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.evidence import Bundle
from osremed.core.reading import Missing, Reason
from osremed.runbook.model import Run


def documents_of(run: Run, bundle: Bundle | Missing) -> dict[str, Any]:
    """Id -> document: the run's own, and those of its evidence."""
    collected: Mapping[str, Any] = {} if isinstance(bundle, Missing) else bundle.items
    gaps: Mapping[str, Any] = {"evidence": bundle.as_json()} if isinstance(bundle, Missing) else dict(run.gaps)
    return {
        "event": {"host": run.host, "name": run.event.name, "time_ns": run.event.time_ns, **run.event.attributes},
        "findings": [each.as_json() for each in run.findings],
        "plan": [{"action": each.action, "risk": each.risk} for each in (run.plan.steps if run.plan else ())],
        "outcome": {
            "state": run.state.value,
            "reason": run.reason,
            "probes": [{"probe": each.probe, "verdict": each.verdict.value} for each in run.results],
            "gaps": gaps,
        },
        **collected,
    }


def cited(documents: Mapping[str, Any], citation: str) -> Any:
    """What the citation names; a Missing where there is no such thing."""
    name, _, pointer = citation.partition("#")
    gone = Missing(Reason.NO_DATA, citation, "not in the evidence")
    if name not in documents or (pointer and not pointer.startswith("/")):
        return gone
    node = documents[name]
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(node):
            node = node[int(key)]
        else:
            return gone
    return node
