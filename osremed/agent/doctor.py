"""What works on this host, what is missing, and how to get it. Reads only; needs no privilege."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

from osremed.agent import verbs
from osremed.agent.config import config_path, load_config
from osremed.agent.undo_record import list_undo
from osremed.core.answer import Answer
from osremed.core.columns import padded
from osremed.core.errors import ExitCode, OsremedError
from osremed.core.language import said
from osremed.core.paths import host_paths
from osremed.core.reading import Missing, Reading, Value
from osremed.core.record import record
from osremed.fastoom.policy import load_policy
from osremed.fastoom.status import FILE, read_running
from osremed.sensors import cgroup, process, procfs, psi, residency

_CONTROL_PACKAGES = ("ansible_runner", "fastapi", "jinja2", "prefect", "pydantic", "yaml")


@record
class Check:
    """`works` false with `needed` false is a loss, not a fault; `hint` says how to get it."""

    name: str
    works: bool
    needed: bool
    detail: str
    hint: str = ""
    where: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "works": self.works,
            "needed": self.needed,
            "detail": f"{self.where}{self.detail}",
            "hint": self.hint,
        }


def doctor() -> Answer:
    """One line a check. Exit code 7 when something the guard needs is missing; what is merely not set up, or only
    makes it better, does not count."""
    checks = [*_platform(), *_kernel(), *_installation()]
    lines = [line for check in checks for line in _lines(check)]
    broken = any(check.needed and not check.works for check in checks)
    document = {"ready": not broken, "checks": [check.as_json() for check in checks]}
    return Answer(document, "\n".join(lines), ExitCode.UNAVAILABLE if broken else ExitCode.OK)


def _lines(check: Check) -> Iterator[str]:
    mark = "ok" if check.works else "MISSING" if check.needed else "without"
    yield f"{padded(said(mark), 7)} {said(check.name)}: {check.where}{said(check.detail)}"
    if not check.works and check.hint:
        yield f"          -> {said(check.hint)}"


def _platform() -> list[Check]:
    version = platform.python_version()
    absent = [name for name in _CONTROL_PACKAGES if importlib.util.find_spec(name) is None]
    return [
        Check("python", sys.version_info >= (3, 9), True, version, "Python 3.9 or newer"),
        Check("root", os.geteuid() == 0, True, f"uid {os.geteuid()}", "sudo; lint, doctor and reports need none"),
        Check(
            "control plane",
            not absent,
            False,
            f"not here: {', '.join(absent)}" if absent else "installed",
            "not needed on a target; else: pip install 'osremed[control]' with Python 3.11-3.13",
        ),
    ]


def _kernel() -> list[Check]:
    own = procfs.stat(os.getpid())
    handle: Reading[int] = own if isinstance(own, Missing) else process.open_verified(os.getpid(), _start(own))
    if isinstance(handle, Value):
        os.close(handle.value)
    hierarchy = cgroup.memory_hierarchy()
    cached = residency.residency_of_path(os.path.realpath(sys.executable))
    kernel = platform.release()
    return [
        _read("available memory", procfs.meminfo(), lambda _: "/proc/meminfo", True, "mount /proc"),
        _read("pidfd", handle, lambda _: f"Linux {kernel}", True, "Linux 5.3 and Python 3.9"),
        _read("memory groups", hierarchy, lambda found: f"cgroup v{found.version} at {found.mount}", False,
              "mount the memory controller; without it only the node can be guarded"),
        _read("memory stalls", psi.node("memory"), lambda _: "/proc/pressure/memory", False, "Linux 4.20, psi=1"),
        Check("fast release", process.can_release_memory(), False, "process_mrelease", "Linux 5.15"),
        _read("page cache of files", cached, lambda found: str(found.method), False, "Linux 6.5 tells dirty pages"),
    ]  # fmt: skip


def _start(own: Value[procfs.Stat]) -> int:
    return own.value.start_time_ticks


def _read(name: str, reading: Reading[Any], say: Callable[[Any], str], needed: bool, hint: str) -> Check:
    if isinstance(reading, Missing):
        return Check(name, False, needed, str(reading), hint)
    return Check(name, True, needed, say(reading.value))


def _installation() -> list[Check]:
    paths = host_paths()
    configured = config_path(paths)
    return [
        _try("fastoom policy", lambda: load_policy(paths.fastoom_policy).sensitivity),
        _try("fastoom", lambda: f"pid {read_running(os.path.join(paths.run, FILE))['pid']}"),
        _try("agent configuration", lambda: load_config(configured) and configured),
        _try("agent", lambda: f"pid {verbs.status().document['pid']}"),
        _try("undo", lambda: _undo(paths.undo)),
    ]


def _undo(directory: str) -> str:
    registered = list_undo(directory)
    human = len(registered.conflicts) + len(registered.damaged)
    if human:
        raise OsremedError(f"{human} changes need a human", where=directory, hint="osremed agent undo list")
    return f"{len(registered.pending)} await confirmation"


def _try(name: str, ask: Callable[[], Any]) -> Check:
    try:
        return Check(name, True, False, str(ask()))
    except OsremedError as error:
        where = f"{error.where}: " if error.where else ""
        return Check(name, False, False, error.what, error.hint, where)
