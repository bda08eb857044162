"""Reading = Value | Missing(reason). What could not be read never becomes 0, False or "healthy" (law 1)."""

from __future__ import annotations

import errno
from enum import Enum
from typing import Any, Generic, TypeVar, Union

from osremed.core.record import record

T = TypeVar("T")


class Reason(str, Enum):
    """Why there is no value. NO_DATA: the source answered and had nothing. GONE: it existed and vanished."""

    NO_DATA = "no_data"
    DENIED = "denied"
    UNSUPPORTED = "unsupported"
    TIMED_OUT = "timed_out"
    MALFORMED = "malformed"
    GONE = "gone"


@record
class Value(Generic[T]):
    """What was read."""

    value: T


@record
class Missing:
    """Why nothing was read; `source` is the file or call that did not answer."""

    reason: Reason
    source: str
    detail: str = ""

    def __str__(self) -> str:
        tail = f" ({self.detail})" if self.detail else ""
        return _encodable(f"{self.reason.value}: {self.source}{tail}")

    def as_json(self) -> dict[str, str]:
        """Text that any encoder accepts: paths of hosts may hold bytes that are not UTF-8."""
        return {"missing": self.reason.value, "source": _encodable(self.source), "detail": _encodable(self.detail)}


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


Reading = Union[Value[T], Missing]

_ERRNO_REASON = {
    errno.EACCES: Reason.DENIED,
    errno.EPERM: Reason.DENIED,
    errno.ENOENT: Reason.GONE,
    errno.ESRCH: Reason.GONE,
    errno.ENOTDIR: Reason.GONE,
    errno.ENODEV: Reason.GONE,
    errno.ENOSYS: Reason.UNSUPPORTED,
    errno.EOPNOTSUPP: Reason.UNSUPPORTED,
    errno.EINVAL: Reason.UNSUPPORTED,
    errno.ETIMEDOUT: Reason.TIMED_OUT,
}


def missing_from_oserror(error: OSError, source: str, *, absent: Reason = Reason.GONE) -> Missing:
    """The Missing for a failed system call. `absent` is what ENOENT means here: a process that ended (GONE, the
    default) or a file this kernel does not have (UNSUPPORTED)."""
    reason = _ERRNO_REASON.get(error.errno or 0, Reason.NO_DATA)
    if error.errno == errno.ENOENT:
        reason = absent
    return Missing(reason, source, error.strerror or str(error))


def reading_as_json(reading: Reading[Any]) -> Any:
    """The bare value, or the Missing as an object with the key `missing`."""
    return reading.as_json() if isinstance(reading, Missing) else reading.value
