"""How much of a file is in memory, by real files: both methods agree, and nothing is opened that could block."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import mountpoints, openfiles, residency
from osremed.sensors.residency import mincore_of_fd, open_regular, residency_of_fd, residency_of_path

MIB = 1 << 20


@pytest.fixture
def cached(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(os.urandom(3 * MIB))
    return str(path)


def test_a_file_just_written_is_cached_whole_by_either_method(cached):
    fd = os.open(cached, os.O_RDONLY)
    try:
        assert residency_of_fd(fd).value.cached_bytes == 3 * MIB
        assert mincore_of_fd(fd).value.cached_bytes == 3 * MIB
    finally:
        os.close(fd)


def test_half_a_file_dropped_from_the_cache_is_half_cached(cached):
    fd = os.open(cached, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        before = residency_of_fd(fd).value.cached_bytes
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, MIB, MIB)
        after = residency_of_fd(fd).value.cached_bytes
        assert after == mincore_of_fd(fd).value.cached_bytes
        if before == 0:  # a tmpfs as temporary directory drops nothing
            assert MIB <= after < 3 * MIB
    finally:
        os.close(fd)


def test_looking_brings_nothing_into_the_cache(cached):
    fd = os.open(cached, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        first = mincore_of_fd(fd).value.cached_bytes
        residency_of_fd(fd)
        assert mincore_of_fd(fd).value.cached_bytes == first
    finally:
        os.close(fd)


def test_mincore_cannot_tell_dirty_pages_and_says_so(cached):
    fd = os.open(cached, os.O_RDONLY)
    try:
        counted = mincore_of_fd(fd).value
    finally:
        os.close(fd)
    assert counted.method == "mincore"
    assert isinstance(counted.dirty_bytes, Missing)
    assert isinstance(counted.writeback_bytes, Missing)


@pytest.mark.parametrize("reason", [Reason.UNSUPPORTED, Reason.DENIED])
def test_without_cachestat_mincore_answers(cached, monkeypatch, reason):
    monkeypatch.setattr(residency, "_cachestat", lambda fd, source: Missing(reason, source))
    counted = residency_of_path(cached).value
    assert (counted.method, counted.cached_bytes) == ("mincore", 3 * MIB)


def test_a_file_of_another_owner_is_denied_and_not_believed_to_be_cached(cached, monkeypatch):
    monkeypatch.setattr(residency.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(residency.os, "access", lambda *_args, **_kwargs: False)
    fd = os.open(cached, os.O_RDONLY)
    try:
        assert mincore_of_fd(fd).reason is Reason.DENIED
    finally:
        os.close(fd)


def test_a_file_too_large_for_mincore_is_unsupported_and_not_walked(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(residency.MINCORE_LIMIT_BYTES + 1)
        assert mincore_of_fd(file.fileno()).reason is Reason.UNSUPPORTED


def test_an_empty_file_has_nothing_cached(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert residency_of_path(str(tmp_path / "empty")).value.cached_bytes == 0


def test_the_kernel_s_links_reach_deleted_files_and_memfds(cached):
    with open(cached, "rb") as file:
        os.unlink(cached)
        assert residency_of_path(f"/proc/self/fd/{file.fileno()}", follow=True).value.cached_bytes == 3 * MIB
    fd = os.memfd_create("pool")
    try:
        os.write(fd, b"x" * MIB)
        assert residency_of_path(f"/proc/self/fd/{fd}", follow=True).value.cached_bytes == MIB
    finally:
        os.close(fd)


def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    with tempfile.TemporaryDirectory() as short, listener:
        listener.bind(f"{short}/s")
        os.symlink("/etc/passwd", tmp_path / "link")
        opened = []
        monkeypatch.setattr(residency, "_reopen", opened.append)
        for path in (tmp_path / "fifo", f"{short}/s", "/dev/null", tmp_path, tmp_path / "link"):
            assert open_regular(str(path)).reason is Reason.UNSUPPORTED
        assert opened == []


def test_a_vanished_file_is_gone():
    assert residency_of_path("/no/such/file").reason is Reason.GONE


def test_access_times_stay_as_they_are(cached, monkeypatch):
    """A mapping counts as an access, so this is asked of mincore."""
    monkeypatch.setattr(residency, "_cachestat", lambda fd, source: Missing(Reason.UNSUPPORTED, source))
    os.utime(cached, ns=(1_000_000_000, os.stat(cached).st_mtime_ns))
    residency_of_path(cached)
    assert os.stat(cached).st_atime_ns == 1_000_000_000


def test_descriptors_stay_closed_behind_us(cached, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    for path in (cached, str(tmp_path / "fifo"), "/no/such/file"):
        residency_of_path(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# --- open files --------------------------------------------------------------------------------------------------

MAPS = b"""\
55d0c8a00000-55d0c8a02000 r--p 00000000 08:01 131 /usr/bin/a name with spaces
55d0c8a02000-55d0c8a04000 r-xp 00002000 08:01 131 /usr/bin/a name with spaces
0055d0c8b00000-55d0c8b21000 rw-p 00000000 00:00 0          [heap]
7f00c8a00000-7f00c8a02000 rw-s 00000000 00:01 42           /memfd:pool (deleted)
7f00c8a03000-7f00c8a04000 rw-s 00000000 103:0a 42          /data/x (deleted)
7f00c8a05000-7f00c8a06000 rw-p 00000000 00:00 0
garbage
"""


def test_each_mapped_file_is_one_link_with_its_device_in_decimal():
    links = openfiles.parse_maps(MAPS, 7)
    assert [(link.path, link.device, link.inode) for link in links] == [
        ("/usr/bin/a name with spaces", "8:1", 131),
        ("/memfd:pool (deleted)", "0:1", 42),
        ("/data/x (deleted)", "259:10", 42),
    ]
    assert links[0].link == "/proc/7/map_files/55d0c8a00000-55d0c8a02000"
    assert [link.internal for link in links] == [False, True, False]


def test_mount_tables_tell_which_mounts_can_hang():
    table = openfiles.parse_mount_points(
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n"
        b"40 35 0:50 / /net rw - nfs4 server:/x rw\n41 35 0:51 / /s rw - fuse.sshfs h: rw\nhalf a line"
    )
    assert {point: mount.remote for point, mount in table} == {"/mnt2": False, "/net": True, "/s": True}
    assert table[0][1] == openfiles.Mount("98:0", "ext3")


def test_our_own_open_files_are_found_with_mount_and_links_that_open_them(cached):
    with open(cached, "rb") as file:
        links = [link for link in openfiles.open_descriptors(os.getpid()) if link.path == os.path.realpath(cached)]
        (link,) = links
        assert link.link.endswith(f"/fd/{file.fileno()}")
        assert link.mount_id in {mount.mount_id for mount in mountpoints.mount_points().value}
        assert isinstance(residency_of_path(link.link, follow=True), Value)


def test_a_process_that_is_not_there_has_one_gone_and_no_files():
    (gap,) = openfiles.open_descriptors(2**22 + 1)
    assert gap.reason is Reason.GONE
    assert openfiles.mapped(2**22 + 1).reason is Reason.GONE


def test_the_deleted_mark_is_cut_once_and_only_at_the_end():
    assert openfiles.without_deleted_mark("/a (deleted) (deleted)") == "/a (deleted)"
    assert openfiles.without_deleted_mark("/a (deleted).txt") == "/a (deleted).txt"
