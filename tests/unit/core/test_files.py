"""Files are old or new, never torn, and an error leaves nothing lying about."""

from __future__ import annotations

import os
import resource
import signal
import sys

import pytest

from osremed.core import files
from osremed.core.files import exclusive_lock, read_bytes, write_all, write_atomic


def test_the_file_holds_the_bytes_with_the_mode_whatever_the_umask(tmp_path):
    path = tmp_path / "f"
    before = os.umask(0o077)
    try:
        write_atomic(str(path), b"new", mode=0o644)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the owner needs root")
def test_an_owner_is_set_before_the_file_appears(tmp_path):
    write_atomic(str(tmp_path / "f"), b"x", mode=0o640, owner=(65534, 65534))
    facts = (tmp_path / "f").stat()
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o7777) == (65534, 65534, 0o640)


def test_sigkill_at_any_line_leaves_old_or_new(tmp_path):
    path = tmp_path / "f"
    ends = set()
    for kill_at in range(1, 200):
        path.write_bytes(b"old" * 1000)
        pid = os.fork()
        if pid == 0:
            lines = iter(range(1, 1 << 30))

            def trace(frame, event, arg):
                if frame.f_code.co_filename != files.__file__:
                    return None
                if event == "line" and next(lines) == kill_at:  # noqa: B023
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            write_atomic(str(path), b"new" * 2000)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        ends.add(path.read_bytes())
        if os.WIFEXITED(status):
            break
    assert os.WIFEXITED(status)
    assert kill_at > 15  # the tracer did step through the function
    assert ends == {b"old" * 1000, b"new" * 2000}


def test_a_full_disk_leaves_the_old_file_and_no_residue(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            write_atomic(str(path), b"x" * 100)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("step", ["fsync", "rename", "fchmod"])
def test_a_failing_step_raises_and_leaves_no_residue(tmp_path, monkeypatch, step):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(str(path), b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_planted_symbolic_link_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".f.{os.getpid()}.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(str(tmp_path / "f"), b"new")
    assert victim.read_bytes() == b"precious"


def test_a_short_write_is_continued(monkeypatch):
    reading, writing = os.pipe()
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    write_all(writing, b"0123456789")
    monkeypatch.undo()
    assert os.read(reading, 100) == b"0123456789"
    os.close(reading)
    os.close(writing)


def test_a_file_above_the_limit_is_an_error_not_a_prefix(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 11)
    assert read_bytes(str(tmp_path / "f"), limit_bytes=11) == b"x" * 11
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_bytes(str(tmp_path / "f"), limit_bytes=10)


def test_a_lock_is_held_once_and_freed_at_the_end(tmp_path):
    path = str(tmp_path / "lock")
    with exclusive_lock(path), pytest.raises(BlockingIOError), exclusive_lock(path, wait=False):
        pass
    with exclusive_lock(path, wait=False):
        pass
    assert (tmp_path / "lock").stat().st_mode & 0o077 == 0
