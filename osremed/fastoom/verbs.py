"""The command line's functions: `osremed fastoom run | check | status | explain | events`."""

from __future__ import annotations

import json
import os
from typing import Any

from osremed.core.answer import Answer
from osremed.core.clock import rfc3339
from osremed.core.errors import ExitCode, NotFound, Unavailable
from osremed.core.journal import read_journal
from osremed.core.paths import host_paths
from osremed.core.phrase import Fill, plain
from osremed.core.units import format_bytes
from osremed.fastoom import collect, daemon, levels
from osremed.fastoom import explain as explaining
from osremed.fastoom import status as status_file
from osremed.fastoom.host import LiveHost
from osremed.fastoom.policy import Policy, load_policy


def run(*, policy: str | None = None, once: bool = False, dry_run: bool = False) -> Answer:
    """Guards until SIGTERM or SIGINT; SIGHUP reloads the policy. `once`: a single decision for each scope, followed to
    its end. `dry_run`: decides and records, and signals nobody."""
    paths = host_paths()
    document = daemon.run(policy or paths.fastoom_policy, paths, once=once, dry_run=dry_run)
    lines = [explaining.scope_line(scope) for scope in document["scopes"]]
    lines += [_event_line(event) for event in document["events"]]
    return Answer(document, "\n".join(lines))


def check(*, file: str, diff: bool = False) -> Answer:
    """What the policy means, or BadInput (exit code 2) with file:line:column. `diff`: and what it would change of the
    policy in force here, defaults filled in on both sides."""
    from osremed.core.language import filled  # noqa: PLC0415  not in the memory of the guard

    policy = load_policy(file)
    document = policy_document(policy)
    changes = _changes(document) if diff else []
    t = policy.thresholds
    scopes = ", ".join(scope.label for scope in policy.scopes)
    rules = (str(len(each)) for each in (policy.protect, policy.prefer, policy.avoid))
    shares = (f"{t.enter_ratio:.1%}", f"{t.target_ratio:.1%}", f"{t.grace_s:g}")
    lines = [
        filled("{1}: good, sensitivity {2}, scopes {3}", file, policy.sensitivity, scopes),
        filled("acts at {1} available, aims for {2}, grace {3} s; {4} protect, {5} prefer, {6} avoid", *shares, *rules),
    ]
    return Answer({**document, "diff": changes} if diff else document, "\n".join((*lines, *changes)))


def _changes(wanted: dict[str, Any]) -> list[str]:
    """Lines of a unified diff; all of it is new where no policy is in force."""
    from osremed.core.textdiff import unified  # noqa: PLC0415  not in the memory of the guard

    path = host_paths().fastoom_policy
    live = policy_document(load_policy(path)) if os.path.exists(path) else {}
    before, after = ({key: each[key] for key in each if key not in ("path", "sha256")} for each in (live, wanted))
    return unified(json.dumps(before, indent=2) if live else "", json.dumps(after, indent=2), "fastoom.json")


def policy_document(policy: Policy) -> dict[str, Any]:
    """The policy as it counts, defaults filled in."""
    t = policy.thresholds
    return {
        "path": policy.path,
        "sha256": policy.sha256,
        "sensitivity": policy.sensitivity,
        "scopes": [scope.label for scope in policy.scopes],
        "limits": {
            "cooldown_s": policy.limits.cooldown_s,
            "max_kills": policy.limits.max_kills,
            "window_s": policy.limits.window_s,
        },
        "protect": [rule.text for rule in policy.protect],
        "prefer": [rule.text for rule in policy.prefer],
        "avoid": [rule.text for rule in policy.avoid],
        "warn_ratio": t.warn_ratio,
        "enter_ratio": t.enter_ratio,
        "leave_ratio": t.leave_ratio,
        "target_ratio": t.target_ratio,
        "grace_s": t.grace_s,
        "deadline_s": t.deadline_s,
        "stall_ratio": t.stall_ratio,
        "stall_gate_ratio": t.stall_gate_ratio,
        "floor_s": t.floor_s,
        "ceiling_s": t.ceiling_s,
    }


