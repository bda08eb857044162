# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a file is in memory: cachestat(2), else mincore(2). Looks, and never reads the file.

cachestat (Linux 6.5) also counts dirty and writeback pages. It sees nothing through overlayfs, whose inodes hold no pages;
mincore on a mapping sees the pages of the real file below, but does not tell which are dirty."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import NamedTuple, Optional

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

_SYS_CACHESTAT = 451  # one number on all architectures but alpha
_OVERLAYFS_MAGIC = 0x794C7630  # include/uapi/linux/magic.h
_PROT_NONE, _MAP_SHARED = 0, 1
_WINDOW_BYTES = 1 << 30
#: mincore walks absent pages one by one: 64 GiB is half a second.
MINCORE_LIMIT_BYTES = 64 << 30
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Residency(NamedTuple):
    """Bytes of whole pages. `dirty_bytes`, writeback included, is None where the method cannot tell."""

    cached_bytes: int
    dirty_bytes: Optional[int]
    method: str


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")]


def _load_libc():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_char_p]
    return libc


_LIBC = _load_libc()


def open_regular(path):
    """A descriptor for reading, for the caller to close. ActionFailed for a symbolic link or anything but a regular file,
    which is looked at but never opened: opening a FIFO blocks and opening a tape rewinds it."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ActionFailed("not a regular file")
        return os.open("/proc/self/fd/%d" % handle, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)


def residency(fd):
    """The Residency of a regular file. OSError or ActionFailed where it cannot be told."""
    if not _on_overlayfs(fd):
        counts, whole = _Counts(), _Range(0, 0)
        if _LIBC.syscall(ctypes.c_long(_SYS_CACHESTAT), fd, ctypes.byref(whole), ctypes.byref(counts), 0) == 0:
            dirty = (counts.dirty + counts.writeback) * PAGE_BYTES
            return Residency(counts.cache * PAGE_BYTES, dirty, "cachestat")
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise _last_error()
    return _mincore(fd)


def _on_overlayfs(fd):
    answer = ctypes.create_string_buffer(256)
    return _LIBC.fstatfs(fd, answer) == 0 and ctypes.c_long.from_buffer(answer).value == _OVERLAYFS_MAGIC


def _mincore(fd):
    status = os.fstat(fd)
    if os.geteuid() not in (0, status.st_uid):
        # The kernel answers "all resident" instead of an error then: a lie by design, so do not ask.
        raise ActionFailed("only root and the owner of the file may ask how much of it is cached")
    if status.st_size > MINCORE_LIMIT_BYTES:
        raise ActionFailed("UNSUPPORTED: too large for mincore, and this kernel or file system has no cachestat")
    pages = 0
    for offset in range(0, status.st_size, _WINDOW_BYTES):
        pages += _resident_pages(fd, offset, min(_WINDOW_BYTES, status.st_size - offset))
    return Residency(pages * PAGE_BYTES, 0 if pages == 0 else None, "mincore")


def _resident_pages(fd, offset, length):
    """The mapping is PROT_NONE: nothing is faulted in."""
    address = _LIBC.mmap(None, length, _PROT_NONE, _MAP_SHARED, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise _last_error()
    try:
        vector = ctypes.create_string_buffer((length + PAGE_BYTES - 1) // PAGE_BYTES)
        if _LIBC.mincore(address, length, vector) != 0:
            raise _last_error()
        return sum(byte & 1 for byte in vector.raw)
    finally:
        _LIBC.munmap(address, length)


def _last_error():
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
