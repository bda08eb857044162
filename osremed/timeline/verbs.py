"""The command line's functions: `osremed timeline …`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode, NotFound, Unavailable
from osremed.core.files import read_bytes
from osremed.core.language import filled
from osremed.core.paths import host_paths
from osremed.core.policyfile import policy_answer, read_policy
from osremed.timeline.render import calls_lines, gpus_text, incidents_text, trace_lines

_LONGEST_LOG = 1 << 30


def run(*, policy: str | None = None) -> Answer:
    """Watches until SIGTERM or SIGINT; SIGHUP reads the policy again. BadInput for the policy."""
    from osremed.timeline import daemon  # noqa: PLC0415  the other verbs need neither ctypes nor signals

    if policy and not os.path.isfile(policy):
        raise BadInput("no such file", where=policy)
    document = daemon.run(policy, host_paths())
    return Answer(document, filled("stopped: {1} events told", str(document["events"]["told"])))


def check(*, file: str) -> Answer:
    """What the policy means, the defaults filled in, or BadInput (exit code 2)."""
    from osremed.timeline.settings import parse_policy  # noqa: PLC0415

    return policy_answer(file, asdict(parse_policy(read_policy(file), file)))


def gpus(*, timeout_s: float = 5.0) -> Answer:
    """Every GPU, now. Exit code UNAVAILABLE when the driver does not answer or a GPU cannot be read."""
    from osremed.timeline.collect import survey  # noqa: PLC0415

    document = survey(timeout_s)
    whole = "gpus" in document["inventory"] and not document["unreadable"] and not document["hung"]
    return Answer(document, gpus_text(document), ExitCode.OK if whole else ExitCode.UNAVAILABLE)


def status() -> Answer:
    """What the running watch sees. Unavailable when none runs or it has stopped writing."""
    document = running_status()
    alerts = [filled("ALERT {1}: {2}", f"{each['name']} {each['subject']}", each["why"]) for each in document["alerts"]]
    errors = [_error_line(each) for each in document["errors"]]
    calls, traces = calls_lines(document.get("calls")), trace_lines(document.get("traces"))
    lines = [gpus_text(document), *alerts, *errors, *traces, *calls]
    kernel = document["kernel_log"]
    driver = document.get("driver_events", {})
    if "missing" in kernel and "missing" in driver:
        lines.append(
            filled(
                "NOBODY SEES XIDS: the kernel log is not read: {1}; NVML tells of none: {2}",
                *map(_gap, (kernel, driver)),
            )
        )
    elif "missing" in kernel:
        why = _gap(kernel)
        if driver.get("missed"):
            missed = ", ".join(map(str, driver["missed"]))
            lines.append(filled("NOBODY SEES XIDS of GPU {1}: NVML does not tell of them", missed))
        lines.append(filled("KERNEL LOG NOT READ: {1}: only NVML tells of errors", why))
    elif kernel["lost"]:
        lines.append(filled("{1} kernel records were overwritten before they were read", str(kernel["lost"])))
    return Answer(document, "\n".join(lines))


def _gap(missing: dict[str, Any]) -> str:
    return f"{missing['missing']} ({missing['detail']})"


def _error_line(each: dict[str, Any]) -> str:
    told = (each["kind"], str(each["code"]), each["bdf"], str(each["count"]))
    return filled("{1} {2} at {3}: {4} times since the watch began", *told)


def running_status() -> dict[str, Any]:
    """The status file of a watch that still writes it."""
    path = os.path.join(host_paths().run, "timeline.json")
    hint = "start it with `osremed timeline run`"
    try:
        document: dict[str, Any] = json.loads(read_bytes(path, limit_bytes=8 << 20))
        age_s = time.time() - document["updated_ns"] / 1e9
        stale = age_s > 3 * document["interval_s"] + 5
    except OSError as error:
        raise Unavailable(f"no status file: {error.strerror}", where=path, hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"not a status file: {error!r}", where=path, hint=hint) from error
    if stale:
        raise Unavailable(f"the watch has not written for {age_s:.0f} s", where=path, hint=hint)
    return document


def xid(*, log: str | None = None, code: int | None = None) -> Answer:
    """What a kernel log says of the GPUs, errors of one burst together; or what one code means."""
    if (log is None) == (code is None):
        raise BadInput("give either a log or a code", hint="osremed timeline xid --log /var/log/kern.log, or --code 79")
    return _explain(code) if code is not None else _read_log(str(log))


def _explain(code: int) -> Answer:
    from osremed.timeline.catalogue import tables, xid_meaning  # noqa: PLC0415

    meaning = xid_meaning(code)
    document = {
        "code": code,
        "label": meaning.label,
        "severity": meaning.severity,
        "action": meaning.action,
        "investigate": meaning.investigate,
        "others_say": dict(meaning.others),
        "source": tables()["xid"]["source"],
    }
    lines = [
        f"Xid {code}: {meaning.label} ({meaning.severity})",
        filled("  do:          {1}", meaning.action or filled("the catalogue names nothing")),
        filled("  investigate: {1}", meaning.investigate or "-"),
        *(filled("  {1} says otherwise: {2}", who, says) for who, says in meaning.others.items()),
        filled("  source: {1}", str(document["source"])),
    ]
    return Answer(document, "\n".join(lines))


def _read_log(path: str) -> Answer:
    from osremed.timeline.incidents import incidents_of_log  # noqa: PLC0415

    try:
        text = read_bytes(path, limit_bytes=_LONGEST_LOG).decode("utf-8", "backslashreplace")
    except FileNotFoundError as error:
        raise NotFound("no such log", where=path) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error
    lines = text.split("\n")
    found = incidents_of_log(lines)
    return Answer({"lines": len(lines), "incidents": found}, incidents_text(found, len(lines)))
