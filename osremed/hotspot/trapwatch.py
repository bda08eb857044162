"""Traps that stay: the event `hotspot.trap`. A child of the recorder looks at the last minute of the ring now and then;
what it finds in two looks in a row is told, and told again as cleared when two looks do not find it any more, of those
that could have. What was told outlives the recorder."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from osremed.core.canonical import canonical_json
from osremed.core.files import read_bytes, write_atomic
from osremed.core.log import Log
from osremed.core.reading import Missing
from osremed.hotspot.child import begin
from osremed.sensors import cpugroup, procfs
from osremed.sensors.containers import unit_of

EVENT = "hotspot.trap"
_FOUND_FILE, _TOLD_FILE = "hotspot-traps.json", "hotspot-standing.json"
_WINDOW_S, _LEAST_WINDOW_S, _WINDOW_CPU_S = 60.0, 10.0, 960.0
_MOST_BYTES = 320 << 20  #: of memory that a look may have: its unit has 512 MiB, the recorder's own with it
_LOOKS = 2
_MOST_TOLD = 20  #: traps that stand at once; more are one sick host, not more news
_NICE = 19

Key = tuple[str, str]  #: trap, who
Facts = Mapping[str, Any]


class Standing:
    """Which traps were told. Fed one look at a time. Pure."""

    def __init__(self, told: Sequence[Facts] = ()) -> None:
        self._told: dict[Key, Facts] = {_key(facts): facts for facts in told}
        #: looks in a row with it; below 0 without, once it was told
        self._seen: dict[Key, int] = dict.fromkeys(self._told, 0)

    @property
    def told(self) -> tuple[Facts, ...]:
        return tuple(self._told.values())

    def look(self, found: Sequence[Facts], judged: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Attributes of the events to tell now: `state` is raised, or cleared with the facts as they were told. The
        absence of traps that are not `judged` (None: all are) says nothing: for them it was no look."""
        now = {_key(each): each for each in found}
        absent = [key for key in self._seen if key not in now and (judged is None or key[0] in judged)]
        for key in absent:
            if key not in self._told:
                del self._seen[key]
        for key, facts in now.items():
            self._seen[key] = max(0, self._seen.get(key, 0)) + 1
            if self._seen[key] >= _LOOKS and key not in self._told and len(self._told) < _MOST_TOLD:
                self._told[key] = facts
                yield {**facts, "state": "raised"}
        for key in [key for key in absent if key in self._told]:
            self._seen[key] = min(0, self._seen[key]) - 1
            if self._seen[key] <= -_LOOKS:
                del self._seen[key]
                yield {**self._told.pop(key), "state": "cleared"}


def _key(facts: Facts) -> Key:
    return str(facts["trap"]), str(facts["who"])


