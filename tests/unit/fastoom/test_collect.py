"""Readings -> signals and processes, from captured trees; and aiming at real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.fastoom import collect, kill
from osremed.fastoom.model import Candidate, Scope
from osremed.sensors import cgroup, procfs
from tests.unit.fastoom.conftest import MIB, process

NODE = Scope()


def tree(tmp_path: Path, meminfo: str, zoneinfo: str = "") -> collect.Source:
    (tmp_path / "meminfo").write_text(meminfo)
    if zoneinfo:
        (tmp_path / "zoneinfo").write_text(zoneinfo)
    return collect.Source(str(tmp_path), Missing(Reason.UNSUPPORTED, "no hierarchy"))


def meminfo(**kb: int) -> str:
    figures = {"MemTotal": 8000, "MemAvailable": 1000, "AnonPages": 3000, "SwapTotal": 0, "SwapFree": 0, **kb}
    return "".join(f"{key}: {value} kB\n" for key, value in figures.items())


PAGESETS = "  pagesets\n    cpu: 0\n              count:    100\n"


def test_pages_parked_in_per_cpu_lists_are_available(tmp_path: Path) -> None:
    found = collect.signals(NODE, tree(tmp_path, meminfo(), PAGESETS)).value
    assert found.available_bytes == 1000 * 1024 + 100 * procfs.PAGE_BYTES
    assert found.limit_bytes == found.available_bytes + 3000 * 1024
    assert found.missing == ()


def test_without_zoneinfo_the_figure_stands_and_the_gap_is_named(tmp_path: Path) -> None:
    found = collect.signals(NODE, tree(tmp_path, meminfo())).value
    assert found.available_bytes == 1000 * 1024
    assert "per-CPU free pages" in found.missing[0]


def test_tmpfs_cannot_put_a_percentage_out_of_reach(tmp_path: Path) -> None:
    found = collect.signals(NODE, tree(tmp_path, meminfo(MemTotal=100_000, MemAvailable=1000, AnonPages=9000))).value
    assert found.available_ratio == pytest.approx(0.1)


@pytest.mark.parametrize("key", ["MemAvailable", "AnonPages"])
def test_a_host_that_does_not_tell_is_missing_not_empty(tmp_path: Path, key: str) -> None:
    text = "".join(line for line in meminfo().splitlines(keepends=True) if not line.startswith(key))
    assert collect.signals(NODE, tree(tmp_path, text)).reason is Reason.UNSUPPORTED


def test_a_part_larger_than_the_whole_is_malformed(tmp_path: Path) -> None:
    assert collect.signals(NODE, tree(tmp_path, meminfo(MemAvailable=9000))).reason is Reason.MALFORMED


@given(
    st.dictionaries(
        st.sampled_from(["MemTotal", "MemAvailable", "AnonPages", "SwapTotal", "SwapFree"]), st.integers(0, 1 << 53)
    )
)
def test_absurd_figures_never_crash_and_never_give_a_negative_share(tmp_path_factory, figures) -> None:
    found = collect.signals(NODE, tree(tmp_path_factory.mktemp("p"), meminfo(**figures), PAGESETS))
    if isinstance(found, Value):
        assert 0 <= found.value.available_ratio <= 1
        assert 0 <= found.value.headroom_ratio <= 1


def test_a_group_that_may_not_swap_has_memory_alone(tmp_path: Path) -> None:
    source = tree(tmp_path, meminfo(SwapTotal=500, SwapFree=500))
    directory = tmp_path / "group/app"
    directory.mkdir(parents=True)
    (directory / "memory.stat").write_text("active_file 0\ninactive_file 0\n")
    (directory / "memory.current").write_text("500\n")
    (directory / "memory.max").write_text("1000\n")
    source = collect.Source(source.proc, Value(cgroup.Hierarchy(2, str(tmp_path / "group"))))
    assert collect.signals(Scope("/app"), source).value.swap_total_bytes == 500 * 1024
    (directory / "memory.swap.max").write_text("0\n")
    (directory / "memory.swap.current").write_text("0\n")
    assert collect.signals(Scope("/app"), source).value.swap_total_bytes == 0
    assert collect.signals(Scope("/none"), source).reason is Reason.GONE


def write_process(root: Path, pid: int, *, anon_kb: int, swap_kb: int = 0, comm: str = "x", shared_kb: int = 0) -> None:
    directory = root / str(pid)
    directory.mkdir()
    pages = lambda kb: kb * 1024 // procfs.PAGE_BYTES  # noqa: E731
    (directory / "stat").write_text(f"{pid} ({comm}) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 {pid} 0 0\n")
    (directory / "statm").write_text(f"99999 {pages(anon_kb + shared_kb)} {pages(shared_kb)} 0 0 0 0\n")
    (directory / "status").write_text(f"Name:\tx\nUid:\t0\t0\t0\t0\nRssAnon:\t{anon_kb} kB\nVmSwap:\t{swap_kb} kB\n")
    (directory / "oom_score_adj").write_text("5\n")
    (directory / "cmdline").write_bytes(b"prog\0arg\0")


def test_details_are_read_only_of_those_at_or_above_the_floor(tmp_path: Path) -> None:
    source = tree(tmp_path, meminfo())
    write_process(tmp_path, 7, anon_kb=5000, shared_kb=9000)
    write_process(tmp_path, 8, anon_kb=500, shared_kb=90_000)
    (tmp_path / "8/status").unlink()
    seen = collect.scan([7, 8, 9], MIB, source)
    assert [(one.pid, one.heap_bytes, one.oom_score_adj) for one in seen.processes] == [(7, 5000 * 1024, 5)]
    assert seen.small_bytes == 500 * 1024
    assert seen.missing == ()


def test_with_swap_in_use_a_swapped_out_process_is_not_overlooked(tmp_path: Path) -> None:
    source = tree(tmp_path, meminfo(SwapTotal=9000, SwapFree=1000))
    write_process(tmp_path, 7, anon_kb=4, swap_kb=8000)
    assert [one.heap_bytes for one in collect.scan([7], MIB, source).processes] == [8004 * 1024]


def test_a_process_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = tree(tmp_path, meminfo())
    write_process(tmp_path, 7, anon_kb=5000)
    (tmp_path / "7/status").write_text("garbage\n")
    seen = collect.scan([7], MIB, source)
    assert seen.processes == ()
    assert "process 7: malformed" in seen.missing[0]


def test_own_chain_reaches_the_first_ancestor() -> None:
    source = collect.open_source()
    chain = collect.own_chain(os.getpid(), source)
    assert {os.getpid(), os.getppid()} <= chain


@pytest.fixture
def child():
    running = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    yield running
    running.kill()
    running.wait()


def test_aiming_spares_a_reused_pid_and_signals_only_who_was_seen(child) -> None:
    start = procfs.stat(child.pid).value.start_time_ticks
    seen, reused = process(child.pid, start=start), process(child.pid, start=start - 1)
    shots, spared = kill.aim([Candidate(reused, 2, ""), Candidate(seen, 2, "")], {child.pid})
    assert [shot.identity for shot in shots] == [(child.pid, start)]
    assert "belongs to another process" in spared[0].why
    kill.close(shots)
    _, spared = kill.aim([Candidate(seen, 2, "")], set())
    assert spared[0].why == "left the scope"
    assert child.poll() is None
