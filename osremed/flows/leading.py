"""One dispatcher decides, others stand by: the lock of the state directory is the lease, and the kernel ends it with
its holder, whatever ended that."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from osremed.core.clock import SystemClock, rfc3339
from osremed.core.errors import BadInput, Unavailable
from osremed.core.files import exclusive_lock_on
from osremed.core.log import Log

_LOG = Log("leading")
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


class Lead:
    """The lock of a state directory, held."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def check(self) -> None:
        """Unavailable once the file at its path is another one: a restored backup, a volume mounted over it. Somebody
        else could then hold the lock of that."""
        if not _is_at(self._path, self._descriptor):
            raise Unavailable("the state directory was exchanged under its dispatcher", where=self._path)


def _is_at(path: str, descriptor: int) -> bool:
    try:
        there, held = os.stat(path, follow_symlinks=False), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


@contextlib.contextmanager
def leading(path: str, *, standby: bool) -> Iterator[Lead]:
    """Holds the lock at `path`. While another holds it: BadInput that says who, or with `standby` waits for its end,
    however long that takes."""
    with contextlib.ExitStack() as stack:
        descriptor = _taken(stack, path, wait=False)
        if descriptor is None and not standby:
            what = f"another dispatcher serves this state directory: {_holder(path)}"
            raise BadInput(what, where=path, hint="stop it first, let this one stand by, or use another --state")
        if descriptor is None:
            _LOG.info("standing by", leads=_holder(path))
        while descriptor is None:
            descriptor = _taken(stack, path, wait=True)
        who = f"pid {os.getpid()} on {socket.gethostname()} since {rfc3339(SystemClock().wall_ns())}\n".encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, who, 0)
        yield Lead(path, descriptor)


def _taken(stack: contextlib.ExitStack, path: str, *, wait: bool) -> int | None:
    """The descriptor with the lock, None if another has it, or has exchanged the file meanwhile."""
    with contextlib.ExitStack() as held:
        try:
            descriptor = held.enter_context(exclusive_lock_on(path, _FLAGS, wait=wait))
        except BlockingIOError:
            return None
        if not _is_at(path, descriptor):
            return None
        stack.push(held.pop_all())
        return descriptor


def _holder(path: str) -> str:
    """Who wrote itself down there; it need not have yet."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(200).strip() or "just now"
    return "just now"
