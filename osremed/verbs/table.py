"""The verbs: words -> function. Functions are named, not imported, so that each command loads only what it needs.

Faces are made from this table: the command line has all verbs, HTTP those with a route, MCP those with a route whose
scope is `read` or `run`.
"""

from __future__ import annotations

from collections.abc import Mapping

from osremed.verbs.canaries import CANARIES
from osremed.verbs.control import CONTROL
from osremed.verbs.faces import FACES
from osremed.verbs.host import HOST
from osremed.verbs.model import Verb
from osremed.verbs.rules import RULES

VERBS: tuple[Verb, ...] = (*HOST, *CONTROL, *CANARIES, *RULES, *FACES)

#: What the verbs below a word have in common, where the word is no verb itself.
GROUPS: Mapping[tuple[str, ...], str] = {
    ("fastoom",): "the OOM guard of this host",
    ("hotspot",): "who burned the time: recordings, flame graphs, known traps",
    ("timeline",): "what the GPUs did: health, errors, traces",
    ("agent",): "what runs beside the pillars on each host",
    ("agent", "undo"): "changes that take themselves back unless they are confirmed",
    ("runbook",): "runbooks: check them, replay their cases",
    ("canary",): "a runbook over many hosts, a few first",
    ("runs",): "runs of runbooks: begin, look, approve, tick",
    ("audit",): "what people did and the dispatcher decided",
    ("gitops",): "rules from Git",
    ("console",): "HTTP, MCP and pages, and who may use them",
    ("opinion",): "a second opinion: what a model makes of evidence",
    ("notify",): "messages to people: policy, trial, service",
    ("demo",): "stories that happen for real",
}
