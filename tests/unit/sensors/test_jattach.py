from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import jattach
from osremed.sensors.jattach import command, parse_counters


def entry(name: bytes, kind: str, value: bytes, items: int = 0) -> bytes:
    name_bytes = name + b"\0"
    name_bytes += bytes(-len(name_bytes) % 8)
    body = value + bytes(-len(value) % 8)
    length = 20 + 4 + len(name_bytes) + len(body)
    head = struct.pack("<iiiBBBBi", length, 24, items, ord(kind), 0, 1, 1, 24 + len(name_bytes))
    return head + bytes(4) + name_bytes + body


ENTRIES = [
    entry(b"sun.rt.safepointTime", "J", struct.pack("<q", 12345)),
    entry(b"java.rt.vmArgs", "B", b"-Xmx1g\0", 7),
]
FILE = struct.pack(">IBB", 0xCAFEC0C0, 1, 2) + bytes(18) + struct.pack("<ii", 32, len(ENTRIES)) + b"".join(ENTRIES)


@pytest.fixture
def target(tmp_path):
    """A process whose own root is a folder: (space, its root)."""
    inside = tmp_path / f"proc/{os.getpid()}/root"
    inside.mkdir(parents=True)
    (inside.parent / "status").write_text(f"NSpid:\t{os.getpid()}\t7\nUid:\t0\t{os.geteuid()}\t0\t0\nSigCgt:\t04\n")
    return SimpleNamespace(root=str(tmp_path / "proc"), pid=os.getpid(), maps=()), inside


@contextlib.contextmanager
def listening(path, answer=b"0\n17.0\n"):
    """What was said to the socket at `path`."""
    said = []
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        door.settimeout(20)

        def once():
            with contextlib.suppress(OSError), door.accept()[0] as one:
                said.extend(filter(None, [one.recv(4096)]))
                one.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        yield said
        with socket.socket(socket.AF_UNIX) as ours:  # ends the wait where nobody came
            ours.connect(str(path))
        thread.join(20)


def test_a_command_is_asked_at_the_socket_in_the_targets_own_tmp(target):
    space, inside = target
    (inside / "tmp").mkdir()
    with listening(inside / "tmp/.java_pid7") as said:
        assert command(space, "VM.version", 10.0) == Value("17.0\n")
    assert said == [b"1\0jcmd\0VM.version\0\0\0"]


def test_a_tmp_that_is_a_link_leads_nobody_out_of_the_targets_root(target, tmp_path, monkeypatch):
    """With an absolute link the mark would have been made, and given to the target's user, on this host."""
    space, inside = target
    (tmp_path / "victim").mkdir()
    (inside / "tmp").symlink_to(tmp_path / "victim")
    touched = []
    monkeypatch.setattr(jattach, "_wake", lambda *given: touched.append(given))
    assert command(space, "VM.version", 1.0).reason is Reason.UNSUPPORTED
    assert touched == []


def test_a_socket_that_is_a_link_is_not_spoken_to(target, tmp_path):
    space, inside = target
    (inside / "tmp").mkdir()
    (inside / "tmp/.java_pid7").symlink_to(tmp_path / "docker.sock")
    with listening(tmp_path / "docker.sock") as said:
        assert isinstance(command(space, "VM.version", 1.0), Missing)
    assert said == []


def test_numbers_and_texts_are_read():
    assert parse_counters(FILE) == {"sun.rt.safepointTime": 12345, "java.rt.vmArgs": "-Xmx1g"}


@pytest.mark.parametrize("data", [b"", bytes(100), FILE[:31], b"\xca\xfe\xc0\xc1" + FILE[4:]])
def test_what_is_no_counter_file_is_refused(data):
    with pytest.raises(ValueError, match=r"hsperfdata|header"):
        parse_counters(data)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), max_size=10), st.integers(0, len(FILE)))
def test_damaged_and_cut_files_are_read_or_refused(changes, length):
    data = bytearray(FILE)
    for at, value in changes:
        data[at] = value
    try:
        parse_counters(bytes(data[:length]))
    except ValueError:
        return
