from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import elf
from osremed.sensors.address_space import Mapping, open_address_space


def parsed(data: bytes, names=("wanted",)):
    """(the file, its symbols) of these bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        found = elf.read_elf(file.fileno(), "test")
        if isinstance(found, Missing):
            return found, None
        return found, elf.find_symbols(file.fileno(), found.value, names)


def small_elf() -> bytes:
    """One loaded segment, a note with a build-id, .dynsym with `wanted` at 0x1234 and `used_only` undefined."""
    strings = b"\0used_only\0the_wanted\0\0"
    names = b"\0.dynsym\0.dynstr\0.shstrtab\0"
    note = struct.pack("<III", 4, 4, 3) + b"GNU\0" + b"\xde\xad\xbe\xef"
    symbols = bytes(24)
    symbols += struct.pack("<IBBHQQ", strings.index(b"used_only"), 0x12, 0, 0, 0, 0)
    symbols += struct.pack("<IBBHQQ", strings.index(b"wanted\0"), 0x12, 0, 1, 0x1234, 16)
    at = 64 + 2 * 56
    offsets = {}
    body = b""
    for name, part in (("note", note), ("sym", symbols), ("str", strings), ("names", names)):
        offsets[name] = (at + len(body), len(part))
        body += part + bytes(-len(part) % 8)
    table = bytes(64)
    for name, kind, part, link in ((1, 11, "sym", 2), (9, 3, "str", 0), (17, 3, "names", 0)):
        table += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, *offsets[part], link, 0, 8, 24)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0, at + len(body), at + len(body), 4096)
    segments += struct.pack("<IIQQQQQQ", 4, 4, offsets["note"][0], 0, 0, offsets["note"][1], 0, 4)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQ", 3, 62, 1, 0, 64, at + len(body))
    head += struct.pack("<IHHHHHH", 0, 64, 56, 2, 64, 4, 3)
    return head + segments + body + table


SMALL = small_elf()


def test_a_small_file_gives_segments_build_id_and_a_symbol_whose_name_is_the_tail_of_another():
    found, symbols = parsed(SMALL, ("wanted", "used_only", "absent"))
    assert isinstance(found, Value)
    assert found.value.build_id == Value("deadbeef")
    assert [one.name for one in found.value.sections] == ["", ".dynsym", ".dynstr", ".shstrtab"]
    assert symbols == Value({"wanted": elf.Symbol("wanted", 0x1234, 16)})


@pytest.mark.parametrize("chunk_bytes", [24, 48])
def test_a_name_that_lies_across_two_pieces_of_a_table_is_found(monkeypatch, chunk_bytes):
    monkeypatch.setattr(elf, "_CHUNK_BYTES", chunk_bytes)
    _, symbols = parsed(SMALL, ("wanted", "used_only", "absent"))
    assert symbols == Value({"wanted": elf.Symbol("wanted", 0x1234, 16)})


def dear(rows: list[tuple[int, int, int, int]], *, notes: int = 0, fill: tuple[int, bytes] = (0, b"")) -> int:
    """The most memory that reading a sparse file takes: sections of these kinds, offsets, sizes and links, the last one
    with their names; and headers of as many notes of 64 KiB."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQ", 3, 62, 1, 0, 64, 1 << 20)
    head += struct.pack("<IHHHHHH", 0, 64, 56, notes, 64, len(rows), max(0, len(rows) - 1))
    with tempfile.TemporaryFile() as file:
        file.write(head + struct.pack("<IIQQQQQQ", 4, 4, 2 << 20, 0, 0, 1 << 16, 0, 4) * notes)
        file.seek(1 << 20)
        for at, (kind, offset, size, link) in enumerate(rows):
            file.write(struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, offset, size, link, 0, 8, 24))
        file.seek(fill[0])
        file.write(fill[1])
        file.truncate(1 << 30)
        file.flush()
        tracemalloc.start()
        try:
            found = elf.read_elf(file.fileno(), "dear")
            if isinstance(found, Value):
                elf.find_symbols(file.fileno(), found.value, ("_PyRuntime", "Py_Version"))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


NAMES = (3, 4 << 20, 16, 0)
M = 1 << 20


