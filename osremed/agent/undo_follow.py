"""What must follow once a file or a link is back: its daemon reads it, systemd reads a drop-in, a unit starts anew."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess

from osremed.agent.undo_record import UndoRecord
from osremed.agent.undo_values import Result
from osremed.core.files import read_bytes
from osremed.core.reading import Missing
from osremed.sensors import process

_RESTART_TIMEOUT_S, _DAEMON_RELOAD_TIMEOUT_S = 15.0, 30.0
_TYPES = "service|socket|device|mount|automount|swap|target|path|timer|slice|scope"
_DROP_IN = re.compile(rf".*/(?:[^/]+\.)?(?:{_TYPES})\.d/[^/]+\.conf")
#: Of a record after which all has followed. A mode needs no room on a full disk, outlives a restart of this very agent
#: and goes with the record; one that is registered again has 0600 again.
_FOLLOWED_MODE = 0o400


def is_drop_in(path: str) -> bool:
    """Whether systemd reads the file as a drop-in of a unit, or of all units of a type."""
    return _DROP_IN.fullmatch(path) is not None


def follow_once(found: UndoRecord, record_path: str, result: Result) -> str:
    """What was done, in words; "" when nothing has to follow. It is done once for a record, because its event may be
    offered for hours: no unit is restarted each time, least of all this agent. It does not wait for the event either: a
    full disk must not keep a bad release running. OSError when systemd said no: then it is done again."""
    if result is Result.ALREADY_PREVIOUS and stat.S_IMODE(os.stat(record_path).st_mode) == _FOLLOWED_MODE:
        return "what must follow was done at an earlier try"
    told = "; ".join(each for each in _follow(found) if each)
    if told:
        os.chmod(record_path, _FOLLOWED_MODE)
    return told


def _follow(found: UndoRecord) -> list[str]:
    told = [_reload(found.reload_status)]
    if found.file and is_drop_in(found.file.path):  # or the unit would go on as the drop-in said, also when restarted
        _systemctl(_DAEMON_RELOAD_TIMEOUT_S, "daemon-reload")
        told.append("systemd has read it")
    if found.link and found.link.unit:
        _restart(found.link.unit)
        told.append(f"{found.link.unit} is being restarted")
    return told


def _restart(unit: str) -> None:
    """One that was stopped stays so. One that the bad release made fail, until systemd starts it no more, has to start;
    a `reset-failed` before would hide from the next try that it failed. Else it is not waited for: it may be this very
    agent."""
    failed = _answer(_RESTART_TIMEOUT_S, "--quiet", "is-failed", "--", unit).returncode == 0
    _systemctl(_RESTART_TIMEOUT_S, *(["restart"] if failed else ["--no-block", "try-restart"]), "--", unit)


def _systemctl(timeout_s: float, *words: str) -> None:
    """OSError unless systemd says that it does so."""
    ended = _answer(timeout_s, *words)
    if ended.returncode != 0:
        said = ended.stderr.decode("utf-8", "replace").strip()[-300:]
        raise OSError(errno.EIO, said or f"exit code {ended.returncode}", " ".join(["systemctl", *words]))


def _answer(timeout_s: float, *words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["systemctl", *words],  # noqa: S607  where it lies differs
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        shown = " ".join(["systemctl", *words])
        raise OSError(errno.ETIMEDOUT, f"no answer within {timeout_s:g} s", shown) from error


def _reload(status_path: str) -> str:
    """SIGHUP to the daemon that wrote the status file, known by pid and start time; what came of it. A daemon that does
    not run reads the file when it starts."""
    if not status_path:
        return ""
    try:
        document = json.loads(read_bytes(status_path, limit_bytes=1 << 20))
        pid, start_time_ticks = int(document["pid"]), int(document["start_time_ticks"])
    except OSError as error:
        return f"not signalled: {status_path}: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"not signalled: {status_path}: {error!r}"
    handle = process.open_verified(pid, start_time_ticks)
    if isinstance(handle, Missing):
        return f"not signalled: {handle}"
    try:
        failure = process.send(handle.value, signal.SIGHUP)
    finally:
        os.close(handle.value)
    return f"not signalled: {failure}" if failure else f"SIGHUP sent to pid {pid}"
