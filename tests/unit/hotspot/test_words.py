"""Small parsers and texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.reading import Value
from osremed.hotspot.containers import container_of
from osremed.hotspot.hostseconds import HostSeconds, parse_vmstat
from osremed.hotspot.moments import parse_moment
from osremed.hotspot.render import heat_map, heat_rows, render_profile
from osremed.hotspot.syscalls import syscall_name
from osremed.sensors import kallsyms, perfmap
from osremed.sensors.pyframes import LAYOUTS, line_of
from tests.unit.hotspot.made import START_NS, frame, profile, sample

NOW_NS = round(datetime(2026, 11, 22, 14, 3, 30, tzinfo=timezone.utc).timestamp()) * 10**9
ID = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(
    ("text", "back_s"),
    [("14:03:07", 23), ("14:03:07.5", 22.5), ("14:03", 30), ("15:00:00", 86400 - 3390), ("90s ago", 90), ("now", 0),
     ("2026-11-22T14:03:07Z", 23), ("2026-11-22T15:03:07+01:00", 23), ("1795356187", 23)],
)  # fmt: skip
def test_moments(text: str, back_s: float) -> None:
    assert parse_moment(text, NOW_NS) == NOW_NS - round(back_s * 1e9)


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_bad_input(text: str) -> None:
    try:
        assert isinstance(parse_moment(text, NOW_NS), int)
    except BadInput:
        return


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID[:12]),
        (f"4:memory:/docker/{ID}\n1:cpu:/\n", ID[:12]),
        (f"0::/kubepods/besteffort/pod12345678-1234-1234-1234-123456789abc/{ID}\n",
         f"pod 12345678-1234-1234-1234-123456789abc {ID[:12]}"),
        (f"0::/kubepods.slice/kubepods-pod12345678_1234_1234_1234_123456789abc.slice/cri-containerd-{ID}.scope\n",
         f"pod 12345678-1234-1234-1234-123456789abc {ID[:12]}"),
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/\n", ""),
        ("", ""),
        ("garbage", ""),
    ],
)  # fmt: skip
def test_containers(cgroup: str, name: str) -> None:
    assert container_of(cgroup) == name


def test_system_calls_have_names() -> None:
    assert syscall_name(0x20000000 | 4) == "32-bit syscall 4"
    assert [syscall_name(number) for number in (-1, 0, 202, 257, 99999)] == ["", "read", "futex", "openat",
                                                                            "syscall 99999"]  # fmt: skip


VERSIONS = Path.home() / ".pyenv/versions"
PYTHONS = [sys.executable, *(str(each) for a, b in LAYOUTS for each in VERSIONS.glob(f"{a}.{b}.*/bin/python"))]
TELL = """
import dis, json, sys
def target(n=3):
    total = 0
    for each in range(n):
        total += each

    try:
        return (total +
                n)
    finally:
        del each
