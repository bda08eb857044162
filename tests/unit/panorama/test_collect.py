"""The scan of a host made of files: figures, order, limits, gaps, and a bound on time."""

from __future__ import annotations

import json
import os
import time

import pytest

from osremed.core.errors import BadInput, ExitCode
from osremed.core.reading import Missing, Reason, Value
from osremed.panorama import collect as collect_module
from osremed.panorama import verbs
from osremed.panorama.collect import Sources, collect_panorama
from osremed.panorama.document import as_document
from osremed.panorama.render import render

KIB, PAGE = 1024, os.sysconf("SC_PAGE_SIZE")


def scan(proc, **limits):
    return collect_panorama(proc_root=proc.root, **limits)


def gaps_of(panorama, layer):
    return [gap for gap in panorama.gaps if gap.layer == layer]


@pytest.fixture
def on_disk(tmp_path):
    """A file of 1 MiB whose pages are cached."""

    def make(name: str, size: int = 1 << 20) -> str:
        path = tmp_path / name
        path.write_bytes(b"x" * size)
        return str(path)

    return make


def test_the_balance_of_the_host_closes_with_the_per_cpu_lists_in_it(proc):
    panorama = scan(proc)
    document = as_document(panorama)
    assert document["total_bytes"] == 1_000_000 * KIB
    assert document["available_bytes"] == 700_000 * KIB + 500 * PAGE
    known = [line["bytes"] for line in document["balance"]["lines"] if isinstance(line["bytes"], int)]
    assert sum(known) == document["total_bytes"]
    assert document["swap"] == {"total_bytes": 50_000 * KIB, "used_bytes": 30_000 * KIB}


def test_a_field_this_kernel_lacks_is_a_gap_in_the_document_and_not_zero(proc):
    proc.meminfo(Percpu=None)
    document = as_document(scan(proc))
    line = next(line for line in document["balance"]["lines"] if line["name"] == "per-CPU data")
    assert line["bytes"]["missing"] == "unsupported"
    assert line["share"]["missing"] == "unsupported"
    assert any("Percpu" in gap["detail"] for gap in document["gaps"])


def test_without_the_per_cpu_lists_available_is_what_the_kernel_says(proc):
    os.unlink(os.path.join(proc.root, "zoneinfo"))
    panorama = scan(proc)
    assert panorama.available_bytes == Value(700_000 * KIB)
    assert isinstance(panorama.drift_bytes, Missing)
    assert any("zoneinfo" in gap.missing.source for gap in gaps_of(panorama, "balance"))


def test_processes_come_by_heap_with_swap_counted(proc):
    proc.process(10, name="small", anon_kb=100)
    proc.process(11, name="swapped", anon_kb=100, swap_kb=5000)
    proc.process(12, name="large", anon_kb=3000)
    panorama = scan(proc)
    assert [row.name for row in panorama.processes] == ["swapped", "large", "small"]
    first = panorama.processes[0]
    assert (first.heap_bytes, first.swap_bytes) == (5100 * KIB, 5000 * KIB)
    assert first.start_time_ticks == 77
    assert first.cmdline == Value("/usr/bin/swapped --flag")
    assert first.oom_score_adj == Value(-5)
    assert first.cgroup == Value("/apps")


def test_row_limits_cut_the_tables_and_not_the_totals(proc, on_disk):
    for pid in range(10, 15):
        proc.process(pid, anon_kb=pid)
        proc.opens(pid, 3, on_disk(f"file{pid}"))
    panorama = scan(proc, processes=2, files=3)
    assert [row.pid for row in panorama.processes] == [14, 13]
    assert len(panorama.files) == 3
    assert panorama.totals.processes == 5
    assert panorama.totals.heap_bytes == Value(sum(range(10, 15)) * KIB)
    assert panorama.totals.files == 5
    assert panorama.totals.cached_bytes == 5 << 20


def test_kernel_threads_and_zombies_are_no_rows_and_no_gaps(proc):
    proc.process(2, name="kthreadd", anon_kb=None)
    proc.process(10)
    panorama = scan(proc)
    assert [row.pid for row in panorama.processes] == [10]
    assert gaps_of(panorama, "processes") == []


def test_a_process_that_ended_meanwhile_is_neither_row_nor_gap(proc):
    proc.process(10)
    proc.process(11)
    os.unlink(os.path.join(proc.root, "11", "status"))
    panorama = scan(proc)
    assert [row.pid for row in panorama.processes] == [10]
    assert gaps_of(panorama, "processes") == []


