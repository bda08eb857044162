"""Files that are old or new, never torn."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator


def fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """After return the file holds `data` on disk; at any crash before, it holds the old bytes whole.

    `owner` is (uid, gid); None leaves the file to who writes it.
    Raises OSError and leaves no temporary file behind when the disk is full or the directory is not writable."""
    directory = os.path.dirname(path) or "."
    temporary = os.path.join(directory, f".{os.path.basename(path)}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    fsync_directory(directory)


def write_all(fd: int, data: bytes) -> None:
    """Writes every byte or raises OSError (a short write is continued)."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_bytes(path: str, *, limit_bytes: int = 64 << 20) -> bytes:
    """The whole file. OSError as the system gives it; OSError(EFBIG) above `limit_bytes`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks: list[bytes] = []
        total = 0
        while chunk := os.read(fd, 1 << 20):
            total += len(chunk)
            if total > limit_bytes:
                raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


@contextlib.contextmanager
def exclusive_lock(path: str, *, wait: bool = True) -> Iterator[None]:
    """Holds flock(LOCK_EX) on `path` (created 0600). BlockingIOError when `wait` is false and another holds it."""
    with exclusive_lock_on(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, wait=wait):
        yield


@contextlib.contextmanager
def exclusive_lock_on(path: str, flags: int, *, wait: bool) -> Iterator[int]:
    """As `exclusive_lock`, on what `flags` open: with O_RDONLY | O_DIRECTORY a directory itself. The descriptor."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield fd
    finally:
        os.close(fd)
