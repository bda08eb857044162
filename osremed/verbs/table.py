"""The verbs: words -> function. Functions are named, not imported, so that each command loads only what it needs.

Faces are made from this table: the command line has all verbs, HTTP those with a route, MCP those with a route whose
scope is `read` or `run`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: -o: what it prints. Each is made from the answer's document, the same way for every verb.
OUTPUTS = {
    "text": "for reading",
    "table": "one row a line, a column a value",
    "json": "the whole document",
    "jsonl": "one row a line, each a JSON object",
    "yaml": "the whole document",
    "name": "one name a line, for xargs",
}


class Arg(NamedTuple):
    """One argument. `name` without dashes is positional; `kind` is `text`, `int`, `flag`, `list` or, for
    one that may be left out, `optional`. `place` is a path on the machine of the control plane: a face that is reached
    over the network sets it from its own configuration and never takes it from a caller."""

    name: str
    help: str
    kind: str = "text"
    default: Any = None
    required: bool = False
    place: bool = False

    @property
    def dest(self) -> str:
        """The keyword of the function: `--for` is a word of Python, so it arrives as `hold`."""
        return {"--for": "hold"}.get(self.name, self.name.lstrip("-").replace("-", "_"))


class Verb(NamedTuple):
    words: tuple[str, ...]
    function: str  #: `module:function`, keyword arguments as named below, returns an Answer
    help: str
    args: tuple[Arg, ...] = ()
    html: bool = False  #: has a page: -o html
    elsewhere: str = ""  #: `module:function` of the control plane, called instead with --host: it takes ELSEWHERE too
    light: bool = False  #: a daemon: nothing but its own code is loaded, its arguments are parsed without argparse
    route: str = ""  #: method and path over HTTP; "" for verbs of the command line alone
    scope: str = ""  #: what a token needs for it: read, run, approve or admin

    @property
    def outputs(self) -> tuple[str, ...]:
        """What -o may be."""
        return (*OUTPUTS, "html") if self.html else tuple(OUTPUTS)

    @property
    def all_args(self) -> tuple[Arg, ...]:
        return (*self.args, *ELSEWHERE) if self.elsewhere else self.args


_STATE = Arg("--state", "state directory of the control plane", default="/var/lib/osremed/control", place=True)
_INVENTORY = Arg("--inventory", "Ansible inventory", default="/etc/osremed/inventory", place=True)
_COLLECTIONS = Arg(
    "--collections", "where the collection osremed.host is installed", default="./collections", place=True
)
_SOURCE = Arg("--source", "where the rules come from", default="/etc/osremed/gitops.yaml", place=True)
_RUNBOOKS = Arg("--runbooks", "folder of runbooks", default="/etc/osremed/runbooks", place=True)
_API_URL = Arg("--api-url", "Prefect API", default="http://127.0.0.1:4200/api")
_RUN_ID = Arg("run_id", "as printed by: osremed runs list")
_SARIF = Arg("--sarif", "write the problems there (SARIF 2.1.0)")
_FIX = Arg("--fix", "mend what was beyond doubt meant otherwise: another spelling of a word, of a unit", kind="flag")
_NOTIFY = Arg("file", "policy of notifications, such as /etc/osremed/notify.yaml")
_POLICY = Arg("--policy", "policy file")
_MOMENT = "14:03:07, 2026-11-22T14:03:07Z, '90s ago' or now"
_ONLY = (Arg("--container", "only this container"), Arg("--process", "only this process: its name or pid"))
_AROUND = Arg("--around", "instead of a moment: an event's id, or the file with it")
_STATE_OF = Arg("--state", "cpu, off or both", default="cpu")

#: Arguments of a verb that can ask another host.
ELSEWHERE = (
    Arg("--host", "the same of this host of the inventory"),
    *(each._replace(help=f"{each.help}, with --host") for each in (_INVENTORY, _COLLECTIONS, _STATE)),
)

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
    Verb(
        ("fastoom", "explain"),
        "osremed.fastoom.verbs:explain",
        "what would be ended now, and why",
        (_POLICY, Arg("--root", "folder with the captured /proc and /sys of a host, instead of this one")),
    ),
    Verb(
        ("fastoom", "record"),
        "osremed.fastoom.replay:record_series",
        "write down what the guard would see, for `fastoom simulate`",
        (
            Arg("--out", "new file", required=True),
            Arg("--lasting", "how long, such as 10m", default="60s"),
            Arg("--every", "between looks, such as 500ms", default="1s"),
            _POLICY,
        ),
    ),
    Verb(
        ("fastoom", "simulate"),
        "osremed.fastoom.replay:run_simulation",
        "what a policy would have done on a recorded series",
        (Arg("file", "series, as written by: osremed fastoom record"), _POLICY, Arg("--against", "a second policy")),
    ),
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
            Arg("--growth", "look twice, so far apart, and say what grew, such as 8s", default=""),
            Arg("--heaps", "look into the heaps of so many of the largest processes", kind="int", default=0),
            Arg("--pid", "look into the heap of this process", default=""),
            Arg("--consent", "allow looks that pause the process; the pause is said", kind="flag"),
            Arg(
                "--trace", "who keeps the pages the kernel allocates in so long; by itself when much is unaccounted for"
            ),
        ),
        html=True,
        elsewhere="osremed.flows.host_verbs:panorama",
        route="POST /hosts/{host}/panorama",
        scope="run",
    ),
    Verb(
        ("panorama", "history"),
        "osremed.panorama.past:history",
        "how each line of the balance went; the agent keeps it",
        (Arg("--since", "so far back, such as 24h", default="24h"),),
    ),
    Verb(
        ("panorama", "grew"),
        "osremed.panorama.past:grown",
        "what grew since then: lines, kernel owners, processes, control groups",
        (Arg("--since", "so far back, such as 24h", default="24h"),),
    ),
    Verb(
        ("hotspot", "run"),
        "osremed.hotspot.recording:run",
        "record who burns the time, until SIGTERM",
        (
            Arg("--segment", "time in one file of the ring", default="10s"),
            Arg("--ceiling", "share of the machine it may use", default="1%"),
            Arg("--ring-bytes", "size of the ring", default="1GB"),
            Arg("--keep", "age of the ring", default="24h"),
            Arg("--stop-after", "end by itself", default=""),
            Arg("--policy", "policy file; /etc/osremed/hotspot.json if it is there"),
            Arg("--traps", "look for traps that stay so often; 0s: never", default="5m"),
        ),
        light=True,
    ),
    Verb(("hotspot", "check"), "osremed.hotspot.verbs:check", "check a policy file", (Arg("file", "policy file"),)),
    Verb(("hotspot", "status"), "osremed.hotspot.verbs:status", "what is recorded, and what recording costs"),
    Verb(
        ("hotspot", "at"),
        "osremed.hotspot.verbs:at",
        "who was hot at a moment",
        (
            Arg("moment", _MOMENT, kind="optional", default=""),
            _AROUND,
            Arg("--window", "how long", default="2s"),
            *_ONLY,
            Arg("--html", "also write the flame graph to this file"),
        ),
    ),
    Verb(
        ("hotspot", "flame"),
        "osremed.hotspot.verbs:flame",
        "a flame graph in one HTML file",
        (
            Arg("to", "the page to write"),
            Arg("--moment", _MOMENT, default="now"),
            Arg("--window", "how long", default="60s"),
            Arg("--state", "what is shown first: cpu, off or both", default="both"),
            Arg("--source", "a profile to import instead: pprof, folded, speedscope, perf script, firefox"),
            *_ONLY,
        ),
    ),
    Verb(
        ("hotspot", "diff"),
        "osremed.hotspot.verbs:diff",
        "what changed between two moments or two profiles",
        (
            Arg("before", f"{_MOMENT}, or a profile to import"),
            Arg("after", "the same"),
            Arg("--window", "how long each", default="60s"),
            _STATE_OF,
            Arg("--html", "also write the differential flame graph to this file"),
            *_ONLY,
        ),
    ),
    Verb(
        ("hotspot", "traps"),
        "osremed.hotspot.verbs:traps",
        "known traps that a window shows",
        (
            Arg("moment", _MOMENT, kind="optional", default="now"),
            _AROUND,
            Arg("--window", "how long", default="60s"),
            *_ONLY,
        ),
    ),
    Verb(
        ("hotspot", "export"),
        "osremed.hotspot.verbs:export",
        "a window as pprof, folded, speedscope, perf script or Firefox profile",
        (
            Arg("to", "the file to write"),
            Arg("--format", "pprof, folded, speedscope, perf or firefox", default="pprof"),
            Arg("--moment", _MOMENT, default="now"),
            Arg("--window", "how long", default="60s"),
            _STATE_OF,
            *_ONLY,
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
        ("timeline", "run"),
        "osremed.timeline.verbs:run",
        "watch this host's GPUs until SIGTERM",
        (Arg("--policy", "policy file; /etc/osremed/timeline.json if it is there"),),
        light=True,
    ),
    Verb(("timeline", "check"), "osremed.timeline.verbs:check", "check a policy file", (Arg("file", "policy file"),)),
    Verb(("timeline", "status"), "osremed.timeline.verbs:status", "what the running GPU watch sees"),
    Verb(("timeline", "gpus"), "osremed.timeline.verbs:gpus", "every GPU, now"),
    Verb(
        ("timeline", "xid"),
        "osremed.timeline.verbs:xid",
        "GPU errors of a kernel log, or what one code means",
        (Arg("--log", "text of dmesg or of a syslog file"), Arg("--code", "an Xid", kind="int")),
    ),
    Verb(
        ("timeline", "ranks"),
        "osremed.timeline.ranksverb:ranks",
        "the slow rank, or the one that stopped, from flight-recorder dumps",
        (Arg("paths", "dumps of one job, or folders of them", kind="list"), Arg("--log", "the job's log, too")),
    ),
    Verb(
        ("timeline", "trace"),
        "osremed.timeline.traceverbs:trace",
        "where a job's GPU time went, from profiler traces",
        (
            Arg("paths", "traces of one job, a file a rank, or folders of them", kind="list"),
            Arg("--top", "rows of each table", kind="int", default=12),
            Arg("--page", "write the timeline as one HTML page"),
            Arg("--flame", "write GPU time by Python, operator and kernel: a page (.html), else folded stacks"),
            Arg("--export", "write one Chrome/Perfetto trace of all ranks (.json or .json.gz)"),
        ),
    ),
    Verb(
        ("timeline", "ask"),
        "osremed.timeline.traceverbs:ask",
        "a trace of a PyTorch job that runs (it needs KINETO_USE_DAEMON=1), and where its time went",
        (
            Arg("pid", "process", kind="int"),
            Arg("--duration", "how long to trace", default="500ms"),
            Arg("--directory", "where the job may write, as it sees it (else its temporary files)"),
            Arg("--within", "how long to wait for the trace", default="60s"),
            Arg("--no-stack", "without Python frames: costs the job less", kind="flag"),
        ),
    ),
    Verb(
        ("timeline", "diff"),
        "osremed.timeline.traceverbs:diff",
        "what takes more or less time in one trace than in another",
        (
            Arg("before", "trace"),
            Arg("after", "trace"),
            Arg("--top", "rows", kind="int", default=20),
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
    Verb(
        ("explain",),
        "osremed.cli.verbs:explain",
        "what a code of an error, of a guard, of a missing value or of an exit means, and what to do",
        (Arg("code", "as in the brackets of an error; without one: all", kind="optional"),),
    ),
    Verb(
        ("completion",),
        "osremed.cli.verbs:completion",
        "what a shell completes osremed with",
        (Arg("shell", "bash, zsh or fish"),),
    ),
    Verb(("manpage",), "osremed.cli.verbs:manpage", "the page for man(1)"),
    Verb(("doctor",), "osremed.agent.doctor:doctor", "what works on this host, what is missing, and how to get it"),
    Verb(
        ("runbook", "lint"),
        "osremed.runbook.verbs:lint",
        "check runbooks: files, or folders of runbooks",
        (Arg("paths", "runbook files or folders", kind="list"), _FIX, _SARIF),
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
    Verb(
        ("canary", "start"),
        "osremed.flows.canary_verbs:canary_start",
        "a runbook over many hosts: one, two, then twice as many each time",
        (
            Arg("runbook", "runbook folder or file"),
            Arg("--hosts", "group of the inventory, or hosts with commas", required=True),
            Arg("--attributes", "attributes of the made events, as JSON"),
            Arg("--max-failed", "stop when more of the hosts so far were not kept", default="0%"),
            Arg("--settle", "rest so long between two waves", default="0s"),
            Arg("--check", "show the waves and the first host's plan, change nothing", kind="flag"),
            _STATE,
            _INVENTORY,
            _COLLECTIONS,
        ),
    ),
    Verb(
        ("canary", "resume"),
        "osremed.flows.canary_verbs:canary_resume",
        "go on with a canary whose process was ended",
        (Arg("canary_id", "as printed when it began"), _RUNBOOKS, _STATE, _INVENTORY, _COLLECTIONS),
    ),
    Verb(
        ("canary", "show"),
        "osremed.flows.canary_verbs:canary_show",
        "where a canary stands, host by host",
        (Arg("canary_id", "as printed when it began"), _STATE),
    ),
    Verb(
        ("runs", "start"),
        "osremed.flows.start:runs_start",
        "begin a run by hand and leave it to itself",
        (
            Arg("runbook", "its name"),
            Arg("--host", "host in the inventory", required=True),
            Arg("--attributes", "attributes of the made event, as JSON"),
            Arg("--key", "said twice, it is one run", default=""),
            Arg("--check", "show the plan, change nothing", kind="flag"),
            _RUNBOOKS,
            _STATE,
            _INVENTORY,
            _COLLECTIONS,
        ),
        route="POST /runs",
        scope="run",
    ),
    Verb(
        ("runs", "list"),
        "osremed.flows.verbs:runs_list",
        "all runs, newest first",
        (
            Arg("--limit", "at most so many; 0: all", kind="int", default=0),
            Arg("--before", "those after this run: the page after it", default=""),
            _STATE,
        ),
        route="GET /runs",
        scope="read",
    ),
    Verb(
        ("runs", "show"),
        "osremed.flows.verbs:runs_show",
        "one run, whole",
        (_RUN_ID, _STATE),
        route="GET /runs/{run_id}",
        scope="read",
    ),
    Verb(
        ("runs", "report"),
        "osremed.flows.verbs:runs_report",
        "path of the run's HTML report",
        (_RUN_ID, _STATE),
        html=True,
        route="GET /runs/{run_id}/report",
        scope="read",
    ),
    Verb(
        ("runs", "acknowledge"),
        "osremed.flows.control_verbs:acknowledge",
        "a human has seen to a change that could not be taken back",
        (_RUN_ID, _STATE),
        route="POST /runs/{run_id}/acknowledge",
        scope="approve",
    ),
    Verb(
        ("runs", "reset-breaker"),
        "osremed.flows.control_verbs:reset_breaker",
        "let a runbook run again after too many failures in the fleet",
        (Arg("runbook", "its name"), _STATE),
        route="POST /runbooks/{runbook}/reset-breaker",
        scope="admin",
    ),
    Verb(
        ("runbook", "list"),
        "osremed.flows.fleet:runbooks_list",
        "the runbooks in force",
        (_RUNBOOKS,),
        route="GET /runbooks",
        scope="read",
    ),
    Verb(
        ("hosts",),
        "osremed.flows.fleet:hosts_list",
        "each host: what it told last, interventions, open runs",
        (_STATE, _INVENTORY, _COLLECTIONS),
        route="GET /hosts",
        scope="read",
    ),
    Verb(
        ("events",),
        "osremed.flows.fleet:events_list",
        "what hosts told, newest first",
        (
            Arg("--host", "only this one"),
            Arg("--limit", "at most so many", kind="int", default=50),
            Arg("--before", "those older than this seq: the page after it", kind="int"),
            _STATE,
        ),
        route="GET /events",
        scope="read",
    ),
    Verb(
        ("freezes",),
        "osremed.flows.fleet:freezes",
        "what is frozen, and which breakers were reset",
        (_STATE,),
        route="GET /freezes",
        scope="read",
    ),
    Verb(
        ("freeze",),
        "osremed.flows.control_verbs:freeze",
        "stop changes: everywhere, of a runbook, on a host; without --reason: what is frozen",
        (
            Arg("--reason", "why"),
            Arg("--runbook", "only this one"),
            Arg("--host", "only there"),
            Arg("--hold", "for so long, such as 2h; otherwise until unfreeze"),
            _STATE,
        ),
        route="POST /freezes",
        scope="run",
    ),
    Verb(
        ("unfreeze",),
        "osremed.flows.control_verbs:unfreeze",
        "lift a freeze",
        (
            Arg("--runbook", "of this one"),
            Arg("--host", "of there"),
            Arg("--every", "lift all", kind="flag"),
            _STATE,
        ),
        route="POST /freezes/lift",
        scope="admin",
    ),
    Verb(
        ("stats",),
        "osremed.flows.control_verbs:stats",
        "how good the automation is: kept, undone, came back",
        (
            Arg("--since", "how far back", default="30d"),
            Arg("--prometheus", "write the counts there, too, for a textfile collector", place=True),
            _STATE,
        ),
        route="GET /stats",
        scope="read",
    ),
    Verb(
        ("audit", "verify"),
        "osremed.flows.control_verbs:audit",
        "whether the audits are whole",
        (_STATE,),
        route="GET /audit",
        scope="read",
    ),
    Verb(
        ("why-not",),
        "osremed.flows.control_verbs:why_not",
        "which rule did not match an event, or which guard refused",
        (Arg("event_id", "id of the event"), Arg("--runbooks", "ask these rules instead", place=True), _STATE),
        route="GET /events/{event_id}/why-not",
        scope="read",
    ),
    Verb(
        ("replay",),
        "osremed.flows.control_verbs:replay",
        "what rules would have decided on past events",
        (
            Arg("rules", "folder of runbooks"),
            Arg("--against", "folder of runbooks to compare with"),
            Arg("--events", "file of JSON lines, or a journal; otherwise the dispatcher's"),
            Arg("--since", "how far back", default="7d"),
            _STATE,
        ),
    ),
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
            _SARIF,
            Arg("--markdown", "write a comment for the pull request there"),
            Arg("--events", "past events, JSON lines: which decisions would be others"),
            _FIX,
        ),
    ),
    Verb(
        ("gitops", "plan"),
        "osremed.gitops.verbs:show_plan",
        "what Git would change in the live rules",
        (_SOURCE, _STATE),
        route="GET /gitops/plan",
        scope="run",
    ),
    Verb(
        ("gitops", "apply"),
        "osremed.gitops.verbs:apply",
        "one look at Git; what it has goes live if nothing holds it up",
        (_SOURCE, _STATE, Arg("--force", "much may vanish or change at once", kind="flag")),
        route="POST /gitops/apply",
        scope="admin",
    ),
    Verb(
        ("gitops", "run"),
        "osremed.gitops.verbs:run",
        "look at Git every interval until SIGTERM",
        (_SOURCE, _STATE, Arg("--once", "one look, then end", kind="flag")),
    ),
    Verb(
        ("gitops", "serve"),
        "osremed.flows.gitops_verbs:serve",
        "look at Git as a deployment of Prefect, and keep its objects and the hosts as the rules want them",
        (
            _SOURCE,
            _STATE,
            _INVENTORY,
            _COLLECTIONS,
            _API_URL,
            Arg("--webhook", "file with the secret of the code host's calls; made if there is none"),
            Arg("--host", "address the webhook listens on", default="127.0.0.1"),
            Arg("--port", "port the webhook listens on", kind="int", default=4281),
        ),
    ),
    Verb(
        ("gitops", "prefect"),
        "osremed.flows.gitops_verbs:prefect",
        "what in Prefect is not as the live rules want it; changes nothing",
        (_SOURCE, _STATE, _API_URL),
    ),
    Verb(
        ("gitops", "hosts"),
        "osremed.gitops.verbs:hosts",
        "bring the live host policies to the hosts, canary first",
        (Arg("--check", "show what differs, change nothing", kind="flag"), _STATE, _INVENTORY, _COLLECTIONS),
    ),
    Verb(
        ("gitops", "status"),
        "osremed.gitops.verbs:status",
        "which rules are live, and why",
        (_STATE, Arg("--source", "with -o json, also what these rules want of Prefect", place=True)),
        route="GET /gitops",
        scope="read",
    ),
    Verb(
        ("gitops", "suspend"),
        "osremed.gitops.verbs:suspend",
        "no new rules go live until resume",
        (Arg("--reason", "why", required=True), _STATE),
        route="POST /gitops/suspend",
        scope="admin",
    ),
    Verb(
        ("gitops", "resume"),
        "osremed.gitops.verbs:resume",
        "take rules from Git again",
        (_STATE,),
        route="POST /gitops/resume",
        scope="admin",
    ),
    Verb(
        ("gitops", "rollback"),
        "osremed.gitops.verbs:rollback",
        "the rules that were live before; suspends Git",
        (Arg("--to", "beginning of the name of a set, as in: osremed gitops status"), _STATE),
        route="POST /gitops/rollback",
        scope="admin",
    ),
    Verb(
        ("runs", "approve"),
        "osremed.flows.verbs:runs_approve",
        "let a waiting run act",
        (_RUN_ID, Arg("--reason", "why", default=""), _STATE),
        route="POST /runs/{run_id}/approve",
        scope="approve",
    ),
    Verb(
        ("runs", "deny"),
        "osremed.flows.verbs:runs_deny",
        "do not let a waiting run act",
        (_RUN_ID, Arg("--reason", "why", default=""), _STATE),
        route="POST /runs/{run_id}/deny",
        scope="approve",
    ),
    Verb(
        ("dispatcher",),
        "osremed.flows.verbs:dispatcher",
        "turn events into runs until SIGTERM",
        (
            _STATE,
            _RUNBOOKS,
            _INVENTORY,
            _COLLECTIONS,
            _API_URL,
            Arg("--host", "address the intake listens on", default="127.0.0.1"),
            Arg("--port", "port the intake listens on", kind="int", default=4280),
        ),
    ),
    Verb(
        ("console", "run"),
        "osremed.console.verbs:run",
        "serve HTTP, MCP and the pages until SIGTERM",
        (
            _STATE,
            _INVENTORY,
            _COLLECTIONS,
            _RUNBOOKS,
            _SOURCE,
            Arg("--host", "address to listen on", default="127.0.0.1"),
            Arg("--port", "port to listen on", kind="int", default=4281),
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
            _STATE,
        ),
    ),
    Verb(("console", "tokens"), "osremed.console.verbs:tokens", "who has a token, and for what", (_STATE,)),
    Verb(
        ("console", "revoke"),
        "osremed.console.verbs:revoke",
        "a token is worth nothing from now on",
        (Arg("name", "whose"), _STATE),
    ),
    Verb(("console", "dashboard"), "osremed.console.verbs:grafana", "a Grafana dashboard of what /metrics tells"),
    Verb(("console", "openapi"), "osremed.console.verbs:openapi", "the OpenAPI document"),
    Verb(
        ("mcp",),
        "osremed.console.verbs:mcp",
        "MCP on stdin and stdout, for one agent on this machine",
        (
            Arg("--scopes", "of read, run, with a comma", default="read"),
            _STATE,
            _INVENTORY,
            _COLLECTIONS,
            _RUNBOOKS,
            _SOURCE,
        ),
    ),
    Verb(("notify", "check"), "osremed.notify.verbs:check", "check a policy of notifications", (_NOTIFY,)),
    Verb(
        ("notify", "test"),
        "osremed.notify.verbs:test",
        "send one message that says it is a trial",
        (_NOTIFY, Arg("target", "as the policy names it")),
    ),
    Verb(
        ("notify", "run"),
        "osremed.notify.verbs:run",
        "tell targets of runs and interventions until SIGTERM",
        (_NOTIFY, _STATE),
    ),
    Verb(
        ("notify", "status"),
        "osremed.notify.verbs:status",
        "what waits for each target",
        (_STATE,),
        route="GET /notify",
        scope="read",
    ),
    Verb(
        ("demo", "near-oom"),
        "osremed.demo.near_oom:near_oom",
        "the near-OOM story, for real, in a control group of its own",
        (Arg("--keep", "leave the Prefect UI up at the end", kind="flag"), Arg("--state", "folder for everything")),
    ),
)
