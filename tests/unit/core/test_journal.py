"""A journal keeps every entry it acknowledged, whatever happens to its writer."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core import journal as journal_module
from osremed.core.journal import Cursor, Journal, read_journal


def records(directory, **options):
    return [entry.record for entry in read_journal(str(directory), **options).entries]


def fill(directory, count, **options):
    journal = Journal(str(directory), **options)
    for number in range(count):
        journal.append({"n": number})
    journal.close()


def segments(directory):
    return sorted(path for path in directory.iterdir() if path.suffix == ".jsonl")


def test_entries_come_back_in_order_with_their_numbers(tmp_path):
    fill(tmp_path / "j", 5)
    contents = read_journal(str(tmp_path / "j"))
    assert [(entry.seq, entry.record["n"]) for entry in contents.entries] == [(n, n) for n in range(5)]
    assert contents.damaged == ()
    assert (contents.first_seq, contents.next_seq) == (0, 5)


def test_a_journal_is_private_to_its_owner(tmp_path):
    fill(tmp_path / "j", 1)
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0
    assert segments(tmp_path / "j")[0].stat().st_mode & 0o077 == 0


def test_a_reopened_journal_goes_on_counting(tmp_path):
    fill(tmp_path, 3)
    journal = Journal(str(tmp_path))
    assert journal.append({"n": "next"}) == 3
    assert records(tmp_path, after_seq=2) == [{"n": "next"}]


def test_reading_a_journal_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_journal(str(tmp_path / "absent"))


def test_a_tail_torn_at_any_byte_loses_only_the_torn_entry(tmp_path):
    source = tmp_path / "whole"
    fill(source, 4)
    data = segments(source)[0].read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == 0x0A]
    for length in range(len(data) + 1):
        torn = tmp_path / f"torn-{length}"
        torn.mkdir()
        (torn / segments(source)[0].name).write_bytes(data[:length])
        kept = sum(end <= length for end in ends)
        before = read_journal(str(torn))
        assert (len(before.entries), before.damaged, before.next_seq) == (kept, (), kept), length
        journal = Journal(str(torn))
        assert journal.torn_bytes == length - max([0, *[end for end in ends if end <= length]])
        assert journal.append({"n": "after"}) == kept
        journal.close()
        after = read_journal(str(torn))
        assert [entry.seq for entry in after.entries] == list(range(kept + 1))
        assert after.damaged == ()


def test_a_damaged_line_in_the_middle_is_reported_with_its_place_and_the_rest_is_read(tmp_path):
    fill(tmp_path, 3)
    path = segments(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"n":1', b'"n":7') + lines[2])
    contents = read_journal(str(tmp_path))
    assert [entry.seq for entry in contents.entries] == [0, 2]
    assert contents.damaged == (f"{path}:2: checksum differs",)


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"seq":"0","crc":"","rec":{}}', b"[" * 100_000]
)
def test_junk_in_the_middle_is_reported_never_raised(tmp_path, junk):
    fill(tmp_path, 2)
    path = segments(tmp_path)[0]
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + junk + b"\n" + second)
    contents = read_journal(str(tmp_path))
    assert [entry.seq for entry in contents.entries] == [0, 1]
    assert contents.damaged == (f"{path}:2: not a journal line",)


def test_a_newline_damaged_into_a_carriage_return_cuts_off_no_later_entry(tmp_path):
    fill(tmp_path, 4)
    path = segments(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\n", b"\r", 1))
    journal = Journal(str(tmp_path))
    assert journal.torn_bytes == 0
    assert [entry.seq for entry in read_journal(str(tmp_path)).entries] == [2, 3]
    assert len(read_journal(str(tmp_path)).damaged) == 1
    assert journal.append({}) == 4


def test_the_number_of_a_damaged_last_line_is_not_given_again(tmp_path):
    fill(tmp_path, 3)
    path = segments(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-3] + b"x}\n")
    assert read_journal(str(tmp_path)).next_seq == 3
    assert Journal(str(tmp_path)).append({"n": "new"}) == 3
    assert records(tmp_path, after_seq=2) == [{"n": "new"}]  # a cursor that had passed entry 2 sees the new one


def test_a_torn_line_at_the_end_of_an_older_segment_is_damage(tmp_path):
    fill(tmp_path, 4, segment_bytes=1)
    path = segments(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-1])
    assert read_journal(str(tmp_path)).damaged == (f"{path}:1: torn line",)


@given(st.binary(max_size=400))
def test_any_bytes_can_be_read_and_written_after(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / f"{0:020d}.jsonl").write_bytes(data)
    before = read_journal(str(directory))
    journal = Journal(str(directory))
    seq = journal.append({"after": True})
    journal.close()
    assert seq == before.next_seq
    assert read_journal(str(directory), after_seq=seq - 1).entries[-1].record == {"after": True}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_appended_is_what_is_read(tmp_path_factory, rec):
    directory = tmp_path_factory.mktemp("round")
    journal = Journal(str(directory))
    journal.append(rec)
    journal.close()
    assert records(directory) == [rec]


@pytest.mark.parametrize("rec", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": {1, 2}}])
def test_a_record_that_is_not_json_is_refused_and_leaves_nothing(tmp_path, rec):
    journal = Journal(str(tmp_path))
    with pytest.raises((ValueError, TypeError)):
        journal.append(rec)
    assert journal.append({"n": 0}) == 0
    assert records(tmp_path) == [{"n": 0}]


def in_a_child(work):
    """The exit status of `work`, run in a forked child that can spoil its own limits."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("room_bytes", range(0, 60, 7))
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, room_bytes):
    fill(tmp_path, 2)
    size = segments(tmp_path)[0].stat().st_size

    def work():
        journal = Journal(str(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room_bytes, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="File too large"):
            journal.append({"text": "x" * 100})
        assert segments(tmp_path)[0].stat().st_size == size
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert journal.append({"n": 2}) == 2

    assert in_a_child(work) == 0
    contents = read_journal(str(tmp_path))
    assert ([entry.seq for entry in contents.entries], contents.damaged) == ([0, 1, 2], ())


def test_a_segment_that_cannot_be_opened_leaves_the_full_one_in_use(tmp_path, monkeypatch):
    journal = Journal(str(tmp_path), segment_bytes=1)
    journal.append({"n": 0})
    monkeypatch.setattr(journal_module, "_SUFFIX", "/no/such/place.jsonl")
    with pytest.raises(OSError, match="No such file"):
        journal.append({"n": "lost"})
    monkeypatch.undo()
    assert journal.append({"n": 1}) == 1
    assert records(tmp_path) == [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize("written", [False, True])
def test_a_journal_that_could_not_be_opened_holds_no_lock(tmp_path, monkeypatch, written):
    if written:
        fill(tmp_path, 1)
    suffix = "_SUFFIX" if not written else "_next_seq"
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as disk:
        disk.setattr(journal_module, suffix, "/no/such/place.jsonl")
        with pytest.raises((OSError, TypeError)):
            Journal(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    journal = Journal(str(tmp_path))
    assert journal.append({"n": "after"}) == int(written)
    journal.close()


def test_segments_rotate_and_reading_after_a_number_skips_the_older_ones(tmp_path):
    fill(tmp_path, 10, segment_bytes=100)
    assert len(segments(tmp_path)) > 3
    segments(tmp_path)[0].chmod(0)
    segments(tmp_path)[0].write_bytes(b"never opened\n")
    contents = read_journal(str(tmp_path), after_seq=5)
    assert [entry.seq for entry in contents.entries] == [6, 7, 8, 9]
    assert contents.damaged == ()


def test_retention_keeps_the_newest_segments_and_tells_where_they_begin(tmp_path):
    fill(tmp_path, 10, segment_bytes=1, max_segments=3)
    contents = read_journal(str(tmp_path))
    assert [entry.seq for entry in contents.entries] == [7, 8, 9]
    assert (contents.first_seq, contents.next_seq) == (7, 10)


def test_a_bounded_read_gives_the_oldest_first_and_knows_the_end(tmp_path):
    fill(tmp_path, 10, segment_bytes=100)
    contents = read_journal(str(tmp_path), after_seq=2, max_entries=4)
    assert [entry.seq for entry in contents.entries] == [3, 4, 5, 6]
    assert contents.next_seq == 10


def test_a_foreign_file_in_the_directory_is_left_alone(tmp_path):
    (tmp_path / "notes.jsonl").write_text("mine\n")
    (tmp_path / "cursor").write_text("0\n")
    fill(tmp_path, 2, segment_bytes=1, max_segments=1)
    assert records(tmp_path) == [{"n": 1}]
    assert (tmp_path / "notes.jsonl").read_text() == "mine\n"


WRITER = """
import sys
from osremed.core.journal import Journal
journal = Journal(sys.argv[1], segment_bytes=300)
while True:
    sys.stdout.write("%d\\n" % journal.append({"text": "x" * 40}))
    sys.stdout.flush()
"""


def test_every_acknowledged_entry_survives_sigkill_of_the_writer(tmp_path):
    directory, acknowledged = str(tmp_path / "j"), -1
    chance = random.Random(7)
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, directory], stdout=subprocess.PIPE, text=True)
        first = writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in (first + writer.stdout.read()).splitlines(keepends=True) if line.endswith("\n")]
        writer.wait()
        assert said[0] > acknowledged
        acknowledged = said[-1]
        contents = read_journal(directory)
        assert contents.damaged == ()
        assert [entry.seq for entry in contents.entries] == list(range(contents.next_seq))
        assert contents.next_seq > acknowledged


