"""Values of the kernel's taken back one by one, newest first, each only where it is still what the change wrote."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from enum import Enum

from osremed.agent.undo_record import Guard, ValueChange
from osremed.core.files import read_bytes
from osremed.core.reading import Value
from osremed.core.record import record
from osremed.sensors import procfs

_LIMIT_BYTES = 64 << 10
#: The file is gone: the control group was removed, the process ended, the module was unloaded.
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV})


class Result(str, Enum):
    REVERTED = "reverted"  #: the previous bytes are back
    ALREADY_PREVIOUS = "already_previous"  #: they were there, or what they belong to is gone: nothing to do
    CONFLICT = "conflict"  #: neither what was applied nor what was before; it was left alone


@record
class ValueReverted:
    """`current` is what was found before anything was written, "" when the file is gone."""

    path: str
    result: Result
    current: str

    def as_json(self) -> dict[str, str]:
        return {"path": self.path, "result": self.result.value, "current": self.current}


def revert_values(values: Sequence[ValueChange], guard: Guard | None) -> tuple[ValueReverted, ...]:
    """What became of each, in the order of reverting. All are tried; then the first OSError of one that cannot be read
    or written: may be done again."""
    if guard is not None and not _lives(guard):
        return tuple(ValueReverted(each.path, Result.ALREADY_PREVIOUS, "") for each in reversed(values))
    done: list[ValueReverted] = []
    failed: list[OSError] = []
    for each in reversed(values):
        try:
            done.append(_revert_value(each, guard))
        except OSError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return tuple(done)


def _revert_value(change: ValueChange, guard: Guard | None) -> ValueReverted:
    try:
        current = read_bytes(change.path, limit_bytes=_LIMIT_BYTES).decode("utf-8", "backslashreplace")
        result = judge_value(change, current)
        if result is Result.REVERTED and not _write(change.path, change.previous, guard):
            result = Result.ALREADY_PREVIOUS
    except OSError as error:
        if error.errno not in _VANISHED:
            raise
        return ValueReverted(change.path, Result.ALREADY_PREVIOUS, "")
    return ValueReverted(change.path, result, " ".join(current.split()))


def judge_value(change: ValueChange, current: str) -> Result:
    """Pure. White space does not count: the kernel writes tabs and newlines of its own."""
    if current.split() == change.previous.split():
        return Result.ALREADY_PREVIOUS
    return Result.REVERTED if current.split() == change.applied.split() else Result.CONFLICT


def _write(path: str, text: str, guard: Guard | None) -> bool:
    """False if the guarded process has ended. It is looked at when the file is open already: from then on a process
    that comes to the same pid is not reached by it."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if guard is not None and not _lives(guard):
            return False
        os.write(fd, text.encode("utf-8") + b"\n")
        return True
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _lives(guard: Guard) -> bool:
    reading = procfs.stat(guard.pid)
    return isinstance(reading, Value) and reading.value.start_time_ticks == guard.start_time_ticks
