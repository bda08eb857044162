"""Tables for unwinding: of which file they are made, when they are tried again, and who has them."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from osremed.core.reading import Value
from osremed.hotspot import unwind
from osremed.hotspot.capture import Capture, Captured
from osremed.hotspot.kernelsymbols import VDSO
from osremed.hotspot.unwind import GONE, MADE, Unwinder, make_table, pack_rows, table_path
from osremed.sensors import ehframe, elf, procfs


def build_id_of(path: str) -> str:
    with open(path, "rb", buffering=0) as stream:
        parsed = elf.read_elf(stream.fileno(), path)
        assert isinstance(parsed, Value)
        return elf.identity(stream.fileno(), parsed.value)


def test_rows_are_made_of_the_file_with_the_build_id_alone(tmp_path: Path) -> None:
    """The process of a container has ended: what lies at the path of its library is another one."""
    here, output = os.path.realpath(sys.executable), tmp_path / "rows"
    assert make_table([f"{tmp_path}/gone", here], "cafecafe", str(output)) == GONE
    assert not output.exists()
    assert make_table([f"{tmp_path}/gone", here], build_id_of(here), str(output)) == MADE
    assert output.exists()


class Kernel:
    """What the sampler is told, and has room for."""

    def __init__(self, room: int = 512) -> None:
        self.room, self.told = room, {}

    def set_rows(self, first: int, values: bytes) -> None:
        pass

    def set_unwind(self, pid: int, value: bytes) -> bool:
        if pid not in self.told and len(self.told) >= self.room:
            return False
        self.told[pid] = value
        return True

    def forget_unwind(self, pid: int) -> None:
        self.told.pop(pid, None)


def captured(pid: int, program: int = 1, start: int = 5, maps: Sequence[list[object]] = ()) -> Captured:
    found = Captured((pid, start, program), {"maps": list(maps), "language": ""})
    found.samples = 20
    return found


def itself() -> Captured:
    """This process, of which the interpreter's file alone is looked at."""
    start = procfs.stat(os.getpid())
    assert isinstance(start, Value)
    seen = Capture().see((os.getpid(), start.value.start_time_ticks, 1), 50)
    assert seen is not None
    own = os.path.realpath(sys.executable)
    seen.row["maps"] = [each for each in seen.row["maps"] if each[3] == own]
    assert seen.row["maps"]
    return seen


def step_until(unwinder: Unwinder, process: Captured, reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        unwinder.step({process.key: process})
        time.sleep(0.002)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole minutes in some steps."""
    monkeypatch.setattr(unwind, "_PAUSE_STEPS", 2)
    monkeypatch.setattr(unwind, "_AGAIN_STEPS", 20)


@pytest.mark.usefixtures("steps")
def test_a_table_that_did_not_fit_on_the_disk_is_made_once_there_is_room(tmp_path: Path) -> None:
    kernel, process, directory = Kernel(), itself(), tmp_path / "ring"
    directory.mkdir()
    unwinder = Unwinder(kernel, str(directory))
    directory.rmdir()
    step_until(unwinder, process, unwinder.gaps)
    assert not kernel.told
    directory.mkdir()
    step_until(unwinder, process, lambda: kernel.told)
    assert process.key[0] in kernel.told
    step_until(unwinder, process, lambda: not unwinder.gaps())


@pytest.mark.usefixtures("steps")
def test_a_host_without_room_for_a_child_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, process = Kernel(), itself()
    unwinder = Unwinder(kernel, str(tmp_path))

    def no_child() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", no_child)
        unwinder.step({process.key: process})
        assert unwinder.gaps()
    step_until(unwinder, process, lambda: kernel.told)


def test_a_row_that_lies_below_the_file_is_left_out() -> None:
    rows = [ehframe.Row(-8, ehframe.FROM_SP, 16, 0), ehframe.Row(8, ehframe.FROM_SP, 16, 0)]
    assert pack_rows(rows, ()) == pack_rows(rows[1:], ())


@pytest.fixture
def known(tmp_path: Path) -> tuple[str, list[object]]:
    """A ring that holds the table of a program, and how a process maps it."""
    row = ehframe.Row(0x1000, ehframe.FROM_SP, 16, 0)
    (tmp_path / "unwind-aa.rows").write_bytes(pack_rows([row], [(0, 0, 1 << 20)]))
    return str(tmp_path), [0x400000, 0x500000, 0, "/bin/x", "aa"]


def test_a_program_that_became_another_leaves_no_place_behind(known: tuple[str, list[object]]) -> None:
    """A wrapper was unwound; what it became ended too soon to be."""
    kernel, (directory, mapping) = Kernel(), known
    unwinder = Unwinder(kernel, directory)
    for pid in range(3):
        wrapper, app = captured(pid, 1, maps=[mapping]), captured(pid, 2)
        unwinder.step({wrapper.key: wrapper})
        assert pid in kernel.told
        wrapper.replaced, app.samples = True, 2
        unwinder.step({wrapper.key: wrapper, app.key: app})
        unwinder.forget(wrapper)
        unwinder.forget(app)
    assert not kernel.told


def test_what_a_program_became_keeps_its_place(known: tuple[str, list[object]]) -> None:
    kernel, (directory, mapping) = Kernel(), known
    unwinder = Unwinder(kernel, directory)
    wrapper, app = captured(7, 1, maps=[mapping]), captured(7, 2, maps=[mapping])
    unwinder.step({wrapper.key: wrapper})
    unwinder.step({wrapper.key: wrapper, app.key: app})
    unwinder.forget(wrapper)
    assert 7 in kernel.told
    unwinder.forget(app)
    assert not kernel.told


def test_a_process_without_room_is_a_gap_until_there_is_some(known: tuple[str, list[object]]) -> None:
    kernel, (directory, mapping) = Kernel(room=1), known
    unwinder = Unwinder(kernel, directory)
    first, second = captured(7, maps=[mapping]), captured(8, maps=[mapping])
    both = {first.key: first, second.key: second}
    unwinder.step(both)
    assert [*kernel.told] == [7]
    assert any("no room" in gap for gap in unwinder.gaps())
    unwinder.forget(first)
    unwinder.step({second.key: second})
    assert [*kernel.told] == [8]
    assert not unwinder.gaps()


def test_a_program_without_rows_of_its_own_keeps_its_frame_pointers(known: tuple[str, list[object]]) -> None:
    """A Go program has none; the code that the kernel maps into it has."""
    kernel, (directory, mapping) = Kernel(), known
    unwinder = Unwinder(kernel, directory)
    go = captured(7, maps=[[0x400000, 0x500000, 0, "/bin/go", ""], [0x7F0000000000, 0x7F0000100000, 0, VDSO, "aa"]])
    c = captured(8, maps=[mapping, [0x7F0000000000, 0x7F0000100000, 0, VDSO, "aa"]])
    unwinder.step({go.key: go, c.key: c})
    assert [*kernel.told] == [8]


@pytest.mark.usefixtures("steps")
def test_a_table_of_an_earlier_release_is_made_anew(tmp_path: Path) -> None:
    kernel, process = Kernel(), itself()
    path = Path(table_path(str(tmp_path), process.row["maps"][0][4]))
    path.write_bytes(pack_rows([], []).replace(b"OSRROW2", b"OSRROW1"))
    unwinder = Unwinder(kernel, str(tmp_path))
    step_until(unwinder, process, lambda: kernel.told)
    assert len(path.read_bytes()) > 100
