"""diskstats and /proc/PID/io, of kernels with and without flush figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.sensors.disks import parse_diskstats, parse_process_io

NEW = b" 254 0 vda 10 0 80 2000 30 5 640 9000 0 4000 11000 0 0 0 0 7 1500\n"
OLD = b"   8 0 sda 10 0 80 2000 30 5 640 9000 0 4000 11000\n"
IDLE = b"   8 16 sdb 0 0 0 0 0 0 0 0 0 0 0\n   7 0 loop0 5 0 0 0 0 0 0 0 0 0 0\n"


def test_times_are_seconds_and_sectors_bytes() -> None:
    disk = parse_diskstats(NEW)["vda"]
    assert (disk.reads, disk.read_s, disk.writes, disk.write_s) == (10, 2.0, 30, 9.0)
    assert (disk.written_bytes, disk.busy_s, disk.flushes, disk.flush_s) == (640 * 512, 4.0, 7, 1.5)


def test_a_kernel_without_flush_figures_tells_none() -> None:
    assert parse_diskstats(OLD)["sda"].flushes is None


def test_idle_devices_and_those_that_lie_above_others_are_left_out() -> None:
    assert sorted(parse_diskstats(NEW + OLD + IDLE)) == ["sda", "vda"]


def test_what_a_process_read_and_wrote() -> None:
    told = parse_process_io(b"rchar: 1\nwchar: 2\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n")
    assert (told.read_bytes, told.write_bytes) == (4096, 8192)
    with pytest.raises(ValueError, match="write_bytes"):
        parse_process_io(b"read_bytes: 4096\n")


@given(st.binary(max_size=120))
def test_any_bytes_are_counters_or_a_value_error(data: bytes) -> None:
    for parse in (parse_diskstats, parse_process_io):
        try:
            parse(data)
        except ValueError:
            continue
