"""Which files processes hold open or mapped, as links that open the very file: no path is looked up.

Links of /proc/PID/fd and /proc/PID/map_files reach deleted files, memfds and files of other mount namespaces. Files on
network and FUSE mounts are named but must not be touched: with their server gone, open and stat wait for ever.
Reading another user's links needs CAP_SYS_PTRACE; map_files needs CAP_SYS_ADMIN, or CAP_CHECKPOINT_RESTORE since 5.9.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from osremed.core.files import read_bytes
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.procfs import PROC, number, read_parsed, text

_REMOTE_NAMES = (
    "9p afs beegfs ceph cifs coda fuse fuseblk gfs2 glusterfs gpfs lustre nfs nfs4 ocfs2 orangefs smb3 smbfs virtiofs"
)
_REMOTE = frozenset(_REMOTE_NAMES.split())
#: File systems whose files have no page cache of their own.
_PSEUDO_NAMES = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs fusectl mqueue nsfs proc pstore "
    "rpc_pipefs securityfs selinuxfs sysfs tracefs"
)
_PSEUDO = frozenset(_PSEUDO_NAMES.split())
#: Files of the kernel's own tmpfs mount, which no mount table shows.
_INTERNAL = ("/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "/i915", "/drm mm object")
_MAP = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) [rwxsp-]{4} [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) ([0-9]+) +(/.*)$", re.MULTILINE)
_FDINFO = re.compile(rb"^(mnt_id|ino):\s*([0-9]+)$", re.MULTILINE)
_DELETED = " (deleted)"

T = TypeVar("T")


@record
class Mount:
    """`device` is major:minor of the super block."""

    device: str
    kind: str

    @property
    def remote(self) -> bool:
        return self.kind in _REMOTE or self.kind.startswith("fuse.")

    @property
    def pseudo(self) -> bool:
        return self.kind in _PSEUDO

    @property
    def inode_numbers_are_unique(self) -> bool:
        """False where subvolumes or layers share one super block."""
        return self.kind not in ("btrfs", "bcachefs", "overlay")


@record
class FileLink:
    """One hold of one process on a file. `link` opens the file; `path` is what the kernel calls it, as the process sees
    it. `mount_id` (descriptors) or `device` (mappings) says where it lies; `inode` 0 means not told."""

    pid: int
    link: str
    path: str
    mount_id: int
    device: str
    inode: int

    @property
    def internal(self) -> bool:
        return self.path.startswith(_INTERNAL)


def parse_mount_points(data: bytes) -> list[tuple[str, Mount]]:
    """(mount point, Mount) of a mountinfo file, proc_pid_mountinfo(5), in the order of mounting: a later one at
    the same point covers the earlier."""
    found = []
    for line in data.split(b"\n"):
        left, dash, right = line.partition(b" - ")
        before, after = left.split(b" "), right.split(b" ")
        if dash and len(before) >= 6:
            point = re.sub(rb"\\([0-3][0-7]{2})", lambda octal: bytes([int(octal[1], 8)]), before[4])
            found.append((os.fsdecode(point), Mount(text(before[2]), text(after[0]))))
    return found


def parse_maps(data: bytes, pid: int, root: str = PROC) -> list[FileLink]:
    """One link for each file mapped, however many mappings it has. Anonymous and special mappings have none."""
    found: dict[tuple[bytes, bytes], FileLink] = {}
    for addresses, device, inode, path in _MAP.findall(data):
        if (device, inode) in found or (inode == b"0" and not path.startswith(b"/SYSV")):
            continue  # a System V segment has its number for an inode, and the first of all is 0
        low, _, high = addresses.partition(b"-")
        span = f"{int(low, 16):x}-{int(high, 16):x}"  # map_files has no leading zeros
        major, _, minor = device.partition(b":")
        decimal = f"{int(major, 16)}:{int(minor, 16)}"
        link = f"{root}/{pid}/map_files/{span}"
        found[device, inode] = FileLink(pid, link, text(path), 0, decimal, number(inode))
    return list(found.values())


def parse_fdinfo(data: bytes) -> dict[str, int]:
    """`mnt_id`, and `ino` since Linux 5.14."""
    return {text(key): number(value) for key, value in _FDINFO.findall(data)}


def mount_points(pid: int | str = "self", root: str = PROC) -> Reading[list[tuple[str, Mount]]]:
    return _long_file(f"{root}/{pid}/mountinfo", parse_mount_points)


def mount_namespace(pid: int | str = "self", root: str = PROC) -> Reading[str]:
    return _readlink(f"{root}/{pid}/ns/mnt")


def mapped(pid: int, root: str = PROC) -> Reading[list[FileLink]]:
    """Files mapped by the process. Takes its mmap lock, which a process stuck in the kernel may hold."""
    return _long_file(f"{root}/{pid}/maps", lambda data: parse_maps(data, pid, root))


def open_descriptors(pid: int, root: str = PROC) -> Iterator[FileLink | Missing]:
    """Files the process has open. Sockets, pipes and the like are left out; devices are not told apart here. A
    descriptor closed meanwhile is just not there; one Missing when the table itself cannot be read."""
    directory = f"{root}/{pid}/fd"
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                link = _descriptor(pid, entry.name, root)
                if link is not None:
                    yield link
    except OSError as error:
        yield missing_from_oserror(error, directory)


def _descriptor(pid: int, name: str, root: str) -> FileLink | Missing | None:
    link = f"{root}/{pid}/fd/{name}"
    target = _readlink(link)
    if isinstance(target, Missing):
        return None
    if not target.value.startswith("/") or target.value.startswith(("/dev/null", "/dev/pts/", "/dev/tty")):
        return None
    info = read_parsed(f"{root}/{pid}/fdinfo/{name}", parse_fdinfo)
    if isinstance(info, Missing):
        return info
    return FileLink(pid, link, target.value, info.value.get("mnt_id", 0), "", info.value.get("ino", 0))


def without_deleted_mark(path: str) -> str:
    """The name a deleted file had. Only for a file known to have no name left: ` (deleted)` may be part of one."""
    return path.removesuffix(_DELETED)


def _long_file(path: str, parse: Callable[[bytes], T]) -> Reading[T]:
    """Value(parse(content)) of a file that may have megabytes."""
    try:
        return Value(parse(read_bytes(path)))
    except OSError as error:
        return missing_from_oserror(error, path)
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error)[:200])


def _readlink(path: str) -> Reading[str]:
    try:
        return Value(text(os.readlink(os.fsencode(path))))
    except OSError as error:
        return missing_from_oserror(error, path)
