"""The verbs of rules from Git."""

from __future__ import annotations

from osremed.verbs.model import API_URL, COLLECTIONS, FIX, INVENTORY, SARIF, SOURCE, STATE, Arg, Verb

RULES: tuple[Verb, ...] = (
    Verb(
        ("gitops", "init"),
        "osremed.gitops.verbs:init",
        "a rules repository to begin with",
        (Arg("directory", "a new folder"),),
    ),
    Verb(
        ("gitops", "check"),
        "osremed.gitops.verbs:check",
        "what the reconciler would say to a working copy",
        (
            Arg("directory", "the working copy"),
            Arg("--environment", "only this one; otherwise all"),
            Arg("--base", "folder with the rules before the change"),
            SARIF,
            Arg("--markdown", "write a comment for the pull request there"),
            Arg("--events", "past events, JSON lines: which decisions would be others"),
            FIX,
        ),
    ),
    Verb(
        ("gitops", "plan"),
        "osremed.gitops.verbs:show_plan",
        "what Git would change in the live rules",
        (SOURCE, STATE),
        route="GET /gitops/plan",
        scope="run",
    ),
    Verb(
        ("gitops", "apply"),
        "osremed.gitops.verbs:apply",
        "one look at Git; what it has goes live if nothing holds it up",
        (SOURCE, STATE, Arg("--force", "much may vanish or change at once", kind="flag")),
        route="POST /gitops/apply",
        scope="admin",
    ),
    Verb(
        ("gitops", "run"),
        "osremed.gitops.verbs:run",
        "look at Git every interval until SIGTERM",
        (SOURCE, STATE, Arg("--once", "one look, then end", kind="flag")),
    ),
    Verb(
        ("gitops", "serve"),
        "osremed.flows.gitops_verbs:serve",
        "look at Git as a deployment of Prefect, and keep its objects and the hosts as the rules want them",
        (
            SOURCE,
            STATE,
            INVENTORY,
            COLLECTIONS,
            API_URL,
            Arg("--webhook", "file with the secret of the code host's calls; made if there is none"),
            Arg("--host", "address the webhook listens on", default="127.0.0.1"),
            Arg("--port", "port the webhook listens on", kind="int", default=4281),
        ),
    ),
    Verb(
        ("gitops", "prefect"),
        "osremed.flows.gitops_verbs:prefect",
        "what in Prefect is not as the live rules want it; changes nothing",
        (SOURCE, STATE, API_URL),
    ),
    Verb(
        ("gitops", "hosts"),
        "osremed.gitops.verbs:hosts",
        "bring the live host policies to the hosts, canary first",
        (Arg("--check", "show what differs, change nothing", kind="flag"), STATE, INVENTORY, COLLECTIONS),
    ),
    Verb(
        ("gitops", "status"),
        "osremed.gitops.verbs:status",
        "which rules are live, and why",
        (STATE, Arg("--source", "with -o json, also what these rules want of Prefect", place=True)),
        route="GET /gitops",
        scope="read",
    ),
    Verb(
        ("gitops", "suspend"),
        "osremed.gitops.verbs:suspend",
        "no new rules go live until resume",
        (Arg("--reason", "why", required=True), STATE),
        route="POST /gitops/suspend",
        scope="admin",
    ),
    Verb(
        ("gitops", "resume"),
        "osremed.gitops.verbs:resume",
        "take rules from Git again",
        (STATE,),
        route="POST /gitops/resume",
        scope="admin",
    ),
    Verb(
        ("gitops", "rollback"),
        "osremed.gitops.verbs:rollback",
        "the rules that were live before; suspends Git",
        (
            Arg("--to", "beginning of the name of a set, as in: osremed gitops status"),
            Arg("--check", "show what differs, change nothing", kind="flag", alone=True),
            STATE,
        ),
        route="POST /gitops/rollback",
        scope="admin",
    ),
)
