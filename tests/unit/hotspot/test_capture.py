"""What a process was called when it burned the time: the program it became, not the one it was forked from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osremed.core.reading import Value
from osremed.hotspot.capture import Capture
from osremed.sensors import elf, procfs


def test_a_process_seen_before_its_exec_gets_the_name_of_what_it_became():
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            key = (target.pid, stat.value.start_time_ticks, 1)
            capture = Capture()
            before = capture.see(key, 1)
            assert before is not None
            assert before.row["name"] == "sh"
            assert target.stdin is not None
            target.stdin.write(b"\n")
            target.stdin.flush()
            deadline = time.monotonic() + 20
            while Path(f"/proc/{target.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert capture.see(key, 1) is before
            after = capture.see((*key[:2], 2), 1)
            assert after is not None
            assert after.row["name"] == "sleep"
            assert any("sleep" in mapping[3] for mapping in after.row["maps"])
            assert capture.forget_ended() == [before]
            assert list(capture.processes.values()) == [after]
        finally:
            target.kill()


def test_a_program_that_is_met_after_what_it_became_gets_none_of_its_mappings() -> None:
    with subprocess.Popen(["sleep", "60"]) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            early, late = ((target.pid, stat.value.start_time_ticks, number) for number in (1, 2))
            capture = Capture()
            seen = capture.see(late, 1)
            assert seen is not None
            assert capture.see(early, 40) is None
            assert not seen.replaced
            first = Capture()
            before = first.see(early, 1)
            assert before is not None
            before.row["maps"] = []
            assert first.see(late, 1) is not None
            assert first.see(early, 40) is before
            assert before.row["maps"] == []
        finally:
            target.kill()


def test_a_service_that_names_itself_later_is_told_by_that_name():
    with subprocess.Popen(["sleep", "60"]) as target:
        try:
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            key, capture = (target.pid, stat.value.start_time_ticks, 1), Capture()
            seen = capture.see(key, 1, name="python3")
            assert seen is not None
            seen.unwritten = False
            assert capture.see(key, 4, name="ota-gateway") is seen
            assert (seen.row["name"], seen.unwritten) == ("ota-gateway", True)
        finally:
            target.kill()


def build_id(path: Path) -> str:
    with open(path, "rb", buffering=0) as stream:
        parsed = elf.read_elf(stream.fileno(), str(path))
        assert isinstance(parsed, Value)
        return elf.identity(stream.fileno(), parsed.value)


def told_build_ids(capture: Capture, program: Path) -> list[str]:
    """What is told of a new process of it."""
    with subprocess.Popen([program]) as target:
        try:
            deadline = time.monotonic() + 20
            while str(program) not in Path(f"/proc/{target.pid}/maps").read_text() and time.monotonic() < deadline:
                time.sleep(0.01)
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            seen = capture.see((target.pid, stat.value.start_time_ticks, 1), 1)
            assert seen is not None
            return [each[4] for each in seen.row["maps"] if each[3] == str(program)]
        finally:
            target.kill()


@pytest.fixture
def releases(tmp_path: Path) -> list[Path]:
    """Two releases of a program that waits."""
    found = [tmp_path / "first", tmp_path / "second"]
    for number, each in enumerate(found):
        source = f"#include <unistd.h>\nint main(void) {{ pause(); return {number}; }}\n"
        subprocess.run(["gcc", "-xc", "-", "-o", each], input=source, text=True, check=True)
    return found


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_a_program_that_was_copied_over_has_the_build_id_of_now(tmp_path: Path, releases: list[Path]) -> None:
    """`cp` keeps the inode: all that maps say of the file stays the same."""
    program, capture = Path(shutil.copy(releases[0], tmp_path / "app")), Capture()
    inode = program.stat().st_ino
    assert told_build_ids(capture, program) == [build_id(releases[0])]
    shutil.copy(releases[1], program)
    assert program.stat().st_ino == inode
    assert told_build_ids(capture, program) == [build_id(releases[1])]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_a_process_that_ended_takes_no_build_id_from_the_next(releases: list[Path], tmp_path: Path) -> None:
    """The kernel's own files of the first process are not there any more when its file is opened."""
    root = tmp_path / "proc"
    with subprocess.Popen([releases[0]]) as target:
        folder = root / str(target.pid)
        folder.mkdir(parents=True)
        deadline = time.monotonic() + 20
        while str(releases[0]) not in Path(f"/proc/{target.pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        for name in ("stat", "cgroup", "maps"):
            (folder / name).write_bytes(Path(f"/proc/{target.pid}/{name}").read_bytes())
        stat = procfs.stat(target.pid)
        assert isinstance(stat, Value)
        key, capture = (target.pid, stat.value.start_time_ticks, 1), Capture(proc_root=str(root))
        vanished = capture.see(key, 1)
        target.kill()
    assert vanished is not None
    assert {each[4] for each in vanished.row["maps"] if each[3] == str(releases[0])} == {""}
    (folder / "root").symlink_to("/")
    seen = capture.see(key, 10)
    assert seen is not None
    assert {each[4] for each in seen.row["maps"] if each[3] == str(releases[0])} == {build_id(releases[0])}


_MANY = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
pages = 30000
area = libc.mmap(None, pages * 4096, 3, 0x22, -1, 0)
for page in range(0, pages, 2):
    if libc.mprotect(area + page * 4096, 4096, 1): sys.exit(1)
print(flush=True)
time.sleep(60)
"""


def test_a_process_with_more_than_a_megabyte_of_mappings_has_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the JVM with a large heap, of a database: vm.max_map_count allows 5 MB, and more where it was raised."""
    with subprocess.Popen([sys.executable, "-c", _MANY], stdout=subprocess.PIPE) as target:
        try:
            assert target.stdout is not None
            assert target.stdout.readline() == b"\n"
            assert len(Path(f"/proc/{target.pid}/maps").read_bytes()) > 1 << 20
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            key, capture = (target.pid, stat.value.start_time_ticks, 1), Capture()
            seen = capture.see(key, 1)
            assert seen is not None
            assert seen.row["maps"]
            assert seen.row["language"] == "python"
            assert not capture.gaps
            monkeypatch.setattr("osremed.hotspot.capture._MAPS_LIMIT_BYTES", 1 << 20)
            limited = Capture()
            limited.see(key, 1)
            (gap,) = limited.gaps
            assert f"[{target.pid}]" in gap
            assert "no names" in gap
        finally:
            target.kill()
