"""`osremed hotspot ...`: look back, compare, name traps, bring profiles in and out."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from osremed.core.answer import Answer
from osremed.core.errors import BadInput, ExitCode, NotFound, OsremedError, Unavailable
from osremed.core.files import read_bytes, write_atomic
from osremed.core.language import filled
from osremed.core.paths import host_paths
from osremed.core.policyfile import policy_answer, read_policy
from osremed.core.reading import Missing
from osremed.core.shown import printable
from osremed.core.units import format_bytes, parse_duration_s
from osremed.hotspot.budget import parse_budget
from osremed.hotspot.collect import MARGIN_NS, profile_of
from osremed.hotspot.detect import findings_document, judge, render_findings
from osremed.hotspot.diff import compare
from osremed.hotspot.flame import diff_page, flame_page
from osremed.hotspot.formats.table import format_named, guess, write
from osremed.hotspot.locate import open_symbols
from osremed.hotspot.model import Profile
from osremed.hotspot.moments import parse_moment
from osremed.hotspot.render import render_diff, render_profile
from osremed.hotspot.report import diff_document, profile_document
from osremed.hotspot.ring import Window, entries, read_window, ring_directory
from osremed.sensors import procfs

_LONGEST_S = 3600.0
_IMPORT_LIMIT_BYTES = 512 << 20
_MOST_GAPS = 5
_STATES = ("cpu", "off", "both")


def status() -> Answer:
    """What the recorder says of itself, and what the ring holds. Exit code UNAVAILABLE when none runs."""
    paths = host_paths()
    directory = ring_directory(paths)
    try:
        held = entries(directory)
    except FileNotFoundError:
        held = ()
    ring = {
        "directory": directory,
        "segments": len(held),
        "bytes": sum(entry.bytes for entry in held),
        "from_ns": held[0].start_ns if held else 0,
        "to_ns": held[-1].end_ns if held else 0,
    }
    running = _running(os.path.join(paths.run, "hotspot.json"))
    lines = [_ring_line(ring)]
    if running is None:
        lines.append(filled("no recorder runs: osremed hotspot run"))
    else:
        lines.append(
            filled(
                "pid {1}, level `{2}`, {3} % of the machine (ceiling {4} %), memory {5}, {6} records lost",
                *(str(running["pid"]), str(running["level"]), f"{100 * running['share']:.2f}"),
                *(f"{100 * running['ceiling']:g}", format_bytes(running["rss_bytes"]), str(running["lost"])),
            )
        )
        for name, each in running["services"].items():
            usual = f"{1e3 * each['usual_s']:.1f}"
            lines.append(filled("service {1}: usually {2} ms ({3} answers)", name, usual, str(each["answers"])))
            if each.get("error"):
                lines.append(filled("service {1} does not answer: {2}", name, printable(each["error"])))
    code = ExitCode.OK if running is not None else ExitCode.UNAVAILABLE
    return Answer({"ring": ring, "recorder": running}, "\n".join(lines), code)


def _running(path: str) -> dict[str, Any] | None:
    try:
        document = json.loads(read_bytes(path, limit_bytes=1 << 20))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Unavailable(f"not a status file: {error}", where=path) from error
    stat = procfs.stat(int(document["pid"]))
    if isinstance(stat, Missing) or stat.value.start_time_ticks != document["start_time_ticks"]:
        return None
    return dict(document)


def _ring_line(ring: dict[str, Any]) -> str:
    if not ring["segments"]:
        return filled("ring {1}: empty", ring["directory"])
    times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ring[name] / 1e9)) for name in ("from_ns", "to_ns")]
    return filled("ring {1}: {2} to {3}, {4}", ring["directory"], *times, format_bytes(ring["bytes"]))


def at(
    *,
    moment: str = "",
    around: str | None = None,
    window: str = "2s",
    container: str | None = None,
    process: str | None = None,
    html: str | None = None,
) -> Answer:
    """Who was hot in the window around a moment or an event, on and off the CPU, with stacks and a heat map."""
    profile = _profile(moment, around, window, container, process)
    if html:
        _write(html, flame_page(profile).encode())
    code = ExitCode.OK if profile.samples else ExitCode.NOT_FOUND
    return Answer(
        profile_document(profile), render_profile(profile) + ("\n\n" + filled("page: {1}", html) if html else ""), code
    )


def flame(
    *,
    to: str,
    moment: str = "now",
    window: str = "60s",
    state: str = "both",
    source: str | None = None,
    container: str | None = None,
    process: str | None = None,
) -> Answer:
    """Writes the flame graph of a window, or of an imported file, as one HTML page."""
    _check_state(state)
    profile = _import(source) if source else _profile(moment, None, window, container, process)
    if not profile.samples:
        raise NotFound("no samples in this window", hint="osremed hotspot status")
    _write(to, flame_page(profile, state).encode())
    return Answer(
        {"path": to, "samples": len(profile.samples)}, filled("{1}: {2} samples", to, str(len(profile.samples)))
    )


def diff(
    *,
    before: str,
    after: str,
    window: str = "60s",
    state: str = "cpu",
    html: str | None = None,
    container: str | None = None,
    process: str | None = None,
) -> Answer:
    """What changed between two moments, or two files in any format that can be imported. Exit code FAILED when
    something costs significantly more."""
    _check_state(state)
    pair = [_side(each, window, container, process) for each in (before, after)]
    found = compare(pair[0], pair[1], state, paths=bool(html))
    if html:
        _write(html, diff_page(pair[0], pair[1], found).encode())
    worse = any(change.significant and change.effect > 0 for change in found.functions)
    text = render_diff(found) + ("\n\n" + filled("page: {1}", html) if html else "")
    return Answer(diff_document(found), text, ExitCode.FAILED if worse else ExitCode.OK)


def traps(
    *,
    moment: str = "now",
    around: str | None = None,
    window: str = "60s",
    container: str | None = None,
    process: str | None = None,
) -> Answer:
    """Known traps that the window shows, each with evidence, confidence, expected gain and fix."""
    profile = _profile("" if around else moment, around, window, container, process)
    found = judge(profile)
    profile = profile.with_gaps(found.gaps)
    return Answer(findings_document(found.traps, profile), render_findings(found.traps, profile))


def export(
    *,
    to: str,
    format: str = "pprof",  # noqa: A002  the word on the command line
    moment: str = "now",
    window: str = "60s",
    state: str = "cpu",
    container: str | None = None,
    process: str | None = None,
) -> Answer:
    """Writes a window as pprof, folded, speedscope, perf (script) or firefox."""
    _check_state(state)
    format_named(format)
    profile = _profile(moment, None, window, container, process)
    if not profile.samples:
        raise NotFound("no samples in this window", hint="osremed hotspot status")
    data = write(profile, format, state)
    _write(to, data)
    return Answer({"path": to, "bytes": len(data), "format": format}, f"{to}: {format_bytes(len(data))}")


def _check_state(state: str) -> None:
    if state not in _STATES:
        raise BadInput(f"no state {state!r}", hint=f"one of {', '.join(_STATES)}")


def _side(text: str, window: str, container: str | None, process: str | None) -> Profile:
    """A file, or a moment."""
    if os.path.exists(text):
        return _import(text)
    return _profile(text, None, window, container, process)


def _import(path: str) -> Profile:
    try:
        data = read_bytes(path, limit_bytes=_IMPORT_LIMIT_BYTES)
    except OSError as error:
        raise BadInput(f"cannot read the profile: {error.strerror}", where=path) from error
    return format_named(guess(data)).read(data, path)


def _profile(moment: str, around: str | None, window: str, container: str | None, process: str | None) -> Profile:
    window_s = parse_duration_s(window)
    if not 0.02 <= window_s <= _LONGEST_S:
        raise BadInput(f"a window of {window} is out of range", hint="20ms to 1h")
    if bool(moment) == bool(around):
        raise BadInput("give a moment or --around an event", hint='osremed hotspot at "14:03:07"')
    start_ns, end_ns = _borders(moment, around, round(window_s * 1e9))
    profile = read_profile(start_ns, end_ns)
    if container or process:
        return _only(profile, container, process)
    return profile


def _borders(moment: str, around: str | None, length_ns: int) -> tuple[int, int]:
    """A window begins at its moment; with `now` it ends there, with `last` where the recording does, and an event lies
    in its middle."""
    now_ns = time.time_ns()
    if around:
        middle_ns = _event_ns(around)
        return middle_ns - length_ns // 2, middle_ns + length_ns // 2
    if moment.strip() == "last":
        end_ns = _newest_ns()
        return end_ns - length_ns, end_ns
    at_ns = parse_moment(moment, now_ns)
    if moment.strip() == "now":
        return at_ns - length_ns, at_ns
    return at_ns, at_ns + length_ns


def _event_ns(event: str) -> int:
    """The moment of an event: a file with its JSON, or its id in the journals of this host."""
    from osremed.core.journal import read_journal  # noqa: PLC0415  only --around needs it

    if os.path.exists(event):
        try:
            document = json.loads(read_bytes(event, limit_bytes=1 << 20))
            return _second_of(document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"not an event: {error!r}", where=event) from error
    root = host_paths().events
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else ():
        for entry in reversed(read_journal(os.path.join(root, name)).entries):
            if entry.record.get("id") == event:
                return _second_of(entry.record)
    raise NotFound(f"no event {event!r} on this host", hint="osremed fastoom events, or give its file")


def _second_of(document: dict[str, Any]) -> int:
    return int(document.get("attributes", {}).get("second_ns") or document["time_ns"])


def check(*, file: str) -> Answer:
    """What the policy means, the defaults filled in, or BadInput (exit code 2)."""
    return policy_answer(file, asdict(parse_budget(read_policy(file), file)))


def read_profile(start_ns: int, end_ns: int) -> Profile:
    """The window out of this host's ring. NotFound when there is no ring."""
    return read_profiles([(start_ns, end_ns)])[0]


