"""A child of the recorder, for work whose memory or errors must not be the recorder's own."""

from __future__ import annotations

import os
from collections.abc import Callable

_MOST_FDS = 4096  #: LimitNOFILE of the recorder's unit
_BROKE_OFF = 255


def begin(work: Callable[[], int], nice: int) -> int:
    """The pid of a child that does it and ends with its answer, or with 255 when it raises. OSError without a process
    or memory for one."""
    pid = os.fork()
    if pid == 0:
        came = _BROKE_OFF
        try:
            os.closerange(3, _MOST_FDS)  # the recorder's lock and programs must not outlive it here
            os.nice(nice)
            came = work()
        finally:
            os._exit(came)  # nothing may run up into the recorder's own stack
    return pid
