from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.hotspot import records
from osremed.hotspot.book import MAGIC, page, read_book
from osremed.hotspot.ring import RingWriter, book_path, entries, read_window
from osremed.hotspot.segment import Segment, decode, encode
from osremed.sensors import compress
from osremed.sensors.pyframes import line_of
from tests.unit.hotspot.made import APP, RUN, START_NS, raw, segment, text

DAY_S = 86400.0


def writer(directory: Path, max_bytes: int = 1 << 30, max_age_s: float = DAY_S) -> RingWriter:
    return RingWriter(str(directory), max_bytes=max_bytes, max_age_s=max_age_s)


def test_a_segment_comes_back_as_it_was_written() -> None:
    made = segment(raw(kernel=(1, 2), user=(3,), python=(4, 5, 6, 7)), raw(kind=records.OPENED, path="/proc/net/tcp"))
    assert decode(packed(made)) == made


def packed(made: Segment) -> bytes:
    return encode(made.start_ns, made.end_ns, made.tables, [made.records[:99], made.records[99:]])


def append(ring: RingWriter, made: Segment) -> int:
    return ring.append(made.start_ns, made.end_ns, made.tables, [made.records])


@pytest.mark.parametrize("lost", [1, 20, 100])
def test_a_torn_last_segment_is_said_and_costs_nothing_else(tmp_path: Path, lost: int) -> None:
    ring = writer(tmp_path)
    for number in range(3):
        append(ring, segment(raw(), start_s=10.0 * number))
    last = entries(str(tmp_path))[-1]
    with open(last.path, "r+b") as stream:
        stream.truncate(last.bytes - lost)
    window = read_window(str(tmp_path), START_NS, START_NS + 60 * 10**9)
    assert [each.start_ns for each in window.segments] == [START_NS, START_NS + 10 * 10**9]
    assert len(window.damaged) == 1
    assert "torn" in window.damaged[0]


def test_a_changed_byte_is_told_by_the_checksum(tmp_path: Path) -> None:
    append(writer(tmp_path), segment(raw()))
    path = entries(str(tmp_path))[0].path
    data = bytearray(Path(path).read_bytes())
    data[-3] ^= 1
    Path(path).write_bytes(data)
    assert "checksum" in read_window(str(tmp_path), START_NS, START_NS + 10**9).damaged[0]


