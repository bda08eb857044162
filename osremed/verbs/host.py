"""The verbs of one host: guard, panorama, hotspot, timeline, agent, evidence."""

from __future__ import annotations

from osremed.verbs.model import Arg, Verb

_POLICY = Arg("--policy", "policy file")
_DIFF = Arg("--diff", "and what it would change of the policy in force", kind="flag")
_MOMENT = "14:03:07, 2026-11-22T14:03:07Z, '90s ago', now, or last: the newest that is recorded"
_ONLY = (Arg("--container", "only this container"), Arg("--process", "only this process: its name or pid"))
_AROUND = Arg("--around", "instead of a moment: an event's id, or the file with it")
_STATE_OF = Arg("--state", "cpu, off or both", default="cpu")

HOST: tuple[Verb, ...] = (
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
    Verb(
        ("fastoom", "check"), "osremed.fastoom.verbs:check", "check a policy file", (Arg("file", "policy file"), _DIFF)
    ),
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
            Arg("--html", "also write the flame graph to this file", place=True),
        ),
        elsewhere="osremed.flows.host_verbs:hotspot_at",
        route="POST /hosts/{host}/hotspot",
        scope="run",
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
        evidence="hotspot",
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
    Verb(
        ("timeline", "gpus"),
        "osremed.timeline.verbs:gpus",
        "every GPU, now",
        elsewhere="osremed.flows.host_verbs:gpus",
        route="POST /hosts/{host}/gpus",
        scope="run",
    ),
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
)
