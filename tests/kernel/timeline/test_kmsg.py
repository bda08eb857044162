"""/dev/kmsg end to end: a line is an event in a moment, and a line of a process is not taken for the driver's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from osremed.core.journal import read_journal
from osremed.core.reading import Missing
from osremed.sensors import kmsg

pytestmark = pytest.mark.kernel


@pytest.fixture
def reader():
    if not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("writing to /dev/kmsg needs root")
    opened = kmsg.open_kmsg()
    if isinstance(opened, Missing):
        pytest.skip(str(opened))
    yield opened.value
    opened.value.close()


def address():
    """An address nobody else uses now: other tests write to the same log."""
    return f"{0x8000 | os.getpid() & 0x7FFF:04x}:ee:00"


def say(text):
    with open("/dev/kmsg", "w", encoding="utf-8") as log:
        log.write(f"{text}\n")  # without the end of the line the record is held back for a continuation


def test_a_line_is_read_as_written_and_marked_as_not_the_kernels(reader):
    mark = f"osremed test {os.getpid()} line\\two ä"
    say(mark)
    found = []
    end = time.monotonic() + 10
    while not found and time.monotonic() < end:
        found = [line for line in reader.drain() if line.text == mark]
    assert len(found) == 1
    assert found[0].injected


def start_watch(prefix):
    """A watch of its own directory, from when it says that it watches."""
    environment = {**os.environ, "OSREMED_PREFIX": str(prefix), "OSREMED_LOG": "info"}
    status = prefix / "run/osremed/timeline.json"
    status.unlink(missing_ok=True)
    policy = {"apiVersion": "osremed/v1", "kind": "TimelinePolicy", "interval_s": 0.2}
    (prefix / "timeline.json").write_text(json.dumps(policy))
    command = [sys.executable, "-m", "osremed", "timeline", "run", "--policy", str(prefix / "timeline.json")]
    watch = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not status.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    return watch


def told_of(prefix, code):
    """Events of that Xid at our address."""
    folder = prefix / "var/lib/osremed/events/timeline"
    rows = [entry.record for entry in read_journal(str(folder)).entries] if folder.is_dir() else []
    return [row for row in rows if (row["attributes"].get("bdf"), row["attributes"].get("code")) == (address(), code)]


def until_told(prefix, code):
    end = time.monotonic() + 60
    while not told_of(prefix, code):
        assert time.monotonic() < end
        time.sleep(0.02)


def until_its_place_is_kept(prefix, reader, code):
    """`reader` has the line in the kernel log that says that Xid, too, and with it its number there."""
    (seq,) = [line.seq for line in reader.drain() if f"{address()}): {code}," in line.text]
    place, end = prefix / "var/lib/osremed/timeline/kernel-log.json", time.monotonic() + 60
    while not place.exists() or json.loads(place.read_text())["seq"] < seq:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_xid_written_while_the_watch_was_dead_is_told_once_when_it_is_back_and_none_is_told_again(reader, tmp_path):
    say(f"NVRM: Xid (PCI:{address()}): 94, pid=1, name=x, before the first watch")
    watch = start_watch(tmp_path)
    try:
        say(f"NVRM: Xid (PCI:{address()}): 79, pid=1, name=x, seen")
        until_told(tmp_path, 79)
        until_its_place_is_kept(tmp_path, reader, 79)
        watch.kill()
        watch.wait(20)
        said_ns = time.time_ns()
        say(f"NVRM: Xid (PCI:{address()}): 109, pid=1, name=x, while nobody listened")
        written_ns = time.time_ns()
        time.sleep(1.5)
        watch = start_watch(tmp_path)
        until_told(tmp_path, 109)
        time.sleep(0.5)
    finally:
        watch.kill()
        watch.wait(20)
    assert [len(told_of(tmp_path, code)) for code in (94, 79, 109)] == [0, 1, 1]
    # The clock of the log need not be exactly that of the wall.
    assert said_ns - 1e9 < told_of(tmp_path, 109)[0]["time_ns"] < written_ns + 1e9, "it happened when it was written"


def test_an_xid_that_the_disk_did_not_take_is_told_by_the_next_watch(reader, tmp_path):
    """The place in the log is not moved past what is in memory alone."""
    blocked = tmp_path / "var/lib/osremed/events/timeline"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the folder should be")
    watch = start_watch(tmp_path)
    try:
        say(f"NVRM: Xid (PCI:{address()}): 79, pid=1, name=x, while the disk took nothing")
        status, end = tmp_path / "run/osremed/timeline.json", time.monotonic() + 60
        while not json.loads(status.read_text())["events"]["failure"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.5)  # two rounds
        watch.kill()
        watch.wait(20)
        blocked.unlink()
        watch = start_watch(tmp_path)
        until_told(tmp_path, 79)
    finally:
        watch.kill()
        watch.wait(20)
    assert len(told_of(tmp_path, 79)) == 1


def test_an_xid_in_the_kernel_log_is_an_event_on_disk_in_a_moment(reader, tmp_path):
    watch = start_watch(tmp_path)
    try:
        end = time.monotonic() + 60
        said_ns = time.time_ns()
        say(f"NVRM: Xid (PCI:{address()}): 79, pid=1, name=x, GPU has fallen off the bus.")
        events = []
        while not events:
            assert time.monotonic() < end
            time.sleep(0.005)
            try:
                entries = read_journal(str(tmp_path / "var/lib/osremed/events/timeline")).entries
            except FileNotFoundError:
                continue
            events = [each.record for each in entries if each.record["attributes"].get("bdf") == address()]
        seen_ns = time.time_ns()
    finally:
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(20) == 0
    facts = events[0]["attributes"]
    assert (events[0]["name"], facts["code"], facts["action"], facts["injected"]) == ("gpu.xid", 79, "RESTART_BM", True)
    assert said_ns <= events[0]["time_ns"] <= seen_ns
