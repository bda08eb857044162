"""What is said of a HotSpot JVM: without consent nothing that stops it, with consent its objects to the object."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.heaps.collect import Wish, collect_heaps, read_heap
from osremed.panorama.heaps.growth import compare
from osremed.panorama.heaps.model import HeapReport, NoHeap
from osremed.sensors import jattach
from osremed.sensors.address_space import open_address_space

pytestmark = pytest.mark.kernel

SOURCE = os.path.join(os.path.dirname(__file__), "Planter.java")
N = 30_000


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    compiler = shutil.which("javac")
    if compiler is None:
        pytest.skip("javac is not installed")
    folder = tmp_path_factory.mktemp("java")
    subprocess.run([compiler, "-d", str(folder), SOURCE], check=True)
    return str(folder)


@pytest.fixture
def java(start, classes):
    def begin(*options: str):
        return start(["java", "-Xmx256m", "-XX:+UseSerialGC", *options, "-cp", classes, "Planter", str(N)])

    return begin


def report_of(pid: int, consent: bool) -> HeapReport:
    heap = read_heap(pid, Wish(limit_s=30.0, rows=50, consent=consent))
    assert isinstance(heap, HeapReport), heap
    return heap


def safepoints(pid: int) -> int:
    space = open_address_space(pid)
    assert isinstance(space, Value)
    told = jattach.counters(space.value)
    assert isinstance(told, Value)
    return int(told.value["sun.rt.safepoints"])


def test_without_consent_nothing_stops_it_and_the_cost_is_said(java):
    target = java()
    before = safepoints(target.pid)
    seen = report_of(target.pid, consent=False).snapshot
    assert safepoints(target.pid) == before
    assert seen.pause is None
    assert seen.gaps[0].reason is Reason.DENIED
    assert "stops it for about" in seen.gaps[0].detail
    assert seen.resident_bytes > N * 100


def test_with_consent_objects_are_exact_and_the_pause_is_measured(java):
    target = java()
    seen = report_of(target.pid, consent=True).snapshot
    assert {row.name: row.count for row in seen.types}["Planter$Session"] == N
    assert seen.pause is not None
    assert isinstance(seen.pause.measured_s, Value)
    assert 0 < seen.pause.measured_s.value < 30
    assert not os.path.exists(f"/tmp/.attach_pid{target.pid}")
    assert target.process.poll() is None


def test_growth_of_a_java_class(java):
    target = java()
    before = report_of(target.pid, consent=True).snapshot
    assert target.say("20000") == "grown"
    growth = compare(before, report_of(target.pid, consent=True).snapshot)
    grown = {row.name: row.count_per_s * growth.window_s for row in growth.types}
    assert grown["Planter$Session"] == pytest.approx(20_000)


def test_a_jvm_that_does_not_attach_is_left_alone(java):
    target = java("-XX:+DisableAttachMechanism")
    heap = read_heap(target.pid, Wish(limit_s=5.0, consent=True))
    assert isinstance(heap, NoHeap)
    assert heap.missing.reason is Reason.UNSUPPORTED
    assert target.say("1") == "grown"  # no thread dump was printed in between


def test_a_program_that_does_not_catch_the_signal_is_never_sent_it(start):
    """The signal would end it (who is started in the background may have inherited that it is ignored)."""
    code = "import signal; signal.signal(signal.SIGQUIT, signal.SIG_DFL); print('{}', flush=True); input()"
    target = start([sys.executable, "-c", code])
    space = open_address_space(target.pid)
    assert isinstance(space, Value)
    answer = jattach.command(space.value, "VM.version", 2.0)
    assert isinstance(answer, Missing)
    assert answer.reason is Reason.UNSUPPORTED
    assert target.process.poll() is None
    target.process.send_signal(signal.SIGQUIT)
    assert target.process.wait(timeout=30) == -signal.SIGQUIT


def recordings(pid):
    return jattach.command(open_address_space(pid).value, "JFR.check", 30.0).value


def test_a_reader_that_is_ended_leaves_no_recording_behind(java):
    """It cannot end it any more: who ended the reader does."""
    target, heaps = java(), []
    wish = Wish(growth_s=600.0, limit_s=30.0, consent=True)
    assert "osremed-" not in recordings(target.pid)  # its socket is open from here on: nobody else has to wake it
    reading = threading.Thread(target=lambda: heaps.extend(collect_heaps([target.pid], wish)))
    reading.start()
    deadline = time.monotonic() + 60
    while "name=osremed-" not in recordings(target.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    (reader,) = [child for child in multiprocessing.active_children() if child.name == f"heap-{target.pid}"]
    reader.kill()
    reading.join(60)
    assert isinstance(heaps[0], NoHeap)
    assert "osremed-" not in recordings(target.pid)
    assert [name for name in os.listdir("/tmp") if name.startswith("osremed-") and name.endswith(".jfr")] == []


def test_a_recording_tells_where_what_grows_hangs_and_who_made_it(java, tmp_path):
    """With consent and two looks, also where the JVM had room enough to collect nothing meanwhile. The recording and
    its file are gone afterwards."""
    target = java("-Xmn200m", "-XX:TLABSize=64k", "-XX:-ResizeTLAB")  # a sample is taken where a thread needs a buffer
    stop = threading.Event()

    def grow():
        while not stop.wait(0.01):
            target.say("1000")

    thread = threading.Thread(target=grow)
    before = set(os.listdir("/tmp"))
    thread.start()
    try:
        heap = read_heap(target.pid, Wish(growth_s=3.0, limit_s=30.0, rows=50, consent=True))
    finally:
        stop.set()
        thread.join()
    assert isinstance(heap, HeapReport), heap
    assert isinstance(heap.recording, Value), heap.recording
    seen = heap.recording.value
    assert "Planter.HELD" in [path.held_in for path in seen.paths], (seen, heap.growth)
    first = next(path for path in seen.paths if path.held_in == "Planter.HELD")
    held = sum(path.samples for path in seen.paths if path.held_in == "Planter.HELD")
    assert held * 2 > seen.samples
    assert first.container == "java.util.ArrayList"
    assert any(name.startswith("Planter") for name in first.stack)
    assert isinstance(seen.pause.measured_s, Value)
    assert "hang on Planter.HELD" in heap.sentence
    assert not [name for name in set(os.listdir("/tmp")) - before if name.endswith(".jfr")]
    assert isinstance(open_address_space(target.pid), Value)


def test_without_consent_nothing_is_recorded(java):
    heap = read_heap(java().pid, Wish(growth_s=0.2, limit_s=30.0))
    assert isinstance(heap, HeapReport)
    assert heap.recording is None
