"""The verbs: words -> function. Functions are named, not imported, so that each command loads only what it needs."""

from __future__ import annotations

from typing import Any, NamedTuple


class Arg(NamedTuple):
    """One argument. `name` without dashes is positional; `kind` is `text`, `int`, `flag` or `list`."""

    name: str
    help: str
    kind: str = "text"
    default: Any = None
    required: bool = False


class Verb(NamedTuple):
    words: tuple[str, ...]
    function: str  #: `module:function`, keyword arguments as named below, returns an Answer
    help: str
    args: tuple[Arg, ...] = ()
    light: bool = False  #: a daemon: nothing but its own code is loaded, its arguments are parsed without argparse


_STATE = Arg("--state", "state directory of the control plane", default="/var/lib/osremed/control")
_INVENTORY = Arg("--inventory", "Ansible inventory", default="/etc/osremed/inventory")
_COLLECTIONS = Arg("--collections", "where the collection osremed.host is installed", default="./collections")
_RUN_ID = Arg("run_id", "as printed by: osremed runs list")
_POLICY = Arg("--policy", "policy file")

VERBS: tuple[Verb, ...] = (
    Verb(
        ("fastoom", "run"),
        "osremed.fastoom.verbs:run",
        "guard this host until SIGTERM",
        (
            _POLICY,
            Arg("--once", "one decision for each scope, then end", kind="flag"),
            Arg("--dry-run", "decide and record, end nothing", kind="flag"),
        ),
        light=True,
    ),
    Verb(("fastoom", "check"), "osremed.fastoom.verbs:check", "check a policy file", (Arg("file", "policy file"),)),
    Verb(("fastoom", "status"), "osremed.fastoom.verbs:status", "what the guard sees and has loaded"),
    Verb(("fastoom", "explain"), "osremed.fastoom.verbs:explain", "what would be ended now, and why", (_POLICY,)),
    Verb(
        ("fastoom", "events"),
        "osremed.fastoom.verbs:events",
        "what the guard did",
        (Arg("--limit", "the latest so many", kind="int", default=20),),
    ),
    Verb(
        ("panorama",),
        "osremed.panorama.verbs:panorama",
        "who holds the memory",
        (
            Arg("--cgroup", "only this control group (a path below the hierarchy)"),
            Arg("--files", "rows of page cache", kind="int", default=20),
            Arg("--processes", "rows of processes", kind="int", default=20),
        ),
    ),
    Verb(
        ("heap",),
        "osremed.panorama.heap_verbs:heap",
        "what is on the heap of a process, and what grows there",
        (
            Arg("pid", "process id"),
            Arg("--growth", "look twice, so far apart: 8s"),
            Arg("--limit", "time for one look", default="10s"),
            Arg("--rows", "rows of types and of holders", kind="int", default=20),
            Arg("--consent", "allow methods that pause the process", kind="flag"),
        ),
    ),
    Verb(
        ("agent", "run"),
        "osremed.agent.verbs:run",
        "ship events and keep undo deadlines until SIGTERM",
        (Arg("--config", "configuration file"),),
        light=True,
    ),
    Verb(("agent", "status"), "osremed.agent.verbs:status", "what the agent has shipped and what waits"),
    Verb(("agent", "undo", "list"), "osremed.agent.verbs:undo_list", "changes that are not confirmed yet"),
    Verb(
        ("agent", "undo", "confirm"),
        "osremed.agent.verbs:undo_confirm",
        "keep a change",
        (Arg("undo_id", "as printed by: osremed agent undo list"),),
    ),
    Verb(
        ("agent", "undo", "revert"),
        "osremed.agent.verbs:undo_revert",
        "take a change back now",
        (Arg("undo_id", "as printed by: osremed agent undo list"),),
    ),
    Verb(
        ("collect",),
        "osremed.agent.verbs:collect",
        "one evidence collector's document",
        (Arg("name", "collector"), Arg("--args", "its arguments as JSON", default="{}")),
    ),
    Verb(
        ("probe",),
        "osremed.agent.verbs:probe",
        "measure until an expectation holds or its time is over",
        (
            Arg("name", "probe"),
            Arg("--args", "its arguments as JSON", default="{}"),
            Arg("--expect", "such as: value > 0.10", required=True),
            Arg("--within", "at most so long, such as 60s", required=True),
            Arg("--for", "must hold so long, such as 15s", default="0s"),
        ),
    ),
    Verb(("doctor",), "osremed.agent.doctor:doctor", "what works on this host, what is missing, and how to get it"),
    Verb(
        ("runbook", "lint"),
        "osremed.runbook.verbs:lint",
        "check runbooks: files, or folders of runbooks",
        (Arg("paths", "runbook files or folders", kind="list"),),
    ),
    Verb(
        ("runbook", "test"),
        "osremed.runbook.verbs:test",
        "replay the cases beside the runbooks",
        (Arg("paths", "runbook folders", kind="list"),),
    ),
    Verb(("runbook", "schema"), "osremed.runbook.verbs:schema", "JSON Schema of a runbook"),
    Verb(
        ("run",),
        "osremed.flows.verbs:run",
        "run a runbook by hand",
        (
            Arg("runbook", "runbook folder or file"),
            Arg("--host", "host in the inventory", required=True),
            Arg("--event", "file with the event (JSON); otherwise one is made"),
            Arg("--attributes", "attributes of the made event, as JSON"),
            Arg("--check", "show the plan, change nothing", kind="flag"),
            _STATE,
            _INVENTORY,
            _COLLECTIONS,
        ),
    ),
    Verb(("runs", "list"), "osremed.flows.verbs:runs_list", "all runs, newest first", (_STATE,)),
    Verb(("runs", "show"), "osremed.flows.verbs:runs_show", "one run, whole", (_RUN_ID, _STATE)),
    Verb(("runs", "report"), "osremed.flows.verbs:runs_report", "path of the run's HTML report", (_RUN_ID, _STATE)),
    Verb(
        ("runs", "approve"),
        "osremed.flows.verbs:runs_approve",
        "let a waiting run act",
        (_RUN_ID, Arg("--reason", "why", default=""), _STATE),
    ),
    Verb(
        ("runs", "deny"),
        "osremed.flows.verbs:runs_deny",
        "do not let a waiting run act",
        (_RUN_ID, Arg("--reason", "why", default=""), _STATE),
    ),
    Verb(
        ("dispatcher",),
        "osremed.flows.verbs:dispatcher",
        "turn events into runs until SIGTERM",
        (
            _STATE,
            Arg("--runbooks", "folder of runbooks", default="/etc/osremed/runbooks"),
            _INVENTORY,
            _COLLECTIONS,
            Arg("--api-url", "Prefect API", default="http://127.0.0.1:4200/api"),
            Arg("--host", "address the intake listens on", default="127.0.0.1"),
            Arg("--port", "port the intake listens on", kind="int", default=4280),
        ),
    ),
    Verb(
        ("demo", "near-oom"),
        "osremed.demo.near_oom:near_oom",
        "the near-OOM story, for real, in a control group of its own",
        (Arg("--keep", "leave the Prefect UI up at the end", kind="flag"), Arg("--state", "folder for everything")),
    ),
)
