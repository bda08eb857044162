"""Our BPF programs on the kernel of a distribution, older than the one that runs the tests: another verifier,
other structures."""

from __future__ import annotations

import json

import pytest

from tests.support.vm_pressure import COMMAND, PROGRAM

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

_LOAD = """
import json, sys, zipfile
sys.path.insert(0, sys.argv[1])
from osremed.core.reading import Missing
from osremed.sensors.bpf import loader
found, end = {}, ".x86_64.bpf.o"
for path in zipfile.ZipFile(sys.argv[1]).namelist():
    if path.endswith(end):
        name = path.rpartition("/")[2][:-len(end)]
        loaded = loader.load(name)
        if isinstance(loaded, Missing):
            found[name] = str(loaded)
        else:
            with loaded.value as objects:
                found[name] = sorted(program.name for program in objects.programs)
print(json.dumps(found))
"""
_BURN = """
import os, time
reader, writer = os.pipe()
os.write(writer, b"x" * 30000)
def burns_here(until):
    while time.monotonic() < until: pass
burns_here(time.monotonic() + 600)
"""


@pytest.fixture
def host(vm, zipapp):
    vm.copy(zipapp, PROGRAM)
    return vm


def osremed(host, *words):
    return json.loads(host.check([*COMMAND, *words, "-o", "json"], timeout_s=120))


def start(host, name, argv):
    host.check(["systemd-run", "--quiet", f"--unit={name}", "--property=StateDirectory=osremed", *argv])


def test_every_object_loads_whole_and_what_they_see_is_there(host) -> None:
    kernel = host.check(["uname", "-r"])
    assert kernel.startswith("6.1."), "the oldest kernel that is tested is that of Debian 12"
    host.write("/root/load.py", _LOAD.encode())
    found = json.loads(host.check(["/usr/bin/python3", "-ISB", "/root/load.py", PROGRAM], timeout_s=120))
    assert found == {
        "alloc_trace": ["on_alloc", "on_free"], "gpu_calls": ["identify", "on_enter", "on_leave"],
        "hotspot": ["on_call", "on_clock", "on_each_task", "on_new_task", "on_switch"], "kernel_owners": ["owners"],
        "page_cache": ["walk"], "page_scan": ["find_base", "name_group", "name_pool", "scan"],
    }  # fmt: skip

    host.write("/root/burn.py", _BURN.encode())
    start(host, "burner", ["/usr/bin/python3", "-ISB", "/root/burn.py"])
    pipes = next(row for row in osremed(host, "panorama")["balance"]["lines"] if row["name"] == "pipes")
    assert pipes["bytes"] >= 32768, "eight pages hold what the burner wrote"

    start(host, "recorder", [*COMMAND, "hotspot", "run"])
    host.until(lambda: host.run([*COMMAND, "hotspot", "status"])[0] == 0, "the recorder runs", 120)

    def seen():
        argv = [*COMMAND, "hotspot", "export", "--format", "folded", "--window", "15s", "/root/folded"]
        exported = host.run(argv, timeout_s=120)[0] == 0
        return exported and host.run(["grep", "-m", "1", "burns_here", "/root/folded"])[1]

    line = host.until(seen, "a stack with the function that burns", 120)
    assert "burn.py" in line, "the file of a Python frame is known, too"
