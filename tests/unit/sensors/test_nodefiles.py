"""The files a guard reads many times a second: right, or Missing, and never a crash."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.fastoom import stall
from osremed.sensors import nodefiles, procfs
from osremed.sensors.nodefiles import (
    NodeFiles,
    parse_arcstats,
    parse_memory,
    parse_oom_kills,
    parse_reclaim,
    parse_swaps,
)


def test_the_quick_parser_agrees_with_the_thorough_one_on_this_host() -> None:
    with open("/proc/meminfo", "rb") as file:
        data = file.read()
    whole, quick = procfs.parse_meminfo(data), parse_memory(data)
    lru = quick.pop("FileLru")
    assert lru == whole["Active(file)"] + whole["Inactive(file)"]
    assert quick == {key: whole[key] for key in quick}
    assert {"MemTotal", "MemAvailable", "AnonPages", "SwapTotal", "SwapFree"} <= set(quick)


@pytest.mark.parametrize(
    "data",
    [b"", b"MemFree: 1 kB\n", b"MemTotal: 1\n", b"MemTotal: -1 kB\n", b"MemTotal: 1 MB\n", b"MemTotal: 1 kB 2\n"],
)
def test_what_the_kernel_would_not_write_is_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_memory(data)


def test_a_key_is_the_whole_word_at_the_start_of_a_line() -> None:
    data = b"MemTotal: 9 kB\nXAnonPages: 1 kB\nFoo: AnonPages: 2 kB\nAnonPages: 3 kB\n"
    assert parse_memory(data)["AnonPages"] == 3 * 1024


@given(st.binary(max_size=300) | st.text("MemTotal: 0123456789kB\n").map(str.encode))
def test_noise_is_a_value_error_and_nothing_else(data: bytes) -> None:
    for parse in (parse_memory, parse_reclaim, parse_arcstats, parse_oom_kills):
        try:
            parse(data)
        except ValueError:
            continue
    parse_swaps(data)


def test_refaults_count_by_either_name() -> None:
    own = b"pgscan_kswapd 1\npgscan_direct 2\npgscan_anon 90\npgsteal_kswapd 1\npgsteal_direct 1\npgsteal_file 90\n"
    old = parse_reclaim(b"workingset_refault 7\n" + own)
    new = parse_reclaim(b"workingset_refault_anon 3\nworkingset_refault_file 4\n" + own)
    assert old == new == nodefiles.Reclaim(7, 3, 2)


def test_kills_by_the_kernel_are_counted_or_unknown() -> None:
    assert parse_oom_kills(b"drop_slab 1\noom_kill 12\nnuma_hit 3\n") == 12
    with pytest.raises(ValueError, match="no oom_kill"):
        parse_oom_kills(b"oom_kill_other 1\n")


def test_zfs_gives_back_what_is_above_its_floor() -> None:
    assert (
        parse_arcstats(
            b"hits 4 9\nc_min                           4    100\nsize                            4    350\n"
        )
        == 250
    )


def test_swap_is_zram_only_if_all_of_it_is() -> None:
    head = b"Filename Type Size Used Priority\n"
    assert parse_swaps(head + b"/dev/zram0 partition 1 0 5\n")
    assert not parse_swaps(head + b"/dev/zram0 partition 1 0 5\n/dev/vda2 partition 1 0 4\n")
    assert not parse_swaps(head)


def test_files_are_opened_once_and_read_afresh(tmp_path) -> None:
    (tmp_path / "meminfo").write_bytes(b"MemTotal: 1 kB\n")
    files = NodeFiles(str(tmp_path))
    assert files.memory() == Value({"MemTotal": 1024})
    with open(tmp_path / "meminfo", "r+b") as file:
        file.write(b"MemTotal: 2 kB\n")
    before = len(os.listdir("/proc/self/fd"))
    assert files.memory() == Value({"MemTotal": 2048})
    assert len(os.listdir("/proc/self/fd")) == before
    files.close()


def test_a_glance_says_what_a_look_says_or_that_it_does_not_know(tmp_path) -> None:
    (tmp_path / "meminfo").write_bytes(b"MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:      7 kB\nBuffers: 3 kB\n")
    files = NodeFiles(str(tmp_path))
    assert files.glance() is None, "nothing was looked at yet"
    assert files.memory().value["MemAvailable"] == files.glance() == 7 * 1024
    odd = NodeFiles(str(tmp_path))
    for text in (b"MemTotal: 5 kB\nMemFree: 1 kB\n", b"MemTotal: 5 kB\nMemAvailable: x kB\n", b"MemTotal: 5 kB\n"):
        (tmp_path / "meminfo").write_bytes(text)
        odd.memory()
        assert odd.glance() is None


def test_what_is_not_there_is_unsupported_and_not_zero(tmp_path) -> None:
    files = NodeFiles(str(tmp_path))
    for read in (files.memory, files.pressure, files.reclaim, files.pcp_pages, files.arc_reclaimable_bytes):
        assert read().reason is Reason.UNSUPPORTED


def sample(at_s: float, full_s: float | None, pages: int) -> Value[stall.Sample]:
    return Value(stall.Sample(round(at_s * 1e9), None if full_s is None else round(full_s * 1e6), pages))


def test_a_stall_is_the_share_of_the_last_second_and_nothing_before_there_was_one() -> None:
    window = stall.Window()
    window.add(sample(10.0, 1.0, 0))
    window.add(sample(10.3, 1.2, 10))
    assert isinstance(window.stall(1), Missing)
    window.add(sample(10.5, 1.25, 1000))
    found = window.stall(5)
    assert found.full_ratio == pytest.approx(0.5)
    assert found.refault_bytes_per_s == 2000 * procfs.PAGE_BYTES
    assert found.file_lru_bytes == 5


def test_what_lasts_is_told_once_there_were_ten_seconds() -> None:
    window = stall.Window()
    told = []
    for tenths in range(0, 160, 2):
        window.add(sample(tenths / 10, tenths / 20 if tenths > 100 else 0.0, 0))
        found = window.stall(1)
        told.append(None if isinstance(found, Missing) else found.lasting_ratio)
    assert told[:50] == [None] * 50
    assert told[50] == pytest.approx(0.0)
    assert told[51] == pytest.approx(0.51)


def test_while_tasks_wait_samples_come_twice_as_often() -> None:
    window = stall.Window()
    window.add(sample(1.0, 0.0, 0))
    assert not window.due(1_100_000_000)
    window.add(sample(1.2, 0.1, 0))
    assert window.due(1_300_000_000)


def test_samples_that_are_too_old_or_ran_backwards_say_nothing_bad() -> None:
    window = stall.Window()
    window.add(sample(1.0, 5.0, 500))
    window.add(sample(60.0, 90.0, 900))
    assert isinstance(window.stall(1), Missing), "a minute is not the last second"
    window.add(sample(61.0, 1.0, 1))
    assert window.stall(1) == stall.Stall(0.0, 0.0, 1)


def test_a_sample_that_cannot_be_read_is_missing_with_its_reason() -> None:
    window = stall.Window()
    window.add(Missing(Reason.DENIED, "pressure"))
    assert window.stall(1).reason is Reason.DENIED
    assert window.due(0)
