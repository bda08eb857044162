"""The parts of the VRAM story that stand in for what is not there: units without systemd, memory without a GPU."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osremed.core.errors import Unavailable
from osremed.demo import fakecuda, fakenvml
from osremed.demo.vram_stage import SERVER, build_stage

KEEPER = Path(SERVER).with_name("unit_keeper.py")
PYTHON = [sys.executable, "-I", "-S"]
MIB = 1 << 20


def until(condition, what):
    end = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


@pytest.fixture
def ask(tmp_path):
    """Asks a keeper of the units in tmp_path; the facts of a unit for `show`, else the exit code."""
    socket = str(tmp_path / "socket")
    keeper = subprocess.Popen([*PYTHON, KEEPER, "keep", socket, tmp_path])
    until(lambda: os.path.exists(socket), "it does not listen")

    def words(*each):
        ended = subprocess.run([*PYTHON, KEEPER, "ask", socket, *each], capture_output=True, text=True, check=False)
        if each[0] != "show":
            return ended.returncode
        return dict(line.split("=", 1) for line in ended.stdout.splitlines())

    yield words
    keeper.terminate()
    assert keeper.wait(30) == 0


def write_unit(directory, name, program, *lines):
    command = shlex.join([*PYTHON, "-c", program])
    text = "\n".join(["[Service]", f"X-Group={directory}/{name}.procs", f"ExecStart={command}", *lines])
    (directory / name).write_text(text + "\n")


SAY = "import os, time; open({!r}, 'a').write(os.environ.get('WORD', '-') + '\\n'); time.sleep(1000)"


def test_a_drop_in_counts_from_the_next_reload_and_start_on(tmp_path, ask):
    said = tmp_path / "said"
    write_unit(tmp_path, "x.service", SAY.format(str(said)), "Environment=WORD=first")

    def restarted(*before):
        for words in before:
            assert ask(*words) == 0
        count = len(said.read_text().splitlines()) if said.exists() else 0
        assert ask("restart", "--", "x.service") == 0
        return until(lambda: said.exists() and said.read_text().splitlines()[count:], "it did not start")

    assert restarted(("daemon-reload",)) == ["first"]
    (tmp_path / "x.service.d").mkdir()
    (tmp_path / "x.service.d/90.conf").write_text('[Service]\nEnvironment="WORD=50%% of it"\n')
    assert restarted() == ["first"]
    assert restarted(("daemon-reload",)) == ["50% of it"]


def test_a_service_that_ended_is_told_as_systemd_tells_it(tmp_path, ask):
    write_unit(tmp_path, "bad.service", "raise SystemExit(3)")
    write_unit(tmp_path, "good.service", "import time; time.sleep(1000)")
    assert (ask("daemon-reload"), ask("start", "bad.service"), ask("start", "good.service")) == (0, 0, 0)
    until(lambda: ask("show", "--", "bad.service")["ActiveState"] == "failed", "it did not fail")
    good = ask("show", "--", "good.service")
    assert (good["ActiveState"], good["LoadState"]) == ("active", "loaded")
    assert os.path.exists(f"/proc/{good['MainPID']}")
    assert ask("stop", "good.service") == 0
    assert not os.path.exists(f"/proc/{good['MainPID']}")
    assert ask("show", "other.service")["LoadState"] == "not-found"
    assert ask("restart", "other.service") == 1


# --- memory ---


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    try:
        directory = fakecuda.build(tmp_path_factory.mktemp("libraries"))
        fakenvml.build(directory)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return directory


def worker(libraries, tmp_path, keep, requests, **environment):
    """A worker of the server, on GPU 1, after so many requests: MiB of GPU 1 and its pids, as pynvml reads them."""
    ledger = tmp_path / f"ledger-{keep}-{len(environment)}"
    ledger.mkdir()
    scenario = fakenvml.Scenario(tmp_path / f"{ledger.name}.scenario")
    scenario.set(gpus=2, ledger=str(ledger), all__vram_used=0)
    base = {
        **os.environ,
        "LD_LIBRARY_PATH": str(libraries),
        "OSREMED_FAKE_NVML": str(scenario.path),
        "FAKE_VRAM": f"{ledger}:4096",
        "FAKE_ALLOWED_MIB": "4096",
        "CUDA_VISIBLE_DEVICES": "1",
        **environment,
    }
    look = (
        "import pynvml, json; pynvml.nvmlInit(); gpu = pynvml.nvmlDeviceGetHandleByIndex(1);"
        "print(json.dumps([pynvml.nvmlDeviceGetMemoryInfo(gpu).used,"
        "[each.pid for each in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)]]))"
    )
    argv = [*PYTHON, SERVER, "worker", "1", str(libraries), "3584", str(keep)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=base)
    with process:
        assert process.stdout.readline() == "ready\n"
        for number in range(requests):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert process.stdout.readline()
        seen = subprocess.run([sys.executable, "-c", look], env=base, capture_output=True, text=True, check=True)
        process.stdin.close()
        stat = Path(f"/proc/{process.pid}/stat")
        until(lambda: stat.read_text().rpartition(") ")[2][0] == "Z", "it does not end")
        gone = subprocess.run([sys.executable, "-c", look], env=base, capture_output=True, text=True, check=True)
    used, pids = json.loads(seen.stdout)
    assert json.loads(gone.stdout) == [0, []], "what a process held is free once it has ended, reaped or not"
    return used // MIB, pids == [process.pid]


def test_each_request_takes_a_segment_that_never_comes_back(libraries, tmp_path):
    assert worker(libraries, tmp_path, 0, 8) == (3584 + 8 * 14, True)


def test_the_limit_makes_the_allocator_give_back_what_nobody_uses(libraries, tmp_path):
    limit = {"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.8"}
    assert worker(libraries, tmp_path, 0, 8, **limit) == (3584 + 14, True)


def test_the_limit_does_not_help_where_the_program_holds_on(libraries, tmp_path):
    limit = {"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.8"}
    assert worker(libraries, tmp_path, 1, 8, **limit) == (3584 + 8 * 14, True)


def test_a_full_gpu_refuses_and_the_worker_ends(libraries, tmp_path):
    with pytest.raises(AssertionError):
        worker(libraries, tmp_path, 1, 50)


def test_without_a_c_compiler_the_story_says_so_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable) as error:
        build_stage(str(tmp_path))
    assert "no C compiler" in error.value.what
    assert "apt-get install gcc" in error.value.hint