@pytest.mark.parametrize("made", [
    pytest.param({"rows": [NAMES, (2, 8 * M, 240 * M, 2), (3, 500 * M, 250 * M, 0), NAMES]}, id="symbols"),
    pytest.param({"rows": [NAMES, (2, 8 * M, 96 * M, 2), (3, 500 * M, 96 * M, 0), NAMES]}, id="within-bounds"),
    pytest.param({"rows": [*[NAMES] * 4095, (3, 4 * M, 250 * M, 0)]}, id="names-of-sections"),
    pytest.param({"rows": [], "notes": 4096}, id="notes"),
    pytest.param({"rows": [NAMES, (2, 8 * M, 96 * M, 2), (3, 500 * M, 96 * M, 0), NAMES],
                  "fill": (500 * M, b"_PyRuntime\0" * 100_000)}, id="a-name-in-many-places"),
    pytest.param({"rows": [NAMES, (2, 8 * M, 96 * M, 2), (3, 500 * M, 96 * M, 0), NAMES],
                  "fill": (500 * M, b"_PyRuntime\0")}, id="a-name-of-all-symbols"),
])  # fmt: skip
def test_a_file_made_to_be_dear_costs_little_memory(made):
    assert dear(**made) < 8 << 20


def test_a_file_without_a_build_id_is_told_from_one_of_another_size_or_other_headers(tmp_path):
    bare = SMALL.replace(b"GNU\0", b"NUL\0")
    found = set()
    for data in (bare, bare + b"\0", bare.replace(b".dynstr", b".dynsts")):
        (tmp_path / "file").write_bytes(data)
        with open(tmp_path / "file", "rb", buffering=0) as stream:
            read = elf.read_elf(stream.fileno(), "file")
            assert isinstance(read.value.build_id, Missing)
            found.add(elf.identity(stream.fileno(), read.value))
    assert len(found) == 3
    assert all(each.startswith("file-") for each in found)


def test_other_architectures_words_and_files_are_told_apart():
    assert parsed(b"#!/bin/sh\n" + bytes(100))[0].reason is Reason.MALFORMED
    assert parsed(SMALL[:4] + b"\x01" + SMALL[5:])[0].reason is Reason.UNSUPPORTED  # 32 bits
    assert parsed(SMALL[:5] + b"\x02" + SMALL[6:])[0].reason is Reason.UNSUPPORTED  # big-endian
    assert parsed(b"")[0].reason is Reason.MALFORMED


@pytest.mark.parametrize("length", range(0, len(SMALL), 7))
def test_a_file_cut_anywhere_is_read_or_refused(length):
    found, symbols = parsed(SMALL[:length])
    assert isinstance(found, Missing) or isinstance(symbols, (Missing, Value))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_a_damaged_file_is_read_or_refused(changes):
    data = bytearray(SMALL)
    for at, value in changes:
        data[at] = value
    found, symbols = parsed(bytes(data))
    assert isinstance(found, (Missing, Value))
    assert symbols is None or isinstance(symbols, (Missing, Value))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 63), st.integers(0, (1 << 64) - 1))
def test_huge_offsets_and_counts_cost_no_memory(at, word):
    data = bytearray(SMALL)
    data[at : at + 8] = struct.pack("<Q", word)
    assert isinstance(parsed(bytes(data[: len(SMALL)]))[0], (Missing, Value))


def test_symbols_of_a_running_program_lie_where_the_program_says():
    script = "import ctypes; print(ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, 'PyType_Type'))); input()"
    target = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert target.stdout is not None
        told = int(target.stdout.readline())
        space = open_address_space(target.pid)
        assert isinstance(space, Value)
        addresses = []
        for mapping in {one.inode: one for one in reversed(space.value.maps) if "python" in one.path}.values():
            opened = elf.open_mapped(target.pid, mapping)
            assert isinstance(opened, Value)
            try:
                found = elf.read_elf(opened.value, mapping.path)
                if isinstance(found, Missing):
                    continue
                symbols = elf.find_symbols(opened.value, found.value, ("PyType_Type",))
                assert isinstance(symbols, Value)
                bias = elf.load_bias(found.value, mapping)
                addresses += [one.address + bias for one in symbols.value.values() if bias is not None]
            finally:
                os.close(opened.value)
        assert told in addresses
    finally:
        target.kill()
        target.wait()
        for stream in (target.stdin, target.stdout):
            assert stream is not None
            stream.close()


def test_a_path_that_leads_to_another_file_by_now_is_gone(tmp_path):
    path = tmp_path / "library"
    path.write_bytes(SMALL)
    mapping = Mapping(0x1000, 0x2000, "r--p", 0, "00:00", path.stat().st_ino + 1, str(path))
    opened = elf.open_mapped(os.getpid(), mapping)
    assert isinstance(opened, Missing)
    assert opened.reason is Reason.GONE