code, lines, line = target.__code__, {}, 0
starts = dict(dis.findlinestarts(code))
for at in range(0, len(code.co_code), 2):
    line = starts.get(at, line)
    lines[at // 2] = line
table = code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab
print(json.dumps([sys.version_info[:2], table.hex(), code.co_firstlineno, lines]))
"""


@pytest.mark.parametrize("python", PYTHONS)
def test_lines_of_a_function_are_those_its_release_says(python: str) -> None:
    done = subprocess.run([python, "-c", TELL], capture_output=True, text=True, check=False)
    version, table, first_line, expected = json.loads(done.stdout or '[[0, 0], "", 0, {}]')
    if tuple(version) not in LAYOUTS:
        pytest.skip(f"{python}: its frames are not read")
    found = {at: line_of(tuple(version), bytes.fromhex(table), first_line, int(at)) for at in expected}
    assert {at: line or expected[at] for at, line in found.items()} == expected
    assert sum(map(bool, found.values())) >= 0.7 * len(expected)


@given(st.sampled_from(sorted(LAYOUTS)), st.binary(max_size=200), st.lists(st.integers(-5, 500), max_size=20))
def test_any_table_gives_a_line_for_each_index(version: tuple[int, int], table: bytes, indices: list[int]) -> None:
    assert all(line_of(version, table, 10, each) >= 0 for each in indices)


@given(st.binary(max_size=200))
def test_any_perf_map_and_kallsyms_is_read_or_refused(data: bytes) -> None:
    for parse in (perfmap.parse, kallsyms.parse):
        try:
            parse(data)
        except ValueError:
            continue


def test_a_perf_map_takes_the_latest_code_at_an_address() -> None:
    found = perfmap.parse(b"1000 10 Old::run\n1000 20 New::run\n2000 8 with spaces here\nbroken li")
    assert [found.name(at) for at in (0xFFF, 0x1000, 0x101F, 0x1020, 0x2007)] == [
        "", "New::run", "New::run", "", "with spaces here"
    ]  # fmt: skip


def test_a_perf_map_that_is_a_link_or_a_pipe_is_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "7" / "root" / "tmp"
    inside.mkdir(parents=True)
    os.symlink("/etc/passwd", inside / "perf-1.map")
    os.mkfifo(inside / "perf-2.map")
    assert [type(perfmap.read(7, number, str(tmp_path))).__name__ for number in (1, 2, 3)] == ["Missing"] * 3


def test_an_address_far_behind_the_last_function_of_a_module_has_no_name() -> None:
    """A module that was loaded later lies there."""
    found = kallsyms.parse(
        b"ffffffff81000000 T _stext\nffffffff81900000 T _last\nffffffffc0000000 t veth_init [veth]\n"
        b"ffffffffc0001000 t veth_exit [veth]\nffffffffc0002000 t nfs_init [nfs]\n"
    )
    asked = (0x81800000, 0x81900010, 0x81A00000, 0xC0001010, 0xC0002010, 0xC0A12345)
    names = ["_stext", "_last", "", "veth_exit", "nfs_init", ""]
    assert [found.name(0xFFFFFFFF00000000 + at) for at in asked] == names
    own = kallsyms.parse(b"1000 T _stext\n2000 t veth_init [veth]\n", modules=False)
    assert [own.name(at) for at in (0x1010, 0x3000)] == ["_stext", ""]


def test_hidden_kernel_addresses_are_no_symbols() -> None:
    with pytest.raises(ValueError, match="kptr_restrict"):
        kallsyms.parse(b"0000000000000000 T do_read\n")


def test_counters_of_the_host() -> None:
    assert parse_vmstat(b"pgmajfault 7\nallocstall_normal 2\nallocstall_movable 3\nx 1\n") == {
        "major_faults": 7, "reclaim_stalls": 5
    }  # fmt: skip


def test_throttled_seconds_are_of_the_groups_that_were_there_before() -> None:
    """A group that is seen for the first time was throttled for hours: not in this second."""
    host, delay = HostSeconds(), Value(0.0)
    assert "missing" in host.second(1, delay, Value({"/a": 100.0}))["throttled_s"]
    assert host.second(2, delay, Value({"/a": 100.5, "/b": 900.0}))["throttled_s"] == 0.5
    row = host.second(3, delay, Value({"/a": 100.5, "/b": 900.25}))
    assert (row["throttled_s"], row["throttled"]) == (0.25, {"/b": 0.25})


def test_the_heat_map_has_a_column_for_20_ms() -> None:
    made = profile(*[sample(0.04, frame("f"))] * 3, sample(1.98, frame("f")), length_s=2)
    rows = heat_rows(made.samples, made.start_ns, made.end_ns)
    assert [second for second, _ in rows] == [START_NS // 10**9, START_NS // 10**9 + 1]
    assert (rows[0][1][2], rows[1][1][49], sum(rows[0][1]) + sum(rows[1][1])) == (3, 1, 4)
    assert heat_map(made).splitlines()[1].endswith("|  @" + " " * 47 + "|")


def test_the_text_has_no_byte_a_terminal_would_act_on() -> None:
    evil = "\x1b[31m\u202eexe"
    text = render_profile(profile(sample(1, frame(evil), process=evil, thread=evil, container=evil), gaps=(evil,)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "gap: " in text
