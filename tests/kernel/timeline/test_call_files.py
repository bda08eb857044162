"""Files that are probed: each once, by whatever names containers have for it, and no longer than somebody maps it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.kernel.timeline.conftest import say

pytestmark = pytest.mark.kernel


@pytest.fixture
def inside(tmp_path):
    """A mount namespace with a tmpfs at `tmp_path/inside`: runs a command there; its answer."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    place = tmp_path / "inside"
    place.mkdir()
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         f"mount -t tmpfs none {place} && echo mounted && read line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "mounted\n"
    enter = ("nsenter", "--mount", f"--target={holder.pid}")

    def run(*words):
        return subprocess.run([*enter, *(str(word) for word in words)], capture_output=True, text=True, check=False)

    run.enter, run.place = enter, place
    yield run
    holder.stdin.close()
    holder.wait(10)
    holder.stdout.close()


def end(process):
    process.stdin.close()
    process.wait(20)


def unmounted(inside, place, deadline_s=20.0):
    """Whether it comes off; the kernel lets go of a probe's file a moment after the probe is gone."""
    last = time.monotonic() + deadline_s
    while (done := inside("umount", place)).returncode:
        assert time.monotonic() < last, done.stderr
        time.sleep(0.05)


def reduced(calls, pid):
    calls.take()
    return {name: each.count for (of, name), each in calls.sums().items() if of == pid}.get("ncclAllReduce", 0)


def test_the_file_system_of_a_job_that_has_ended_can_be_unmounted(cuda, following, program, inside):
    inside("cp", "-r", cuda, inside.place / "cuda")
    process, pid = program(sys.executable, "calls", inside.place / "cuda", before=inside.enter)
    calls = following()
    calls.look([pid])
    probed = set(calls.processes[pid].files)
    assert probed <= set(calls.probes.value.attached)
    assert inside("umount", inside.place).returncode, "a probe, or the job, keeps it"
    end(process)
    calls.look([])
    assert probed.isdisjoint(calls.probes.value.attached)
    unmounted(inside, inside.place)


def test_containers_of_one_image_are_counted_once_and_none_keeps_the_mount_of_another(cuda, following, program, inside):
    inside("cp", "-r", cuda, inside.place / "image")
    started = []
    for name in ("first", "second"):
        own = inside.place / name
        inside("mkdir", "-p", own / "up", own / "work", own / "merged")
        layers = f"lowerdir={inside.place / 'image'},upperdir={own / 'up'},workdir={own / 'work'}"
        mounted = inside("mount", "-t", "overlay", "overlay", "-o", layers, own / "merged")
        if mounted.returncode:
            pytest.skip(f"no overlay here: {mounted.stderr.strip()}")
        started.append(program(sys.executable, "calls", own / "merged", before=inside.enter))
    (first, first_pid), (second, second_pid) = started
    calls = following()
    calls.look([first_pid, second_pid])
    probed = {
        key for key, through in calls.probes.value._through.items() if through in calls.processes[first_pid].files
    }
    assert len(probed) == 3
    say(first)
    assert reduced(calls, first_pid) == 3
    end(first)
    calls.look([second_pid])
    unmounted(inside, inside.place / "first" / "merged")
    assert probed <= set(calls.probes.value.attached), "the same files, by the names that the second has for them"
    say(second)
    assert reduced(calls, second_pid) == 3
    assert calls.processes[second_pid].ledger.seen == 5
    end(second)
    calls.look([])
    assert probed.isdisjoint(calls.probes.value.attached)
    unmounted(inside, inside.place / "second" / "merged")