def status() -> Answer:
    """What the running guard says of itself. Unavailable (exit code 7) when none runs."""
    from osremed.core.language import filled  # noqa: PLC0415  not in the memory of the guard

    document = status_file.read_running(os.path.join(host_paths().run, status_file.FILE))
    pid, interventions = str(document["pid"]), str(document["interventions"])
    lines = [
        filled("pid {1}, level {2}, sensitivity {3}", pid, document["level"], document["sensitivity"]),
        filled("memory {1} (locked: {2})", _bytes(document["rss_bytes"], filled), str(document["memory_locked"])),
        filled("CPU {1} s, {2} interventions", str(document["cpu_s"]), interventions),
    ]
    lines = [", ".join(lines), filled("policy {1} sha256 {2}", document["policy_path"], document["policy_sha256"][:12])]
    if document["self_test"] != "yes":
        lines.append(filled("SELF-TEST FAILED: {1}", document["self_test"]))
    if document["real_time"] != "yes":
        lines.append(filled("no real-time priority: {1}", document["real_time"]))
    if document["other_guards"]:
        lines.append(filled("ANOTHER GUARD RUNS HERE: {1}", ", ".join(document["other_guards"])))
    if document["policy_error"]:
        lines.append(filled("POLICY REJECTED, the one above stays: {1}", document["policy_error"]))
    if document["events_failure"]:
        pending = str(document["events_pending"])
        lines.append(filled("EVENTS NOT ON DISK ({1}): {2}", pending, document["events_failure"]))
    return Answer(document, "\n".join(lines + [explaining.scope_line(each, filled) for each in document["scopes"]]))


def events(*, limit: int = 20) -> Answer:
    """The latest events of this host's guard, oldest first. NotFound when there never was one."""
    from osremed.core.language import filled  # noqa: PLC0415  not in the memory of the guard

    directory = os.path.join(host_paths().events, "fastoom")
    try:
        contents = read_journal(directory)
    except FileNotFoundError:
        raise NotFound("no events were ever recorded", where=directory) from None
    records = [entry.record for entry in contents.entries[-limit:]]
    lines = [_event_line(one, filled) for one in records] or [filled("no events")]
    lines += [filled("DAMAGED: {1}", damage) for damage in contents.damaged]
    exit_code = ExitCode.FAILED if contents.damaged else ExitCode.OK
    return Answer({"events": records, "damaged": list(contents.damaged)}, "\n".join(lines), exit_code)


def explain(*, policy: str | None = None, root: str | None = None) -> Answer:
    """Who would die now, in order, and why each of the others not. When there is no need, the plan is for the moment
    the scope reaches enter. `root`: a captured tree with proc and sys below it; its guard is not known, so nobody is
    spared for being it. Reads only."""
    from osremed.core.language import filled  # noqa: PLC0415  not in the memory of the guard

    prefix = (root or "").rstrip("/")
    if root is not None and not os.path.isdir(f"{prefix}/proc"):
        raise NotFound("no proc in it", where=root, hint="name a folder with the captured /proc and /sys of a host")
    loaded = load_policy(policy or host_paths(prefix if root else None).fastoom_policy)
    host = LiveHost(collect.open_source(f"{prefix}/proc", prefix=prefix, asked=loaded.asked))
    own = frozenset({1}) if root else _guard_chain(host)
    expanded = [scope for entry in loaded.scopes for scope in collect.expand(entry, host.source)]
    scopes = [explaining.scope_document(scope, loaded, own, host) for scope in expanded]
    document = {"policy": policy_document(loaded), "scopes": scopes}
    return Answer(document, "\n".join(explaining.scope_text(scope, filled) for scope in scopes))


def _guard_chain(host: LiveHost) -> frozenset[int]:
    """The running guard and its ancestors: what it would spare. Our own when none runs."""
    try:
        running = status_file.read_running(os.path.join(host_paths().run, status_file.FILE))
    except Unavailable:
        return host.own_chain()
    return collect.own_chain(int(running["pid"]), host.source)


def _event_line(event: dict[str, Any], fill: Fill = plain) -> str:
    facts = event["attributes"]
    where = f"{rfc3339(event['time_ns'])} {facts['scope']}"
    if event["name"] == levels.EVENT:
        available = format_bytes(facts["available_bytes"])
        change = fill("level {1} -> {2}; available {3}", facts["previous"], facts["level"], available)
        return f"{where} {change}"
    killed = ", ".join(f"{one['name']}[{one['pid']}]" for one in facts["killed"])
    what = f"{facts['action']} {killed}".encode("unicode_escape").decode("ascii").rstrip()
    before, after = format_bytes(facts["available_bytes"]), _bytes(facts["available_after_bytes"], fill)
    need = f" ({facts['need']})" if facts.get("need") else ""  # not in events of older guards
    return f"{where} {facts['level']}{need}: " + fill("{1}; available {2} -> {3}", what, before, after)


def _bytes(value: Any, fill: Fill = plain) -> str:
    return format_bytes(value) if isinstance(value, int) else fill("unknown")