def test_a_killed_writers_half_segment_is_removed_at_the_next_start(tmp_path: Path) -> None:
    append(writer(tmp_path), segment(raw()))
    (tmp_path / "1790000000000000000-1790000010000000000.hot.tmp").write_bytes(b"half")
    ring = writer(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    assert ring.total_bytes == entries(str(tmp_path))[0].bytes


def test_the_oldest_go_first_when_the_ring_is_full(tmp_path: Path) -> None:
    size = append(writer(tmp_path / "one"), segment(raw()))
    ring = writer(tmp_path / "ring", max_bytes=3 * size)
    for number in range(6):
        append(ring, segment(raw(), start_s=10.0 * number))
    kept = entries(str(tmp_path / "ring"))
    assert [each.start_ns for each in kept] == [START_NS + 10 * number * 10**9 for number in (3, 4, 5)]
    assert ring.total_bytes == sum(each.bytes for each in kept) <= 3 * size


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    ring = writer(tmp_path, max_age_s=25.0)
    for number in range(6):
        append(ring, segment(raw(), start_s=10.0 * number))
    assert entries(str(tmp_path))[0].start_ns == START_NS + 30 * 10**9


def test_a_window_takes_the_segments_that_touch_it(tmp_path: Path) -> None:
    ring = writer(tmp_path)
    for number in range(4):
        append(ring, segment(raw(), start_s=10.0 * number))
    found = read_window(str(tmp_path), START_NS + 10 * 10**9, START_NS + 20 * 10**9)
    assert [each.start_ns for each in found.segments] == [START_NS + 10 * 10**9]


def test_a_segment_of_an_earlier_release_is_refused_in_words(tmp_path: Path) -> None:
    append(writer(tmp_path), segment(raw()))
    path = Path(entries(str(tmp_path))[0].path)
    path.write_bytes(b"OSRHOT2\n" + path.read_bytes()[8:])
    assert "earlier release" in read_window(str(tmp_path), START_NS, START_NS + 10**9).damaged[0]


def test_names_come_back_from_the_book_and_without_columns(tmp_path: Path) -> None:
    code = compile("def f(a,\n b):\n  x = a + b\n\n  return (x,\n   a)", "/srv/f.py", "exec").co_consts[0]
    table = code.co_linetable if sys.version_info >= (3, 11) else bytes([0xDF, 0, 0])
    short = b"".join(re.findall(rb"[\x80-\xe7\xf8-\xff]|[\xe8-\xf7][\x40-\x7f]*[\x00-\x3f]", table))
    lines = [line_of((3, 11), table, 1, at) for at in range(40)]
    ring = writer(tmp_path)
    maps = [[0x7F0000001000, 0x7F0000005000, 0, "/lib/a", "ab"], [0x7F0000007000, 0x7F0000008000, 4096, "/lib/b", "cd"]]
    ring.add_names(START_NS, [{**APP, "maps": maps}], records.join([text(9, "f", "/srv/f.py", table=short)]))
    append(ring, segment(raw(), books=[START_NS]))
    window = read_window(str(tmp_path), START_NS, START_NS + 10**9)
    assert [row["maps"] for row in window.processes()] == [maps]
    found = window.books[RUN][0].texts[9]
    assert (found.name, found.file) == ("f", "/srv/f.py")
    assert [found.line(2 * at) for at in range(40)] == lines


@pytest.mark.parametrize("lost", [1, 20])
def test_a_torn_page_of_a_book_is_said_and_costs_nothing_before_it(tmp_path: Path, lost: int) -> None:
    ring = writer(tmp_path)
    for number in (1, 2):
        ring.add_names(START_NS, [APP], records.join([text(number, f"f{number}", "f.py")]))
    append(ring, segment(raw(), books=[START_NS]))
    path = Path(book_path(str(tmp_path), START_NS))
    path.write_bytes(path.read_bytes()[:-lost])
    window = read_window(str(tmp_path), START_NS, START_NS + 10**9)
    assert list(window.books[RUN][0].texts) == [1]
    assert "torn: some names are missing" in window.damaged[0]


def test_a_missing_book_is_said(tmp_path: Path) -> None:
    append(writer(tmp_path), segment(raw(), books=[START_NS]))
    window = read_window(str(tmp_path), START_NS, START_NS + 10**9)
    assert len(window.segments) == 1
    assert "some names are missing" in window.damaged[0]


def test_books_go_when_no_segment_names_them(tmp_path: Path) -> None:
    ring = writer(tmp_path, max_age_s=25.0)
    starts = [START_NS + 10 * number * 10**9 for number in range(8)]
    for number, start_ns in enumerate(starts):
        ring.add_names(start_ns, [APP], b"")
        append(ring, segment(raw(), start_s=10.0 * number, books=starts[max(0, number - 1) : number + 1]))
    window = read_window(str(tmp_path), 0, START_NS + 10**12)
    assert not window.damaged
    assert len(list(tmp_path.glob("*.book"))) == len(window.segments) + 1
    assert ring.total_bytes == sum(each.stat().st_size for each in tmp_path.iterdir())


def test_tables_that_no_kept_book_names_leave_a_small_ring(tmp_path: Path) -> None:
    """Each book is of another build: a host that is redeployed all the time."""
    ring = writer(tmp_path, max_bytes=1 << 20)
    (tmp_path / "kallsyms-b.z").write_bytes(bytes(1 << 16))
    most, dropped = 0, set()
    for number in range(100):
        start_ns = START_NS + 10 * number * 10**9
        table = tmp_path / f"unwind-build{number}.rows"
        table.write_bytes(bytes(1 << 15))
        os.utime(table, ns=(start_ns, start_ns))
        ring.add_names(start_ns, [{**APP, "maps": [[0, 4096, 0, "/opt/app", f"build{number}"]]}], os.urandom(1 << 13))
        append(ring, segment(raw(), start_s=10.0 * number, boot_id="b", books=[start_ns]))
        dropped |= ring.take_dropped()
        most = max(most, sum(each.stat().st_size for each in tmp_path.iterdir()))
    assert most < 1.2 * (1 << 20)
    assert (tmp_path / "kallsyms-b.z").exists()
    tables = {each.name for each in tmp_path.glob("unwind-*")}
    assert "unwind-build99.rows" in tables
    assert len(entries(str(tmp_path))) > 5
    assert dropped == {f"unwind-build{number}.rows" for number in range(100)} - tables


def test_what_every_book_names_stays_and_other_boots_symbols_go_with_their_segments(tmp_path: Path) -> None:
    ring = writer(tmp_path, max_age_s=25.0)
    for number in range(12):
        start_ns, boot = START_NS + 10 * number * 10**9, "old" if number < 4 else "new"
        for name in ("unwind-libc.rows", "vdso-libc", f"kallsyms-{boot}.z"):
            if not (tmp_path / name).exists():
                (tmp_path / name).write_bytes(b"x")
                os.utime(tmp_path / name, ns=(start_ns, start_ns))
        ring.add_names(start_ns, [{**APP, "maps": [[0, 4096, 0, "/libc", "libc"]]}], b"")
        append(ring, segment(raw(), start_s=10.0 * number, boot_id=boot, books=[start_ns]))
        boots = {each.tables["boot_id"] for each in read_window(str(tmp_path), 0, START_NS + 10**12).segments}
        assert {each.name for each in tmp_path.glob("kallsyms-*")} >= {f"kallsyms-{each}.z" for each in boots}
    assert {each.name for each in tmp_path.iterdir() if each.suffix not in (".hot", ".book")} == {
        "unwind-libc.rows", "vdso-libc", "kallsyms-new.z"}  # fmt: skip


def test_symbols_larger_than_the_ring_do_not_take_its_segments(tmp_path: Path) -> None:
    ring = writer(tmp_path, max_bytes=1 << 20)
    (tmp_path / "kallsyms-b.z").write_bytes(bytes(3 << 20))
    for number in range(20):
        start_ns = START_NS + 10 * number * 10**9
        ring.add_names(start_ns, [APP], os.urandom(1 << 13))
        append(ring, segment(raw(), start_s=10.0 * number, boot_id="b", books=[start_ns]))
    assert len(entries(str(tmp_path))) == 20


def test_a_disk_that_others_filled_does_not_keep_what_is_too_old(tmp_path: Path) -> None:
    ring = writer(tmp_path, max_age_s=25.0)
    for number in range(3):
        append(ring, segment(raw(), start_s=10.0 * number))
    ring.trim(START_NS + 100 * 10**9)
    assert len(entries(str(tmp_path))) == 1


@given(st.binary(max_size=300))
def test_any_bytes_are_a_book_or_say_their_damage(data: bytes) -> None:
    for candidate in (data, MAGIC + data, MAGIC + page([APP], b"") + data):
        assert read_book(candidate).damage or candidate in (MAGIC, MAGIC + page([APP], b""))


@given(st.binary(max_size=200), st.integers(0, 7))
def test_any_bytes_are_texts_and_counts_or_a_value_error(data: bytes, kind: int) -> None:
    for stream in (data, records.join([bytes([kind, 0]) + data])):
        for read in (records.texts_of, lambda each: records.counts_of(each, records.WAITS)):
            with contextlib.suppress(ValueError):
                list(read(stream))


def test_without_the_library_zlib_is_used_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    modern = packed(segment(raw()))
    monkeypatch.setattr(compress, "zstandard", None)
    made = segment(raw())
    assert decode(packed(made)) == made
    with pytest.raises(ValueError, match="zstandard"):
        decode(modern)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_segment_or_a_value_error(data: bytes) -> None:
    for candidate in (data, b"OSRHOT3\n" + data):
        with pytest.raises(ValueError, match=r"."):
            decode(candidate)


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_of_a_segment_passes(at: int, change: int) -> None:
    data = bytearray(packed(segment(raw(kernel=(1, 2, 3)))))
    data[at % len(data)] ^= change
    with pytest.raises(ValueError, match=r"."):
        decode(bytes(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_records_or_a_value_error(data: bytes) -> None:
    try:
        for each in records.read(data, records.stacks_of(data)):
            assert each is None or each.kind in (records.CPU_SAMPLE, records.AWAY, records.OPENED)
    except ValueError:
        return


def test_records_the_kernel_discarded_are_passed_over() -> None:
    parts = [part for at in (5, 9, 11) for part in records.build(raw(at_ns=at))]
    stacks = records.stacks_of(records.join(parts))
    stream = bytearray(records.join(parts))
    second = len(records.join(parts[:3]))
    stream[second + 3] |= 0x40
    assert [each and each.at_ns for each in records.read(bytes(stream), stacks)] == [5, 11]
