"""The verbs of what others reach the control plane by, and of models that are asked."""

from __future__ import annotations

from osremed.verbs.model import COLLECTIONS, INVENTORY, OPINION, RUNBOOKS, SOURCE, STATE, Arg, Verb

FACES: tuple[Verb, ...] = (
    Verb(
        ("console", "run"),
        "osremed.console.verbs:run",
        "serve HTTP, MCP and the pages until SIGTERM",
        (
            STATE,
            INVENTORY,
            COLLECTIONS,
            RUNBOOKS,
            SOURCE,
            Arg("--host", "address to listen on", default="127.0.0.1"),
            Arg("--port", "port to listen on", kind="int", default=4281),
            OPINION,
            Arg("--prefect-ui", "where people reach Prefect's pages: runs link to them", default=""),
            Arg("--behind-proxy", "a proxy with TLS is in front; believe its headers", kind="flag"),
        ),
    ),
    Verb(
        ("console", "token"),
        "osremed.console.verbs:token",
        "a new token, shown once",
        (
            Arg("name", "who it is for, as audits will show"),
            Arg("--scopes", "of read, run, approve, admin, with commas", default="read"),
            Arg("--agent", "for a program that acts for itself: it can never approve", kind="flag"),
            Arg("--lasting", "for so long, such as 90d; otherwise until revoked"),
            STATE,
        ),
    ),
    Verb(("console", "tokens"), "osremed.console.verbs:tokens", "who has a token, and for what", (STATE,)),
    Verb(
        ("console", "revoke"),
        "osremed.console.verbs:revoke",
        "a token is worth nothing from now on",
        (Arg("name", "whose"), STATE),
    ),
    Verb(
        ("ask",),
        "osremed.opinion.verbs:ask",
        "put a question to a model that may use the reading verbs",
        (
            Arg("question", 'such as: "why was web-17 slow at 14:03?"'),
            STATE,
            INVENTORY,
            COLLECTIONS,
            RUNBOOKS,
            SOURCE,
            OPINION,
        ),
        asks_model=True,
        route="POST /ask",
        scope="read",
    ),
    Verb(
        ("opinion", "read"),
        "osremed.opinion.verbs:opinion_read",
        "what a model makes of evidence in files, such as that of: osremed hotspot traps -o json",
        (Arg("documents", "KIND=FILE, such as hotspot=traps.json", kind="list"), STATE, OPINION),
    ),
    Verb(
        ("opinion", "check"),
        "osremed.opinion.verbs:check",
        "whether a model may be asked, what leaves this machine, and what was used today",
        (STATE, OPINION),
    ),
    Verb(("console", "dashboard"), "osremed.console.verbs:grafana", "a Grafana dashboard of what /metrics tells"),
    Verb(("console", "openapi"), "osremed.console.verbs:openapi", "the OpenAPI document"),
    Verb(
        ("mcp",),
        "osremed.console.verbs:mcp",
        "MCP on stdin and stdout, for one agent on this machine",
        (
            Arg("--scopes", "of read, run, with a comma", default="read"),
            STATE,
            INVENTORY,
            COLLECTIONS,
            RUNBOOKS,
            SOURCE,
        ),
    ),
)
