# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files as values: read whole with owner and mode, replaced whole, never torn, never through a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

LIMIT_BYTES = 4 << 20
#: Security labels and access lists that belong to the place, not to the bytes.
_KEPT_XATTRS = ("security.selinux", "system.posix_acl_access")


class FileState(NamedTuple):
    """What a path holds. With `exists` false the rest has no meaning."""

    exists: bool
    data: bytes
    mode: int
    uid: int
    gid: int

    @property
    def sha256(self):
        """Hex digest of the bytes; an empty string when there is no file."""
        return hashlib.sha256(self.data).hexdigest() if self.exists else ""

    def same_content(self, other):
        return self.exists == other.exists and (not self.exists or self.data == other.data)


ABSENT = FileState(False, b"", 0, 0, 0)


def read_state(path):
    """The FileState of a regular file or ABSENT. ActionFailed for a symbolic link, another kind of file, or above 4 MiB."""
    try:
        # O_NONBLOCK: a FIFO put in the file's place must not hang the module.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ActionFailed("%s is a symbolic link: not followed, nothing changed" % path)
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ActionFailed("%s is not a regular file: nothing changed" % path)
        if info.st_size > LIMIT_BYTES:
            raise ActionFailed("%s has %d bytes, more than %d: nothing changed" % (path, info.st_size, LIMIT_BYTES))
        with os.fdopen(os.dup(fd), "rb") as stream:
            data = stream.read(LIMIT_BYTES + 1)
        return FileState(True, data, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
    finally:
        os.close(fd)


def put_state(path, wanted):
    """After return the path holds `wanted` on disk, or nothing if that does not exist; a crash leaves old or new, whole.

    Call it under `lock_directory`: the name of the temporary file is fixed so that a killed call leaves no litter."""
    if wanted.exists:
        _replace(path, wanted)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    fsync_directory(os.path.dirname(path))


def _replace(path, wanted):
    temporary = os.path.join(os.path.dirname(path), ".%s.osremed-new" % os.path.basename(path))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            info = os.fstat(fd)
            if (info.st_uid, info.st_gid) != (wanted.uid, wanted.gid):
                os.fchown(fd, wanted.uid, wanted.gid)
            _keep_xattrs(path, fd)
            os.fchmod(fd, wanted.mode)
            view = memoryview(wanted.data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _keep_xattrs(path, fd):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTSUP):
            return
        raise
    for name in _KEPT_XATTRS:
        if name in names:
            os.setxattr(fd, name, os.getxattr(path, name, follow_symlinks=False))


def fsync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_directory(path, wait_s=15.0):
    """Holds flock(LOCK_EX) on the directory itself, so that nothing is left behind. See `_held`."""
    return _held(path, os.O_RDONLY | os.O_DIRECTORY, wait_s)


def lock_file(path, wait_s=15.0):
    """Holds flock(LOCK_EX) on a file of its own, made with mode 0600. See `_held`."""
    return _held(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, wait_s)


@contextlib.contextmanager
def _held(path, flags, wait_s):
    """ActionFailed when another holder does not let go within `wait_s`."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise ActionFailed("%s: another change holds the lock since %g s: nothing changed" % (path, wait_s))
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
