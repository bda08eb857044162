"""Evidence of an alert: a short trace of a job that computes on this host's GPUs, when one lets itself be asked. The
watch takes it when the alert is raised; who collects later finds it, or takes one then."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.errors import BadInput, OsremedError
from osremed.core.files import exclusive_lock, write_all
from osremed.core.paths import HostPaths
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors import procfs
from osremed.timeline import kineto

_DURATION_S = 0.5
_PLACE = "/tmp"  # noqa: S108  where any job may write
_MOST_ASKED = 64
_NAME = re.compile(r"([0-9]{19})-([0-9]{1,10})\.json")
_MOST_BYTES, _MOST_BYTES_OF_ONE = 512 << 20, 128 << 20
_MOST_KEPT = 16
_OLDEST_NS = 7 * 86400 * 10**9
_BEFORE_NS, _AFTER_NS = 60 * 10**9, 120 * 10**9  #: how far from an alert a trace is still one of its moment


@record
class Kept:
    """A trace on this host's disk: when it was asked for, and of whom."""

    path: str
    at_ns: int
    pid: int


def directory_of(paths: HostPaths) -> str:
    return os.path.join(os.path.dirname(paths.events), "timeline", "traces")


def kept(directory: str) -> list[Kept]:
    """The oldest first; none where there is no directory."""
    try:
        names = [_NAME.fullmatch(name) for name in os.listdir(directory)]
    except OSError:
        return []
    whole = sorted((*each.groups(), each.group()) for each in names if each)
    return [Kept(os.path.join(directory, name), int(at), int(pid)) for at, pid, name in whole]


def taken_near(directory: str, moment_ns: int, pid: int = 0) -> Kept | None:
    """The newest of the moment; `pid` 0: of any process."""
    found = [
        each for each in kept(directory) if -_BEFORE_NS <= each.at_ns - moment_ns <= _AFTER_NS and pid in (0, each.pid)
    ]
    return found[-1] if found else None


def take(pids: Sequence[int], within_s: float, directory: str, root: str = procfs.PROC) -> Reading[Kept]:
    """Asks the first of the processes that was started with KINETO_USE_DAEMON, and keeps what it writes: at most 16
    traces, 512 MiB and a week. UNSUPPORTED when none was, TIMED_OUT when it wrote nothing in time. The caller holds
    the lock (`only_one`): a host has one place to ask from.

    Costs the job what PyTorch's profiler costs, for half a second."""
    willing = [pid for pid in pids[:_MOST_ASKED] if _lets_itself_be_asked(pid, root)]
    if not willing:
        return Missing(
            Reason.UNSUPPORTED, "kineto", f"none of {len(pids)} processes was started with KINETO_USE_DAEMON=1"
        )
    at_ns = time.time_ns()
    wish = kineto.Wish(_DURATION_S, _PLACE, with_stack=True, with_shapes=False)
    try:
        written = kineto.ask(willing[0], wish, within_s + _DURATION_S)
    except OsremedError as error:
        return Missing(Reason.TIMED_OUT, "kineto", str(error))
    _make_room(directory, at_ns)
    return _move(written, Kept(os.path.join(directory, f"{at_ns}-{willing[0]}.json"), at_ns, willing[0]))


def only_one(directory: str) -> Any:
    """The lock, as a context. BlockingIOError while another one takes a trace; OSError where it cannot be written."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return exclusive_lock(os.path.join(directory, "lock"), wait=False)


def _make_room(directory: str, now_ns: int) -> None:
    """For one more, of the greatest size."""
    for name in os.listdir(directory):
        if name.endswith(".part"):  # of one that was ended while it copied
            os.unlink(os.path.join(directory, name))
    left, count = _MOST_BYTES - _MOST_BYTES_OF_ONE, 1
    for each in reversed(kept(directory)):
        left -= os.stat(each.path).st_size
        count += 1
        if left < 0 or count > _MOST_KEPT or now_ns - each.at_ns > _OLDEST_NS:
            os.unlink(each.path)


def _move(written: str, place: Kept) -> Reading[Kept]:
    """The job's file to its place. A job may put anything where its trace should be: only a file of its own is read."""
    part = f"{place.path}.part"
    try:
        source = os.open(written, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(source)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST_BYTES_OF_ONE:
                why = f"{facts.st_size} bytes, {_MOST_BYTES_OF_ONE} are kept; it lies there"
                return Missing(Reason.UNSUPPORTED, written, why)
            _copy(source, part, facts.st_size)
        finally:
            os.close(source)
        os.replace(part, place.path)
        os.unlink(written)
    except OSError as error:
        return missing_from_oserror(error, written)
    return Value(place)


def _copy(source: int, part: str, size: int) -> None:
    target = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while size > 0 and (data := os.read(source, min(size, 1 << 20))):
            write_all(target, data)
            size -= len(data)
    finally:
        os.close(target)


def trace_of_a_job(pids: Sequence[int], within_s: int, directory: str, moment_ns: int, pid: int = 0) -> dict[str, Any]:
    """{pid, path, at_ns, late_s, ranks, …} of the trace that was taken at the moment (of `pid`, if given), or of one
    that is taken now: what it says as `osremed timeline trace` tells it. A Missing, as JSON, as for `take`. Waits for
    a trace that is under way."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            with only_one(directory):
                found = taken_near(directory, moment_ns, pid)
                taken = Value(found) if found else take(pids, deadline_s - time.monotonic(), directory)
            break
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return Missing(Reason.TIMED_OUT, directory, "another trace is under way").as_json()
            time.sleep(0.1)
        except OSError as error:
            return missing_from_oserror(error, directory).as_json()
    return taken.as_json() if isinstance(taken, Missing) else _told(taken.value, moment_ns)


def _told(found: Kept, moment_ns: int) -> dict[str, Any]:
    from osremed.timeline.traceverbs import trace  # noqa: PLC0415  the agent stays small

    late_s = round((found.at_ns - moment_ns) / 1e9, 1)
    where = {"pid": found.pid, "path": found.path, "at_ns": found.at_ns, "late_s": late_s}
    try:
        return {**where, **trace(paths=[found.path]).document}
    except BadInput as error:
        return Missing(Reason.MALFORMED, found.path, str(error)).as_json()


def _lets_itself_be_asked(pid: int, root: str) -> bool:
    variables = kineto.environment(pid, root)
    return not isinstance(variables, Missing) and "KINETO_USE_DAEMON" in variables.value


def holders_of(status: Any) -> list[int]:
    """Who computes on the GPUs, by the status of the watch; [] when that is not known."""
    return sorted(set(_pids(status))) if isinstance(status, dict) else []


def _pids(status: Mapping[str, Any]) -> Iterator[int]:
    for gpu in status.get("gpus") or ():
        processes = gpu.get("processes")
        if isinstance(processes, list):
            yield from (int(each["pid"]) for each in processes)