def test_a_damaged_status_is_a_gap(proc):
    proc.process(10)
    with open(os.path.join(proc.root, "10", "status"), "w") as file:
        file.write("Uid:\t0\nRssAnon:\tmany kB\nVmSwap:\t0 kB\n")
    (gap,) = gaps_of(scan(proc), "processes")
    assert gap.missing.reason is Reason.MALFORMED


def test_alike_gaps_are_one_line_with_a_count(proc):
    for pid in range(10, 20):
        proc.process(pid)
        with open(os.path.join(proc.root, str(pid), "cmdline"), "wb") as file:
            file.write(b"x" * (2 << 20))
    (gap,) = gaps_of(scan(proc), "command lines")
    assert gap.count == 10


def test_a_file_open_in_two_processes_is_counted_once_with_both_named(proc, on_disk):
    path = on_disk("shared")
    proc.process(10)
    proc.process(11)
    for pid, fd in ((10, 3), (10, 4), (11, 3)):
        proc.opens(pid, fd, path)
    panorama = scan(proc)
    (row,) = panorama.files
    assert (row.path, row.open_by, row.cached_bytes) == (path, (10, 11), 1 << 20)
    assert panorama.totals.cached_bytes == 1 << 20


def test_files_come_by_cached_bytes_and_uncached_ones_are_left_out(proc, on_disk, tmp_path):
    proc.process(10)
    (tmp_path / "empty").write_bytes(b"")
    for fd, path in enumerate((on_disk("a", 4096), on_disk("b", 1 << 20), str(tmp_path / "empty"))):
        proc.opens(10, fd, path)
    panorama = scan(proc)
    assert [os.path.basename(row.path) for row in panorama.files] == ["b", "a"]
    assert panorama.totals.files == 3


def test_fifos_sockets_and_directories_are_passed_over_without_waiting(proc, tmp_path):
    proc.process(10)
    os.mkfifo(tmp_path / "fifo")
    proc.opens(10, 0, str(tmp_path / "fifo"))
    proc.opens(10, 1, str(tmp_path))
    proc.opens(10, 2, "socket:[4711]")
    proc.opens(10, 3, "/dev/zero")
    panorama = scan(proc, timeout_s=5.0)
    assert panorama.files == ()
    assert gaps_of(panorama, "files") == []


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "cifs", "9p"])
def test_a_file_on_a_mount_that_can_hang_is_named_and_not_touched(proc, on_disk, kind):
    proc.process(10)
    proc.mounts(10, proc.mount_line(5, "0:44", kind))
    proc.opens(10, 3, on_disk("remote"), mount_id=5)
    panorama = scan(proc)
    assert panorama.files == ()
    (gap,) = gaps_of(panorama, "files")
    assert kind in gap.missing.detail
    assert "remote" in gap.missing.source


def test_files_of_pseudo_file_systems_are_passed_over(proc, on_disk):
    proc.process(10)
    proc.mounts(10, proc.mount_line(5, "0:21", "sysfs"))
    proc.opens(10, 3, on_disk("attribute"), mount_id=5)
    panorama = scan(proc)
    assert (panorama.files, gaps_of(panorama, "files")) == ((), [])


def test_a_file_on_a_mount_nobody_shows_is_a_gap(proc, on_disk):
    proc.process(10)
    proc.opens(10, 3, on_disk("detached"), mount_id=99)
    panorama = scan(proc)
    assert panorama.files == ()
    assert len(gaps_of(panorama, "files")) == 1


def test_a_process_that_never_gives_its_command_line_costs_that_field_and_nothing_else(proc, on_disk):
    proc.process(10, anon_kb=9000)
    proc.process(11)
    proc.opens(11, 3, on_disk("data"))
    fifo = proc.replace_by_fifo("10/cmdline")
    panorama = scan(proc, timeout_s=20)  # without the bound this call would never come back
    try:
        assert [row.pid for row in panorama.processes] == [10, 11]
        assert isinstance(panorama.processes[0].cmdline, Missing)
        assert panorama.files[0].path.endswith("data")
        (gap,) = gaps_of(panorama, "command lines")
        assert gap.missing.reason is Reason.TIMED_OUT
        assert gap.missing.source == fifo
    finally:
        os.close(os.open(fifo, os.O_WRONLY))  # lets the thread that was left behind end


def test_maps_that_never_answer_leave_the_files_found_by_descriptors(proc, on_disk, monkeypatch):
    proc.process(10)
    proc.opens(10, 3, on_disk("data"))
    fifo = proc.replace_by_fifo("10/maps")
    monkeypatch.setitem(collect_module._SHARES, "files", 0.1)
    panorama = scan(proc, timeout_s=20)
    try:
        assert [os.path.basename(row.path) for row in panorama.files] == ["data"]
        assert any(gap.missing.reason is Reason.TIMED_OUT for gap in gaps_of(panorama, "files"))
        assert {layer.name: layer.finished for layer in panorama.layers}["files"] is False
    finally:
        os.close(os.open(fifo, os.O_WRONLY))


