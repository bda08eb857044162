"""One file or link taken back: only where it is still what the change wrote, and never through a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from osremed.agent.undo_record import FileChange, LinkChange, Previous
from osremed.agent.undo_values import Result
from osremed.core.canonical import sha256_hex
from osremed.core.files import exclusive_lock_on, fsync_directory, write_all
from osremed.core.record import record

_LIMIT_BYTES = 4 << 20  #: what a module may write; larger is not ours
#: Security labels and access lists that belong to the place, not to the bytes.
_KEPT_XATTRS = ("security.selinux", "system.posix_acl_access")


@record
class Found:
    """What a path holds. `ours_to_judge` is false for a link, a directory, a device or a file too large: somebody put
    it there since."""

    state: Previous
    ours_to_judge: bool = True

    @property
    def sha256(self) -> str:
        return sha256_hex(self.state.content) if self.state.exists else ""


_NOTHING = Previous(False, b"", 0, 0, 0)


def revert_file(change: FileChange) -> tuple[Result, str]:
    """What became of the file, and the digest of what it holds now ("" for none). OSError leaves it for the next try,
    BlockingIOError while a module is changing a file of the same directory."""
    directory = os.path.dirname(change.path)
    with _directory_held(directory):
        found = look(change.path)
        result = judge(change, found)
        if result is Result.REVERTED:
            _restore(change.path, change.previous)
            found = look(change.path)
        return result, found.sha256


def judge(change: FileChange, found: Found) -> Result:
    """Pure: restore only what is still ours."""
    if not found.ours_to_judge:
        return Result.CONFLICT
    if found.sha256 == change.applied_sha256:
        return Result.ALREADY_PREVIOUS if found.state == change.previous else Result.REVERTED
    same = found.state.exists == change.previous.exists and found.state.content == change.previous.content
    return Result.ALREADY_PREVIOUS if same else Result.CONFLICT


def look(path: str) -> Found:
    """OSError for what cannot be read: it is not judged."""
    try:
        # O_NONBLOCK: a FIFO put in the file's place must not hang the agent.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Found(_NOTHING)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            return Found(_NOTHING, ours_to_judge=False)
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _LIMIT_BYTES:
            return Found(_NOTHING, ours_to_judge=False)
        content = b""
        while chunk := os.read(fd, 1 << 20):
            content += chunk
            if len(content) > _LIMIT_BYTES:
                return Found(_NOTHING, ours_to_judge=False)
        return Found(Previous(True, content, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid))
    finally:
        os.close(fd)


@contextlib.contextmanager
def _directory_held(directory: str) -> Iterator[None]:
    """The lock that modules hold while they change a file there. Without the directory there is nothing to hold."""
    if not os.path.isdir(directory):
        yield
        return
    with exclusive_lock_on(directory, os.O_RDONLY | os.O_DIRECTORY, wait=False):
        yield


def _restore(path: str, previous: Previous) -> None:
    if previous.exists:
        _replace(path, previous)
    else:
        os.unlink(path)
    fsync_directory(os.path.dirname(path))


def _replace(path: str, previous: Previous) -> None:
    """The name of the temporary file is fixed, and the lock is held: a killed revert leaves no litter."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.osremed-new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchown(fd, previous.uid, previous.gid)
            _keep_xattrs(path, fd)
            os.fchmod(fd, previous.mode)
            write_all(fd, previous.content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _keep_xattrs(path: str, fd: int) -> None:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTSUP):
            return
        raise
    for name in _KEPT_XATTRS:
        if name in names:
            os.setxattr(fd, name, os.getxattr(path, name, follow_symlinks=False))


def revert_link(change: LinkChange) -> tuple[Result, str]:
    """What became of the link, and where it points now. It never points back to what is not there any more."""
    with _directory_held(os.path.dirname(change.path)):
        current = where_to(change.path)
        result = judge_link(change, current)
        if result is Result.REVERTED and change.previous and not _leads_somewhere(change):
            result = Result.CONFLICT
        if result is Result.REVERTED:
            _point(change.path, change.previous)
            current = change.previous
        return result, current or ""


def judge_link(change: LinkChange, current: str | None) -> Result:
    """Pure. `current`: the target, "" for nothing there, None for something that is no link."""
    if current == change.previous:
        return Result.ALREADY_PREVIOUS
    return Result.REVERTED if current == change.applied else Result.CONFLICT


def where_to(path: str) -> str | None:
    """The link's target, "" if there is nothing, None if it is not a link."""
    try:
        return os.readlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _leads_somewhere(change: LinkChange) -> bool:
    return os.path.exists(os.path.join(os.path.dirname(change.path), change.previous))


def _point(path: str, target: str) -> None:
    if target:
        temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.osremed-new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, path)
    else:
        os.unlink(path)
    fsync_directory(os.path.dirname(path))
