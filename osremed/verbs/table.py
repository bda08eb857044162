"""The verbs: words -> function. Functions are named, not imported, so that each command loads only what it needs.

Faces are made from this table: the command line has all verbs, HTTP those with a route, MCP those with a route whose
scope is `read` or `run`.
"""

from __future__ import annotations

from osremed.verbs.control import CONTROL
from osremed.verbs.host import HOST
from osremed.verbs.model import Verb

VERBS: tuple[Verb, ...] = (*HOST, *CONTROL)
