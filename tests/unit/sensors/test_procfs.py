"""/proc parsers: exact on what the kernel writes, ValueError on everything else, whatever a process calls itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import procfs

ZONEINFO = b"""Node 0, zone   Normal
  pages free     6045000
        count    77
  pagesets
    cpu: 0
              count:    4642
              high:     5527
    cpu: 1
              count:    4483
  node_unreclaimable:  0
Node 0, zone  Device
  pages free     0
"""
PARSERS = [
    procfs.parse_meminfo,
    procfs.parse_zoneinfo_pcp_pages,
    procfs.parse_stat,
    procfs.parse_statm,
    procfs.parse_status,
    procfs.parse_cmdline,
    procfs.parse_oom_score_adj,
    procfs.parse_cgroup,
    procfs.parse_boot_id,
]
SAMPLES = [
    b"MemTotal: 100 kB\nHugePages_Total: 3\n",
    ZONEINFO,
    b"7 (a) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 55 0 0\n",
    b"10 5 2 1 0 3 0\n",
    b"Name:\tx\nUid:\t0\t0\t0\t0\nRssAnon:\t     12 kB\nVmSwap:\t  4 kB\n",
    b"python3\0-c\0x\0",
    b"-1000\n",
    b"4:memory:/a:b\n0::/\n",
    b"0443ecad-2418-4f95-ace1-9e260cd81c22\n",
]


def stat_line(comm: bytes, start: int = 55, flags: int = 4194560) -> bytes:
    return b"7 (%b) S 1 7 7 0 -1 %d 0 0 0 0 0 0 0 0 20 0 3 0 %d 0 0\n" % (comm, flags, start)


@given(st.binary(max_size=64))
def test_no_name_a_process_gives_itself_changes_its_other_fields(comm: bytes) -> None:
    stat = procfs.parse_stat(stat_line(comm))
    assert (stat.pid, stat.ppid, stat.num_threads, stat.start_time_ticks, stat.state) == (7, 1, 3, 55, "S")
    assert not stat.kernel_thread
    stat.comm.encode("utf-8")  # any encoder takes it


@pytest.mark.parametrize("comm", [b") S 1 1 1", b"a\nb", b"((()))", b"", b"\xff\xfe", b"x) R 2 2 2 0 -1 69238848"])
def test_hostile_names_by_example(comm: bytes) -> None:
    assert procfs.parse_stat(stat_line(comm, start=99)).start_time_ticks == 99


@given(st.sampled_from(PARSERS), st.binary(max_size=300))
def test_parsers_raise_nothing_but_value_error_on_noise(parse: object, data: bytes) -> None:
    _parse(parse, data)


@given(st.sampled_from(list(zip(PARSERS, SAMPLES))), st.integers(0, 300), st.binary(max_size=12), st.integers(0, 300))
def test_parsers_raise_nothing_but_value_error_on_damage(pair, cut: int, noise: bytes, at: int) -> None:
    parse, sample = pair
    _parse(parse, sample[:cut])
    _parse(parse, sample[:at] + noise + sample[at:])
    _parse(parse, sample.replace(b"1", b"9" * 400))


def _parse(parse, data: bytes) -> None:
    try:
        parse(data)
    except ValueError as error:
        assert not isinstance(error, UnicodeError)


def test_per_cpu_pages_are_summed_and_nothing_else() -> None:
    assert procfs.parse_zoneinfo_pcp_pages(ZONEINFO) == 4642 + 4483


def test_a_zoneinfo_without_pagesets_is_malformed_not_zero() -> None:
    with pytest.raises(ValueError, match="pagesets"):
        procfs.parse_zoneinfo_pcp_pages(b"Node 0, zone Normal\n  pages free 5\n")


def test_kernel_threads_are_known_by_their_flag() -> None:
    assert procfs.parse_stat(stat_line(b"kthreadd", flags=0x00208040)).kernel_thread


def test_a_task_without_an_address_space_has_no_sizes_rather_than_zero() -> None:
    status = procfs.parse_status(b"Name:\tkthreadd\nUid:\t0\t0\t0\t0\nThreads:\t1\n")
    assert status.rss_anon_bytes is None
    assert status.swap_bytes is None


def test_a_name_cannot_forge_a_size() -> None:
    data = b"Name:\tx\nRssAnon:\t 1 kB\nUid:\t5\t5\t5\t5\nRssAnon:\t 90 kB\nVmSwap:\t 0 kB\n"
    assert procfs.parse_status(data).rss_anon_bytes == 90 * 1024


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (procfs.parse_statm, b"10 5\n"),
        (procfs.parse_statm, b"10 -5 1\n"),
        (procfs.parse_stat, b"7 (a) S 1 7\n"),
        (procfs.parse_meminfo, b"MemFree: 1 kB\n"),
        (procfs.parse_meminfo, b"MemTotal: 99999999999999999999999 kB\n"),
        (procfs.parse_oom_score_adj, b"1001\n"),
        (procfs.parse_oom_score_adj, b"\n"),
    ],
)
def test_truncated_and_absurd_input_is_an_error(parse, data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(data)


def test_argv_keeps_empty_arguments_and_takes_a_rewritten_title() -> None:
    assert procfs.parse_cmdline(b"sh\0-c\0\0") == ("sh", "-c", "")
    assert procfs.parse_cmdline(b"postgres: writer") == ("postgres: writer",)
    assert procfs.parse_cmdline(b"") == ()


def test_a_group_path_may_hold_colons() -> None:
    assert procfs.parse_cgroup(b"4:cpu,memory:/a:b\n0::/\n") == {"cpu": "/a:b", "memory": "/a:b", "": "/"}


def test_this_process_reads_as_itself() -> None:
    pid = os.getpid()
    stat, status, statm = procfs.stat(pid), procfs.status(pid), procfs.statm(pid)
    assert isinstance(stat, Value)
    assert (stat.value.pid, stat.value.ppid) == (pid, os.getppid())
    assert isinstance(status, Value)
    assert status.value.uid == os.getuid()
    assert isinstance(statm, Value)
    assert statm.value.private_bytes > 0
    assert isinstance(procfs.pids(), Value)
    assert pid in procfs.pids().value
    assert isinstance(procfs.boot_id(), Value)


def test_what_cannot_be_read_is_missing_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(b"garbage")
    root = str(tmp_path)
    assert procfs.stat(7, root).reason is Reason.MALFORMED
    assert procfs.stat(8, root).reason is Reason.GONE
    assert procfs.meminfo(root).reason is Reason.UNSUPPORTED
    assert isinstance(procfs.stat(2**30), Missing)


def test_a_command_line_over_the_limit_is_missing_not_cut(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"a" * (procfs._LIMIT_BYTES + 1))
    assert procfs.cmdline(7, str(tmp_path)).reason is Reason.MALFORMED


def test_the_zones_of_a_host_with_a_thousand_cpus_are_read_whole(tmp_path):
    cpus = "".join(
        f"    cpu: {cpu}\n              count:    1\n              high:     1518\n" for cpu in range(20_000)
    )
    (tmp_path / "zoneinfo").write_text(f"Node 0, zone   Normal\n  pagesets\n{cpus}")
    assert (tmp_path / "zoneinfo").stat().st_size > 1 << 20
    assert procfs.pcp_pages(str(tmp_path)) == Value(20_000)
