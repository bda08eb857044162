"""How much of a file is in memory: cachestat(2), else mincore(2). Looks, never reads the file and never waits on it.

cachestat (Linux 6.5, syscall 451 on every architecture but alpha) also counts dirty and writeback pages. It sees
nothing through overlayfs, whose inodes hold no pages; mincore on a mapping sees the pages of the real file below.
Both answer truthfully only to the owner of the file, to a writer of it, and to root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record

_SYS_CACHESTAT = 451
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROT_NONE, _MAP_SHARED = 0, 1
_OVERLAYFS_MAGIC = 0x794C7630  # include/uapi/linux/magic.h
_MINCORE_WINDOW_BYTES = 1 << 30
#: mincore walks absent pages one by one (about 35 ns each): 64 GiB is half a second.
MINCORE_LIMIT_BYTES = 64 << 30
NOT_REGULAR = "not a regular file"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * 3 + (ctypes.c_int64,)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_MAP_FAILED = ctypes.c_void_p(-1).value
_IS_RESIDENT = bytes(byte & 1 for byte in range(256))


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted"))


@record
class Residency:
    """Bytes of whole pages. `dirty_bytes` and `writeback_bytes` are Missing when `method` is `mincore`, which cannot
    tell."""

    cached_bytes: int
    dirty_bytes: Reading[int]
    writeback_bytes: Reading[int]
    method: str


def open_regular(path: str, *, follow: bool = False) -> Reading[int]:
    """A descriptor of a regular file, for the caller to close; Missing(UNSUPPORTED) for anything else.

    A FIFO, device or socket is looked at but never opened: opening can block, or rewind a tape. `follow` is for the
    kernel's own links (`/proc/PID/fd/N`, `/proc/PID/map_files/A-B`); a symbolic link given without it is not followed.
    Access times stay as they are where we may keep them. A file on a network or FUSE mount that hangs can hang this
    call: decide by the mount before."""
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        return missing_from_oserror(error, path)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return Missing(Reason.UNSUPPORTED, path, NOT_REGULAR)
        return Value(_reopen(handle))
    except BlockingIOError:
        return Missing(Reason.DENIED, path, "another process holds a lease on it")
    except OSError as error:
        return missing_from_oserror(error, path)
    finally:
        os.close(handle)


def _reopen(handle: int) -> int:
    """The very inode of an O_PATH descriptor, for reading: between look and open nothing can be swapped."""
    link, flags = f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(link, flags | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is for the owner alone
        return os.open(link, flags)


def residency_of_path(path: str, *, follow: bool = False) -> Reading[Residency]:
    """What `residency_of_fd` says of the regular file at `path`; see `open_regular` for what is not opened."""
    opened = open_regular(path, follow=follow)
    if isinstance(opened, Missing):
        return opened
    try:
        return residency_of_fd(opened.value, source=path)
    finally:
        os.close(opened.value)


def residency_of_fd(fd: int, *, source: str = "") -> Reading[Residency]:
    """Cached, dirty and writeback bytes of a regular file, whoever brought them in.

    Missing: DENIED (neither owner nor writer), UNSUPPORTED (hugetlbfs, or only mincore is left for a file above
    MINCORE_LIMIT_BYTES)."""
    source = source or f"fd {fd}"
    if not _on_overlayfs(fd):
        counted = _cachestat(fd, source)
        if not isinstance(counted, Missing) or counted.reason not in (Reason.UNSUPPORTED, Reason.DENIED):
            return counted
    return mincore_of_fd(fd, source=source)


def _cachestat(fd: int, source: str) -> Reading[Residency]:
    whole, counts = _Range(0, 0), _Cachestat()
    if _libc.syscall(ctypes.c_long(_SYS_CACHESTAT), fd, ctypes.byref(whole), ctypes.byref(counts), 0) != 0:
        code = ctypes.get_errno()
        return missing_from_oserror(OSError(code, os.strerror(code)), source)
    dirty, writeback = Value(counts.dirty * _PAGE_BYTES), Value(counts.writeback * _PAGE_BYTES)
    return Value(Residency(counts.cache * _PAGE_BYTES, dirty, writeback, "cachestat"))


def _on_overlayfs(fd: int) -> bool:
    """By the type that fstatfs gives as its first word; a file system that cannot say is none."""
    answer = ctypes.create_string_buffer(256)
    return _libc.fstatfs(fd, answer) == 0 and ctypes.c_long.from_buffer(answer).value == _OVERLAYFS_MAGIC


def mincore_of_fd(fd: int, *, source: str = "") -> Reading[Residency]:
    """Cached bytes up to the end of the file by mincore(2); pages of a large folio beyond the end are not seen."""
    source = source or f"fd {fd}"
    try:
        status = os.fstat(fd)
        if not _may_ask_mincore(fd, status.st_uid):
            # The kernel answers "all resident" instead of an error then: a lie by design, so do not ask.
            return Missing(Reason.DENIED, source, "neither owner nor writer of the file")
        if status.st_size > MINCORE_LIMIT_BYTES:
            return Missing(Reason.UNSUPPORTED, source, "too large for mincore, and cachestat is not available")
        cached = _count_resident(fd, status.st_size)
    except OSError as error:
        return missing_from_oserror(error, source)
    unknown = Missing(Reason.UNSUPPORTED, source, "mincore does not tell")
    return Value(Residency(cached * _PAGE_BYTES, unknown, unknown, "mincore"))


def _may_ask_mincore(fd: int, owner: int) -> bool:
    return os.geteuid() in (0, owner) or os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)


def _count_resident(fd: int, size: int) -> int:
    """Resident pages, window by window. The mapping is PROT_NONE: nothing is faulted in."""
    resident = 0
    for offset in range(0, size, _MINCORE_WINDOW_BYTES):
        length = min(_MINCORE_WINDOW_BYTES, size - offset)
        address = _libc.mmap(None, length, _PROT_NONE, _MAP_SHARED, fd, offset)
        if address == _MAP_FAILED:
            raise _last_error()
        try:
            pages = ctypes.create_string_buffer((length + _PAGE_BYTES - 1) // _PAGE_BYTES)
            if _libc.mincore(address, length, pages) != 0:
                raise _last_error()
            resident += pages.raw.translate(_IS_RESIDENT).count(1)
        finally:
            _libc.munmap(address, length)
    return resident


def _last_error() -> OSError:
    code = ctypes.get_errno()
    # ENODEV: the file system cannot map files. That is a limit of it, not a vanished file.
    return OSError(errno.EOPNOTSUPP if code == errno.ENODEV else code, os.strerror(code))