def read_profiles(spans: Sequence[tuple[int, int]]) -> list[Profile]:
    """Windows that lie side by side out of this host's ring, which is read once, as are the names in it. NotFound when
    there is no ring."""
    first_ns, last_ns = min(start for start, _ in spans), max(end for _, end in spans)
    with _ring() as directory:
        found = read_window(directory, first_ns - MARGIN_NS, last_ns + MARGIN_NS)
    boots = {str(segment.tables.get("boot_id", "")) for segment in found.segments}
    inside = {row["pid"]: row["inside"] for row in found.processes()}
    symbols, gaps = open_symbols(directory, boots, inside)
    profiles = [profile_of(_within(found, start_ns, end_ns), start_ns, end_ns, symbols) for start_ns, end_ns in spans]
    return [profile.with_gaps(_few(gaps)) for profile in profiles]


def _within(window: Window, start_ns: int, end_ns: int) -> Window:
    """What a profile of that span is made of."""
    near = (
        each for each in window.segments if each.end_ns > start_ns - MARGIN_NS and each.start_ns < end_ns + MARGIN_NS
    )
    return replace(window, segments=tuple(near))


def _newest_ns() -> int:
    """Where the newest segment of the ring ends."""
    with _ring() as directory:
        held = entries(directory)
        if not held:
            raise FileNotFoundError(directory)
        return held[-1].end_ns


@contextlib.contextmanager
def _ring() -> Iterator[str]:
    """Its directory. NotFound or Unavailable when it is not there, or cannot be read."""
    directory = ring_directory(host_paths())
    try:
        yield directory
    except FileNotFoundError:
        raise NotFound("nothing was recorded on this host", where=directory, hint="osremed hotspot run") from None
    except PermissionError as error:
        raise Unavailable(f"{error.strerror}", where=directory, hint="run as root") from error


def _few(gaps: list[str]) -> list[str]:
    return gaps if len(gaps) <= _MOST_GAPS else [*gaps[:_MOST_GAPS], f"and {len(gaps) - _MOST_GAPS} more of this kind"]


def _only(profile: Profile, container: str | None, process: str | None) -> Profile:
    """What belongs to a container (any part of its name) and a process (its name or pid)."""

    def wanted(pid: int, name: str) -> bool:
        return process is None or process in (name, str(pid))

    def inside(sample: Any) -> bool:
        return (container is None or container in sample.container) and wanted(sample.pid, sample.process)

    pids = {sample.pid for sample in profile.samples if inside(sample)}
    return profile.only(inside, lambda row: row.pid in pids)


def _write(path: str, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise OsremedError(f"cannot write: {error.strerror}", where=path) from error
