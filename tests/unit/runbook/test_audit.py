"""The audit is a chain: what was changed afterwards shows, wherever it was changed."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import Unavailable
from osremed.runbook.audit import Audit, verify, written_by_hand


@pytest.fixture
def directory(tmp_path):
    path = str(tmp_path / "audit")
    for part in range(2):  # two writers, one after the other
        audit = Audit(path)
        for number in range(3):
            audit.append({"verb": "freeze", "number": 3 * part + number})
        audit.close()
    return path


def segment(directory):
    (name,) = [name for name in os.listdir(directory) if name != "lock"]
    return os.path.join(directory, name)


def lines_of(directory):
    with open(segment(directory), "rb") as source:
        return source.read().splitlines(keepends=True)


def rewrite(directory, lines):
    with open(segment(directory), "wb") as out:
        out.write(b"".join(lines))


def test_a_chain_holds_over_several_writers(directory):
    checked = verify(directory)
    assert (checked.entries, checked.faults, checked.anchor) == (6, (), "")
    assert len(checked.head) == 64


def test_an_entry_that_was_taken_out_shows(directory):
    lines = lines_of(directory)
    rewrite(directory, lines[:2] + lines[3:])
    assert any("entry 3: it does not follow" in fault for fault in verify(directory).faults)


def test_a_forged_entry_shows_even_with_a_good_checksum(directory):
    from osremed.core import journal

    lines = lines_of(directory)
    entry = journal._decode(lines[2].rstrip(b"\n"))
    lines[2] = journal._encode(entry.seq, {**entry.record, "number": 99})
    rewrite(directory, lines)
    assert verify(directory).faults == ("entry 2: it is not what was written",)


def test_a_changed_byte_shows(directory):
    lines = lines_of(directory)
    lines[1] = lines[1].replace(b"freeze", b"frieze")
    rewrite(directory, lines)
    assert verify(directory).faults


def test_no_audit_is_an_empty_one(tmp_path):
    assert verify(str(tmp_path / "none")).entries == 0


def test_two_commands_at_once_write_one_after_the_other(tmp_path):
    path = str(tmp_path)

    def write():
        with written_by_hand(path) as audit:
            audit.append({"verb": "x"})

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(path).entries == 8
    assert verify(path).faults == ()


def test_a_held_audit_is_told_and_nothing_is_done_unwritten(tmp_path, monkeypatch):
    monkeypatch.setattr("osremed.runbook.audit._WAIT_S", 0.1)
    holder = Audit(str(tmp_path))
    with pytest.raises(Unavailable, match="held"), written_by_hand(str(tmp_path)):
        raise AssertionError
    holder.close()


@given(st.data())
def test_any_one_changed_bit_shows(tmp_path_factory, data):
    path = str(tmp_path_factory.mktemp("audit"))
    audit = Audit(path)
    for number in range(3):
        audit.append({"number": number})
    audit.close()
    content = bytearray(b"".join(lines_of(path)))
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    rewrite(path, [bytes(content)])
    assert verify(path).faults or verify(path).entries < 3