def test_a_cursor_remembers_and_starts_before_the_first_entry(tmp_path):
    cursor = Cursor(str(tmp_path / "cursor"))
    assert cursor.load() == -1
    cursor.store(41)
    assert Cursor(str(tmp_path / "cursor")).load() == 41


@pytest.mark.parametrize("damage", [b"", b"abc", b"\xff\xff", b"-7", b"1" * 5000])
def test_a_damaged_cursor_counts_as_none(tmp_path, damage):
    (tmp_path / "cursor").write_bytes(damage)
    assert Cursor(str(tmp_path / "cursor")).load() == -1


def test_a_reader_far_into_a_segment_still_sees_damage_beyond_its_place(tmp_path):
    fill(tmp_path, 6)
    path = segments(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"told long ago\n"
    lines[4] = lines[4].replace(b'"seq":4', b'"seq":1')
    lines[3] = lines[3].replace(b'"n":3', b'"n":9')
    path.write_bytes(b"".join(lines))
    contents = read_journal(str(tmp_path), after_seq=2)
    assert [entry.seq for entry in contents.entries] == [5]
    damaged = (f"{path}:2: not a journal line", f"{path}:4: checksum differs", f"{path}:5: checksum differs")
    assert contents.damaged == damaged


def test_a_reader_behind_two_merged_lines_misses_nothing(tmp_path):
    fill(tmp_path, 6)
    path = segments(tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(b"\n", b" ", 1))
    assert [entry.seq for entry in read_journal(str(tmp_path), after_seq=3).entries] == [4, 5]


def test_what_is_written_while_reading_is_below_next_seq_or_read_next_time(tmp_path, monkeypatch):
    fill(tmp_path, 2)
    real, writer = journal_module._scan, Journal(str(tmp_path))

    def scan_while_writing(found, after_seq):
        yield from real(found, after_seq)
        writer.append({"n": "meanwhile"})

    monkeypatch.setattr(journal_module, "_scan", scan_while_writing)
    contents = read_journal(str(tmp_path), after_seq=1)
    assert (contents.entries, contents.next_seq) == ((), 2)


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    journal = Journal(str(tmp_path))
    with pytest.raises(BlockingIOError):
        Journal(str(tmp_path))
    journal.close()
    Journal(str(tmp_path)).close()
