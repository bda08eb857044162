from __future__ import annotations

import os
import threading

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _files
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import (
    ABSENT,
    FileState,
    lock_directory,
    put_state,
    read_state,
)


def test_what_was_put_is_read_with_mode_and_owner(tmp_path):
    path = str(tmp_path / "file")
    owner = (os.geteuid(), os.getegid()) if os.geteuid() else (1234, 4321)
    wanted = FileState(True, b"\0bytes", 0o640, *owner)
    put_state(path, wanted)
    assert read_state(path) == wanted
    assert os.listdir(tmp_path) == ["file"]


def test_no_file_is_a_state_of_its_own(tmp_path):
    path = str(tmp_path / "file")
    assert read_state(path) == ABSENT
    assert read_state(str(tmp_path / "no" / "file")) == ABSENT
    put_state(path, FileState(True, b"x", 0o600, os.geteuid(), os.getegid()))
    put_state(path, ABSENT)
    put_state(path, ABSENT)
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_is_never_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"keep")
    (tmp_path / "file").symlink_to("victim")
    with pytest.raises(ActionFailed, match="symbolic link"):
        read_state(str(tmp_path / "file"))


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_regular_files_are_read(tmp_path, kind):
    os.mkdir(tmp_path / "file") if kind == "directory" else os.mkfifo(tmp_path / "file")
    with pytest.raises(ActionFailed, match="not a regular file"):
        read_state(str(tmp_path / "file"))


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x" * 101)
    monkeypatch.setattr(_files, "LIMIT_BYTES", 100)
    with pytest.raises(ActionFailed, match="more than 100"):
        read_state(str(tmp_path / "file"))


@pytest.mark.parametrize("step", ["write", "fchmod", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step):
    path = str(tmp_path / "file")
    old = FileState(True, b"old", 0o644, os.geteuid(), os.getegid())
    put_state(path, old)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        put_state(path, old._replace(data=b"new"))
    monkeypatch.undo()
    assert read_state(path) == old
    assert os.listdir(tmp_path) == ["file"]


def test_a_killed_write_leaves_old_or_new_and_the_next_one_cleans_up(tmp_path):
    path = str(tmp_path / "file")
    old = FileState(True, b"old", 0o644, os.geteuid(), os.getegid())
    put_state(path, old)
    child = os.fork()
    if child == 0:
        os.rename = lambda *_: os._exit(9)
        put_state(path, old._replace(data=b"new"))
    os.waitpid(child, 0)
    assert read_state(path) == old
    assert len(os.listdir(tmp_path)) == 2
    put_state(path, old._replace(data=b"new"))
    assert read_state(path).data == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_one_change_at_a_time_in_a_directory(tmp_path):
    order = []
    held, refused = threading.Event(), threading.Event()

    def first():
        with lock_directory(str(tmp_path)):
            held.set()
            refused.wait(30)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(30)
    with pytest.raises(ActionFailed, match="another change holds the lock"), lock_directory(str(tmp_path), wait_s=0.01):
        pass
    refused.set()
    with lock_directory(str(tmp_path)):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert os.listdir(tmp_path) == []
