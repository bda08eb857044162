"""The verbs of a canary: one runbook over many hosts, a few first."""

from __future__ import annotations

from osremed.verbs.model import COLLECTIONS, HOSTS, INVENTORY, LIVE, RUNBOOKS, STATE, Arg, Verb

_GROUPS = (*HOSTS, f"{STATE.default}/work/groups")
_ID = Arg("canary_id", "as printed by: osremed canary list", names=(f"{STATE.default}/canaries",))
_TIMEOUT = Arg("--timeout", "with --wait: at most so long, such as 10m; the canary goes on", alone=True)
_LEAVE = Arg("--leave", "leave it alone: answer at once, a process of its own drives it", kind="flag", alone=True)
_WAIT = Arg("--wait", "stay until it has ended; the exit code tells how", kind="flag", alone=True)

CANARIES: tuple[Verb, ...] = (
    Verb(
        ("canary", "start"),
        "osremed.flows.canary_verbs:canary_start",
        "a runbook over many hosts: one, two, then twice as many each time",
        (
            Arg(
                "runbook",
                "its name; unless it is left alone also its folder or file",
                names=LIVE,
            ),
            Arg("--hosts", "group of the inventory, or hosts with commas", required=True, names=_GROUPS),
            Arg("--attributes", "attributes of the made events, as JSON"),
            Arg("--max-failed", "stop when more of the hosts so far were not kept", default="0%"),
            Arg("--settle", "rest so long between two waves", default="0s"),
            Arg("--key", "said twice, it is one canary", default=""),
            Arg("--check", "show the waves and the first host's plan, change nothing", kind="flag"),
            _LEAVE,
            Arg(
                "--wait", "leave it alone and stay until it has ended; the exit code tells how", kind="flag", alone=True
            ),
            _TIMEOUT,
            RUNBOOKS,
            STATE,
            INVENTORY,
            COLLECTIONS,
        ),
        route="POST /canaries",
        scope="run",
    ),
    Verb(
        ("canary", "list"),
        "osremed.flows.canary_verbs:canary_list",
        "all canaries, newest first",
        (
            Arg("--limit", "at most so many; 0: all", kind="int", default=100),
            Arg("--before", "those after this canary: the page after it", default=""),
            STATE,
        ),
        route="GET /canaries",
        scope="read",
    ),
    Verb(
        ("canary", "show"),
        "osremed.flows.canary_verbs:canary_show",
        "where a canary stands, host by host",
        (
            _ID,
            _WAIT,
            _TIMEOUT,
            STATE,
        ),
        route="GET /canaries/{canary_id}",
        scope="read",
    ),
    Verb(
        ("canary", "stop"),
        "osremed.flows.canary_verbs:canary_stop",
        "begin with no further host; runs that are under way end by themselves",
        (_ID, Arg("--reason", "why", default=""), STATE),
        route="POST /canaries/{canary_id}/stop",
        scope="run",
    ),
    Verb(
        ("canary", "resume"),
        "osremed.flows.canary_verbs:canary_resume",
        "go on with a canary whose process was ended",
        (
            _ID,
            Arg("--check", "show where it stands, change nothing", kind="flag"),
            _LEAVE,
            RUNBOOKS,
            STATE,
            INVENTORY,
            COLLECTIONS,
        ),
        route="POST /canaries/{canary_id}/resume",
        scope="run",
    ),
)