class TrapWatch:
    """`begin` starts a look if one is due; `news` is what is to be told of it, once; `keep` keeps what was told, in the
    directory `run`. `spent_s` is the CPU time of all looks."""

    def __init__(self, every_s: float, run: str, log: Log) -> None:
        self._every_s, self._log = every_s, log
        self._path, self._kept = os.path.join(run, _FOUND_FILE), os.path.join(run, _TOLD_FILE)
        self._standing = Standing(self._read_told())
        self._next_s = time.monotonic() + every_s
        self._child = 0
        self.error = ""  #: why the last look has no result
        self.spent_s = 0.0

    def begin(self) -> None:
        now_s = time.monotonic()
        if not self._every_s or self._child or now_s < self._next_s:
            return
        try:
            self._child = begin(self._look_aside, _NICE)  # what looks back must not stay in the recorder's memory
        except OSError as error:  # tried again after the next segment
            self.error = f"no look for traps: {error.strerror}"
            self._log.warning("no look for traps", why=error.strerror)
            return
        self._next_s = now_s + self._every_s

    def _look_aside(self) -> int:
        _bound_memory()
        return _look(min(window_s(os.cpu_count() or 1), self._every_s), self._path)

    def news(self) -> tuple[dict[str, Any], ...]:
        """Attributes of the events to tell. Empty while there is nothing new: no look ended, or it failed, which is
        logged."""
        if not self._child:
            return ()
        done, status, usage = os.wait4(self._child, os.WNOHANG)
        if not done:
            return ()
        self._child = 0
        self.spent_s += usage.ru_utime + usage.ru_stime
        try:
            if status:
                raise ValueError(f"its exit status is {status}")
            look = json.loads(read_bytes(self._path))
        except (OSError, ValueError) as error:
            self.error = f"the look for traps failed: {error}"
            self._log.warning("the look for traps failed", why=str(error))
            return ()
        self.error = ""
        return tuple(self._standing.look(look["found"], look["judged"]))

    def keep(self) -> None:
        """So that the next recorder neither tells it again nor forgets to clear it."""
        try:
            write_atomic(self._kept, canonical_json(list(self._standing.told)) + b"\n", mode=0o600)
        except OSError as error:
            self._log.warning("which traps stand is not kept", why=str(error))

    def _read_told(self) -> list[Facts]:
        try:
            told = json.loads(read_bytes(self._kept))
            return [each for each in told if each["trap"] and each["who"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._log.warning("which traps stand cannot be read", why=repr(error))
            return []

    def close(self) -> None:
        """Ends a look that is at work."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0


def window_s(cpus: int) -> float:
    """How far back to look: a minute, and less where many CPUs fill it."""
    return max(_LEAST_WINDOW_S, min(_WINDOW_S, _WINDOW_CPU_S / cpus))


def _bound_memory() -> None:
    """A look that needs more memory than there is fails, or is ended alone: never the recorder."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")


def _look(window_s: float, path: str) -> int:
    """In the child. Exit code: 0 when the facts are on disk."""
    from osremed.hotspot.detect import judge  # noqa: PLC0415
    from osremed.hotspot.verbs import read_profile  # noqa: PLC0415

    now_ns = time.time_ns()
    try:
        profile = read_profile(now_ns - round(window_s * 1e9), now_ns)
        found = judge(profile)
        for gap in found.gaps:
            Log("hotspot").warning("a rule for traps failed", why=gap)
        facts = [facts_of(trap.as_json(), trap.pid, now_ns, window_s) for trap in found.traps]
        judged = None if found.judged is None else sorted(found.judged)
        write_atomic(path, canonical_json({"found": facts, "judged": judged}) + b"\n")
    except Exception as error:  # the child's one way to speak: nothing may run up into the recorder's own stack
        Log("hotspot").warning("no traps", why=repr(error)[:500])
        return 1
    return 0


def facts_of(trap: Mapping[str, Any], pid: int, now_ns: int, window_s: float) -> dict[str, Any]:
    """Attributes of the event. `scope` is the control group of the process's CPU time (of the trap, if that is one's),
    `unit` its service; both empty where there is none."""
    scope = _scope_of(pid) if pid or not trap["who"].startswith("/") else trap["who"]
    start = procfs.stat(pid) if pid else None
    return {
        "trap": trap["name"],
        **{key: trap[key] for key in ("who", "where", "figures", "summary", "confidence", "expected_gain", "fix")},
        "pid": pid,
        "start_time_ticks": 0 if start is None or isinstance(start, Missing) else start.value.start_time_ticks,
        "scope": scope,
        "unit": unit_of(scope),
        "second_ns": now_ns - round(window_s * 5e8),
        "window_s": window_s,
    }


def _scope_of(pid: int) -> str:
    groups = procfs.cgroup(pid) if pid else None
    if groups is None or isinstance(groups, Missing):
        return ""
    mounted = cpugroup.hierarchy()
    version = 2 if isinstance(mounted, Missing) else mounted.value.version
    path = groups.value.get("cpu" if version == 1 else "", "")
    return "" if path == "/" else path
