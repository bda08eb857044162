"""The scheduler of a host is known by its daemon, and the node by the name that the daemon was told."""

from __future__ import annotations

import os

import pytest

from osremed.timeline import scheduler as scheduling


@pytest.fixture
def proc(tmp_path):
    def add(pid, *argv):
        (tmp_path / str(pid)).mkdir()
        rest = " ".join(["S", "1", *["0"] * 50])
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({os.path.basename(argv[0])}) {rest}\n")
        (tmp_path / str(pid) / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in argv))

    add(1, "/sbin/init")
    return tmp_path, add


@pytest.mark.parametrize(
    ("argv", "kind", "node"),
    [
        (("/usr/bin/kubelet", "--hostname-override=gpu-7", "--v=2"), "kubernetes", "gpu-7"),
        (("/usr/sbin/slurmd", "-D", "-N", "n12"), "slurm", "n12"),
        (("/usr/sbin/slurmd", "-D"), "slurm", os.uname().nodename.split(".", 1)[0]),
        (("/usr/bin/kubelet", "--hostname-override"), "kubernetes", os.uname().nodename.lower()),
        (("/usr/bin/kubelet-exporter",), "", ""),
    ],
)
def test_the_node_has_the_name_that_its_daemon_was_told(proc, monkeypatch, argv, kind, node):
    monkeypatch.setattr(scheduling.shutil, "which", lambda command: f"/bin/{command}")
    root, add = proc
    add(7, *argv)
    found = scheduling.scheduler(str(root))
    command = {"kubernetes": "/bin/kubectl", "slurm": "/bin/scontrol", "": ""}[kind]
    assert found == {"kind": kind, "node": node, "command": command}


def test_a_host_without_the_command_cannot_take_itself_out(proc, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    root, add = proc
    add(7, "/usr/bin/kubelet")
    assert scheduling.scheduler(str(root))["command"] == ""


def test_processes_that_cannot_be_listed_are_a_gap(tmp_path):
    assert "missing" in scheduling.scheduler(str(tmp_path / "nowhere"))