def test_running_out_of_time_keeps_what_was_read_and_makes_the_total_unknown(proc, monkeypatch):
    for pid in range(10, 40):
        proc.process(pid)
    monkeypatch.setitem(collect_module._SHARES, "processes", 0.0)
    panorama = scan(proc)
    assert isinstance(panorama.totals.heap_bytes, Missing)
    assert as_document(panorama)["totals"]["heap_bytes"]["missing"] == "timed_out"
    (gap,) = gaps_of(panorama, "processes")
    assert gap.missing.reason is Reason.TIMED_OUT


def test_an_error_of_our_own_is_not_hidden_as_a_gap(proc, monkeypatch):
    def broken(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr(collect_module, "process_table", broken)
    with pytest.raises(ZeroDivisionError):
        scan(proc)


def test_coverage_says_how_much_of_the_page_cache_has_a_name(proc, on_disk):
    proc.process(10)
    proc.opens(10, 3, on_disk("data", 8 << 20))
    coverage = as_document(scan(proc))["coverage"]
    assert coverage["open_and_mapped_bytes"] == 8 << 20
    assert coverage["page_cache_bytes"] == 200_000 * KIB
    assert coverage["ratio"] == round((8 << 20) / (200_000 * KIB), 4)
    assert "8.0 MiB of 195.3 MiB" in coverage["statement"]


def test_coverage_is_a_lower_bound_when_a_file_could_not_be_read(proc, on_disk):
    proc.process(10)
    proc.opens(10, 3, on_disk("data", 8 << 20))
    proc.opens(10, 4, on_disk("detached"), mount_id=99)
    assert "at least 8.0 MiB of" in as_document(scan(proc))["coverage"]["statement"]


def test_without_meminfo_processes_are_still_told_and_the_balance_is_a_gap(proc):
    os.unlink(os.path.join(proc.root, "meminfo"))
    proc.process(10)
    document = as_document(scan(proc))
    assert document["balance"]["missing"] == "unsupported"
    assert document["processes"][0]["pid"] == 10


def test_the_document_is_json_with_the_fields_runbooks_use(proc, on_disk):
    proc.process(10)
    proc.opens(10, 3, on_disk("data"))
    document = json.loads(json.dumps(as_document(scan(proc)), allow_nan=False))
    assert document["files"][0]["cached_bytes"] > 0.0 * document["total_bytes"]
    assert set(document["durations_s"]) >= {"balance", "processes", "command lines", "shared pages", "files"}
    for key in ("containers", "dying_groups", "heaps", "findings"):
        assert isinstance(document[key], list)
    assert document["balance"]["residual_bytes"] == document["residual_bytes"]
    assert {"scope", "balance", "coverage", "gaps", "totals"} <= set(document)
    assert document["scope"] == "node"


def test_the_terminal_table_holds_nothing_that_a_terminal_acts_on(proc, on_disk):
    proc.process(10, name="evil\x1b[31m")
    with open(os.path.join(proc.root, "10", "cmdline"), "wb") as file:
        file.write("a\x1b]0;title\x07\nb\u202e\0".encode())
    text = render(scan(proc))
    assert not [character for character in text if character != "\n" and not character.isprintable()]
    assert "\\x1b[31m" in text


def test_the_table_prints_gaps_and_never_zero_for_them(proc):
    proc.meminfo(Percpu=None, MemAvailable=None)
    text = render(scan(proc))
    assert "available ?" in text
    assert "not known" in text
    assert "this kernel has no Percpu" in text


@pytest.mark.parametrize("limits", [{"files": -1}, {"processes": 10**9}, {"timeout_s": 0}, {"timeout_s": float("nan")}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(BadInput) as caught:
        verbs.panorama(**limits)
    assert caught.value.hint


def test_the_verb_answers_for_this_host():
    answer = verbs.panorama(files=1, processes=1)
    assert answer.exit_code == ExitCode.OK
    assert answer.document["processes"]
    assert "Balance" in answer.text


def test_growth_is_measured_between_the_looks_and_not_over_the_time_that_heaps_take(proc):
    proc.process(10)
    heaps_s = 1.0
    slow = Sources(heaps=lambda progress, rows: time.sleep(heaps_s) or [])
    found = collect_panorama(proc_root=proc.root, growth_s=0.2, sources=slow)
    assert 0.2 <= found.growth.seconds <= found.cost.wall_s - heaps_s
