"""A real PyTorch with its real libraries: probed, and asked for a trace. OSREMED_TORCH_PYTHON names an interpreter that
has torch; without it this is skipped, since torch is gigabytes. A GPU is not needed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile

import pytest

from osremed.cli.main import main
from tests.kernel.timeline.conftest import say
from tests.kernel.timeline.test_calls import settled

TORCH = os.environ.get("OSREMED_TORCH_PYTHON", "")
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not TORCH, reason="OSREMED_TORCH_PYTHON names no interpreter with torch"),
]
TRAINS = """
import os, sys, threading, time, torch
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
torch.set_num_threads(1)
model = torch.nn.Linear(64, 64)
print("ready", flush=True)
while True:
    model(torch.randn(8, 64)).sum().backward()
    time.sleep(0.01)
"""
ALLOCATES = """
import ctypes, sys, torch
paths = {line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line}
print("ready", flush=True)
sys.stdin.readline()
def this_line(library):
    return library.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1 << 20))
if paths:
    this_line(ctypes.CDLL(paths.pop()))
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def torch_job():
    started = []

    def start(text, **environment):
        process = subprocess.Popen(
            [TORCH, "-c", text],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def test_a_real_job_that_runs_writes_a_trace_when_it_is_asked(torch_job, tmp_path, capsys):
    with tempfile.TemporaryDirectory() as short:  # Kineto's own socket has a name of 52 characters in it
        process = torch_job(TRAINS, KINETO_USE_DAEMON="1", KINETO_IPC_SOCKET_DIR=short)
        ask_it(process, tmp_path, capsys)


def test_one_that_listens_on_an_abstract_name_does_too(torch_job, tmp_path, capsys):
    ask_it(torch_job(TRAINS, KINETO_USE_DAEMON="1"), tmp_path, capsys)


def ask_it(process, tmp_path, capsys):
    words = ["timeline", "ask", str(process.pid), "--directory", str(tmp_path), "--within", "60s", "-o", "json"]
    assert main(words) == 0
    (rank,) = json.loads(capsys.readouterr().out)["ranks"]
    assert rank["events"] > 100
    assert any(row["name"].startswith("aten::") for row in rank["operators"])


def test_the_runtime_of_a_real_wheel_is_probed_and_a_call_has_its_line(torch_job, following):
    process = torch_job(ALLOCATES)
    calls = following()
    calls.look([process.pid])
    if not any("cudaMalloc" in names for names in calls.probes.value.attached.values()):
        pytest.skip("this torch was built without CUDA")
    say(process)
    ledger = settled(calls, process.pid, 1)
    places = [*ledger.failed, *(held.place for held in ledger.held.values())]
    assert [line.function for line in places[0].lines] == ["this_line", "<module>"]
