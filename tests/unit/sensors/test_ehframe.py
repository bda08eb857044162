"""Unwind rows against binutils, and against bytes nobody would write."""

from __future__ import annotations

import bisect
import re
import shutil
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Value
from osremed.sensors import ehframe, elf

PROGRAM = shutil.which("ls") or "/bin/ls"
_FUNCTION = re.compile(r"FDE .* pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_RULE = re.compile(r"([0-9a-f]{16}) (\S+)\s")
_BASE = {"rsp": ehframe.FROM_SP, "rbp": ehframe.FROM_BP}


def section(path: str) -> tuple[bytes, int]:
    with open(path, "rb") as stream:
        parsed = elf.read_elf(stream.fileno(), path)
        assert isinstance(parsed, Value)
        found = next(each for each in parsed.value.sections if each.name == ".eh_frame")
        stream.seek(found.offset)
        return stream.read(found.bytes), found.address


def told_by_binutils(path: str) -> list[tuple[int, int, int]]:
    """(address, base, offset) of each row whose base is a register."""
    text = subprocess.run(["readelf", "--debug-dump=frames-interp", path], check=True, capture_output=True, text=True,
                          env={"LC_ALL": "C"}).stdout  # fmt: skip
    rows, inside = [], False
    for line in text.splitlines():
        if " CIE " in line or " FDE " in line:
            inside = _FUNCTION.search(line) is not None
        match = _RULE.match(line) if inside else None
        if match is not None and match[2][:3] in _BASE:
            rows.append((int(match[1], 16), _BASE[match[2][:3]], int(match[2][3:])))
    return rows


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no binutils")
def test_rows_say_what_binutils_says() -> None:
    rows = ehframe.parse(*section(PROGRAM))
    addresses = [row.address for row in rows]
    truth = told_by_binutils(PROGRAM)
    assert len(truth) > 500
    for address, base, offset in truth:
        row = rows[bisect.bisect_right(addresses, address) - 1]
        assert (row.kind, row.offset) == (base, offset), hex(address)


def test_rows_ascend_and_none_is_said_twice() -> None:
    rows = ehframe.parse(*section(sys.executable))
    assert all(before.address < after.address for before, after in zip(rows, rows[1:]))


def parsed(data: bytes) -> None:
    """Rows in order, or an error that `read_rows` turns into a Missing."""
    try:
        rows = ehframe.parse(data, 0x1000)
    except (ValueError, struct.error):
        return
    assert all(before.address <= after.address for before, after in zip(rows, rows[1:]))


@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_an_error(data: bytes) -> None:
    parsed(data)


@given(st.data())
def test_a_damaged_section_is_rows_or_an_error(data: st.DataObject) -> None:
    good = bytearray(section(PROGRAM)[0][:600])
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    parsed(bytes(good[: data.draw(st.integers(0, len(good)))]))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_instructions_are_rows_or_an_error(common: bytes, own: bytes) -> None:
    """A well-formed common entry and a function of it, whose call frame instructions are anything."""
    cie_body = struct.pack("<IB3sBBBBB", 0, 1, b"zR\0", 1, 0x78, 16, 1, 0x1B) + common
    cie = struct.pack("<I", len(cie_body)) + cie_body
    fde_body = struct.pack("<IiIB", len(cie) + 4, 0, 64, 0) + own
    parsed(cie + struct.pack("<I", len(fde_body)) + fde_body)
