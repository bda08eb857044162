"""Evidence of an alert: a short trace of a job that computes on this host's GPUs, when one lets itself be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osremed.core.errors import OsremedError
from osremed.core.reading import Missing, Reason
from osremed.sensors import procfs
from osremed.timeline import kineto

_DURATION = "500ms"
_MOST_ASKED = 64


def trace_of_a_job(pids: Sequence[int], within_s: int, root: str = procfs.PROC) -> dict[str, Any]:
    """What `osremed timeline ask` tells of the first of the processes that was started with KINETO_USE_DAEMON, and its
    pid. A Missing, as JSON: UNSUPPORTED when none was, TIMED_OUT when it wrote nothing in time.

    Costs the job what PyTorch's profiler costs, for half a second; the trace stays where the job may write."""
    from osremed.timeline.traceverbs import ask  # noqa: PLC0415  the agent stays small

    willing = [pid for pid in pids[:_MOST_ASKED] if _lets_itself_be_asked(pid, root)]
    if not willing:
        why = f"none of {len(pids)} processes was started with KINETO_USE_DAEMON=1"
        return Missing(Reason.UNSUPPORTED, "kineto", why).as_json()
    try:
        told = ask(pid=willing[0], duration=_DURATION, within=f"{within_s}s")
    except OsremedError as error:
        return Missing(Reason.TIMED_OUT, "kineto", str(error)).as_json()
    return {"pid": willing[0], **told.document}


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
