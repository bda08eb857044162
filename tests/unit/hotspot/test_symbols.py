"""What addresses are called: by the program that ran, whatever number its process had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from osremed.core.reading import Value
from osremed.hotspot.kernelsymbols import KernelKeeper, loaded_modules
from osremed.hotspot.locate import open_symbols
from osremed.hotspot.symbols import Mapped, ProcessFacts, Symbols
from osremed.sensors import perfmap, procfs
from tests.unit.hotspot.made import raw


class Functions:
    """Of a file with one function."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self, file_offset: int) -> str:
        return self._name


def program(path: str, number: int, start_ticks: int = 100) -> ProcessFacts:
    maps = (Mapped(0x400000, 0x500000, 0, path, path),) if path else ()
    return ProcessFacts(7, "x", "", maps, start_ticks=start_ticks, program=number)


def test_a_process_that_became_another_program_has_the_names_of_each() -> None:
    """`runc init` and the program it starts are linked to the same addresses, as are two processes of one number."""
    symbols = Symbols(lambda _: None, lambda _pid, path, _build_id: Functions(f"of {path}"), lambda _: None)

    def named(path: str, number: int, start_ns: int) -> list[str]:
        taken = raw(user=(0x401000, 0x402000), program=number, start_ns=start_ns)
        return [each.name for each in symbols.stack(taken, program(path, number), {})]

    assert named("/runc", 1, 10**9) == ["of /runc"] * 2
    assert named("/app", 2, 10**9) == ["of /app"] * 2
    assert named("/later", 2, 9 * 10**9) == ["of /later"] * 2


def test_an_address_is_named_as_leaf_and_as_caller() -> None:
    """Where a function ends with a call, the next one begins at the return address."""

    class Two:
        def name(self, file_offset: int) -> str:
            return "first" if file_offset < 0x1000 else "next"

    symbols = Symbols(lambda _: None, lambda *_: Two(), lambda _: None)
    assert [each.name for each in symbols.stack(raw(user=(0x401000,)), program("/x", 0), {})] == ["next"]
    taken = raw(user=(0x400000, 0x401000))
    assert [each.name for each in symbols.stack(taken, program("/x", 0), {})] == ["first", "first"]


def test_code_made_at_run_time_is_named_for_the_program_that_made_it() -> None:
    maps = {1: "700000 100 Old::run\n", 2: "700000 100 New::run\n"}
    symbols = Symbols(lambda _: None, lambda *_: None, lambda process: perfmap.parse(maps[process.program].encode()))
    for number, name in ((1, "Old::run"), (2, "New::run")):
        facts = ProcessFacts(7, "java", "", (Mapped(0x700000, 0x701000, 0, "", ""),), "java", program=number)
        taken = raw(user=(0x700010,), program=number)
        assert [each.name for each in symbols.stack(taken, facts, {})] == [name]


def test_the_perf_map_of_a_number_is_of_the_last_program_that_has_it(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as target:
        path = Path(f"/tmp/perf-{target.pid}.map")
        try:
            path.write_text("700000 100 Hello::run\n")
            stat = procfs.stat(target.pid)
            assert isinstance(stat, Value)
            ticks = stat.value.start_time_ticks
            rows = [{"pid": target.pid, "inside": target.pid, "start_ticks": start, "exec": number, "maps": []}
                    for start, number in ((ticks - 50, 9), (ticks, 2), (ticks, 1))]  # fmt: skip

            def name_of(start: int, number: int, rows: list[dict[str, object]] = rows) -> str:
                maps = (Mapped(0x700000, 0x701000, 0, "", ""),)
                facts = ProcessFacts(target.pid, "x", "", maps, "java", (0, 0), start, number)
                taken = raw(user=(0x700010,), tgid=target.pid, program=number, start_ns=start * 10**7)
                symbols, _ = open_symbols(str(tmp_path), rows)
                return symbols.stack(taken, facts, {})[0].name

            assert name_of(ticks, 2) == "Hello::run"
            assert name_of(ticks, 1) == "[anonymous]"
            assert name_of(ticks - 50, 9) == "[anonymous]"
            assert name_of(ticks - 50, 9, rows[:1]) == "[anonymous]", "the number is another's by now"
        finally:
            target.kill()
            path.unlink(missing_ok=True)


def test_a_file_that_could_not_be_looked_at_gives_no_names(tmp_path: Path) -> None:
    """What lies at its path may be any other one."""
    path = os.path.realpath(sys.executable)
    symbols, gaps = open_symbols(str(tmp_path), [])
    facts = ProcessFacts(os.getpid(), "x", "", (Mapped(0x400000, 0x900000, 0, path, ""),))
    (frame,) = symbols.stack(raw(user=(0x4A0000,), tgid=os.getpid()), facts, {})
    assert frame.name.startswith("[")
    assert any("no names" in gap for gap in gaps)


def test_a_module_that_took_the_place_of_another_names_its_own_frames(tmp_path: Path) -> None:
    """While one came or went, only the kernel's own frames have names: nobody knows which of them ran."""
    proc, ring = tmp_path / "proc", tmp_path / "ring"
    proc.mkdir()
    ring.mkdir()
    keeper, ran = None, []
    for module in ("veth", "nfs"):
        (proc / "modules").write_text(f"{module} 16384 0 - Live 0xffffffffc0000000\n")
        (proc / "kallsyms").write_text(
            f"ffffffff81000000 T do_read\nffffffff81000100 T do_write\nffffffffc0000000 t {module}_run\t[{module}]\n"
        )
        if keeper is None:
            keeper = KernelKeeper(str(ring), "boot", str(proc))
            assert keeper.begin()
        deadline = time.monotonic() + 20
        ran += [keeper.turn()]
        while not list(ring.glob(f"kallsyms-boot-{loaded_modules(str(proc))}.z")):
            assert time.monotonic() < deadline
            keeper.turn()
            time.sleep(0.01)
        ran += [keeper.turn()]
    keeper.close()
    first, _, changed, second = ran
    assert changed == ""
    symbols, gaps = open_symbols(str(ring), [])

    def named(modules: str) -> list[str]:
        taken = raw(kernel=(0xFFFFFFFFC0000010, 0xFFFFFFFF81000010))
        return [each.name for each in symbols.stack(taken, program("", 0), {}, ("boot", modules))]

    assert named(first) == ["do_read", "veth_run"]
    assert named(second) == ["do_read", "nfs_run"]
    assert not gaps
    assert named(changed) == ["do_read", "[kernel+0xffffffffc0000010]"]
    assert any("modules" in gap for gap in gaps)


def test_how_often_a_module_is_used_is_no_other_module(tmp_path: Path) -> None:
    found = []
    for line in ("veth 16384 0 - Live 0xc0", "veth 16384 3 nfs, Live 0xc0", "veth 16384 0 - Live 0xd0"):
        (tmp_path / "modules").write_text(line + "\n")
        found.append(loaded_modules(str(tmp_path)))
    assert found[0] == found[1] != found[2]
