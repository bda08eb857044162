"""Releases, and plays on namespace hosts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

from tests.nspawn.conftest import changes
from tests.support.ansible_environment import ansible_environment

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "not-to-be-seen-51b7"
EVERYWHERE = {"rollout_serial": ["100%"], "rollout_max_fail_percentage": 100}
#: The release as it is, but for hosts in HOSTS its component in WORDS ends at once.
BROKEN = """import sys
if sys.argv[1:3] == {words!r} and __import__("os").uname().nodename in {hosts!r}:
    sys.exit("this release is broken")
"""
#: The release as it is, but for hosts in HOSTS its component in WORDS ends when somebody has asked the agent how it is.
FADING = """import os, sys, threading, time
if os.uname().nodename in {hosts!r}:
    def fade():
        while not os.path.exists("/run/asked"):
            time.sleep(0.05)
        os._exit(1)
    if sys.argv[1:3] == {words!r}:
        threading.Thread(target=fade, daemon=True).start()
    if sys.argv[1:3] == ["agent", "status"]:
        open("/run/asked", "w").close()
"""


def make_release(directory, version, *, breaks=(), words=("fastoom", "run"), how=BROKEN):
    """The host plane as a zipapp that calls itself `version`."""
    built, path = directory / "built.pyz", directory / f"{version}.pyz"
    if not built.exists():
        argv = [sys.executable, str(ROOT / "tools/build_zipapp.py"), "--output", str(built)]
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
    with zipfile.ZipFile(built) as source, open(path, "wb") as raw:
        raw.write(b"#!/usr/bin/python3 -ISB\n")
        with zipfile.ZipFile(raw, "a") as target:
            for name in source.namelist():
                data = source.read(name)
                if name == "osremed/__init__.py":
                    data = re.sub(rb'__version__ = "[^"]+"', f'__version__ = "{version}"'.encode(), data)
                if name == "__main__.py" and breaks:
                    data = how.format(words=list(words), hosts=list(breaks)).encode() + data
                target.writestr(name, data)
    return path


def task_times(log):
    """(name, seconds) of each task, from the times in Ansible's own log."""
    stamp = re.compile(r"^(\S+ [0-9:]+),(\d+) .*?\| (TASK \[[^\n]*?\]|PLAY RECAP) \**$", re.MULTILINE)
    stamped = stamp.findall(log.read_text())
    began = [time.mktime(time.strptime(day, "%Y-%m-%d %H:%M:%S")) + int(ms) / 1000 for day, ms, _ in stamped]
    return [(name[6:-1], after - before) for (_, _, name), before, after in zip(stamped, began, began[1:])]


class Fleet:
    """Hosts, releases, and the plays that were run on them."""

    def __init__(self, bed, hosts, directory, more=None):
        """`more`: variables of further inventory names, each or of a host's own."""
        self.bed, self.hosts, self.directory = bed, hosts, directory
        self.inventory = bed.write_inventory(directory / "hosts.json", hosts)
        document = json.loads(self.inventory.read_text())
        for name, variables in (more or {}).items():
            document["osremed"]["hosts"].setdefault(name, {}).update(variables)
        self.inventory.write_text(json.dumps(document))
        self.texts = []
        self.environ = {**ansible_environment(directory / "home"), "HOME": str(directory)}

    def play(self, playbook, *words, version="1.0", timeout_s=240, **variables):
        """A playbook of ours by its name, or any by its path. `recap[host]` says ok, changed, unreachable, failed.
        Without `version` no release is named. What takes longer fails with the tasks it came to and their times."""
        release = {"osremed_host_version": version, "osremed_host_zipapp": str(self.directory / f"{version}.pyz")}
        given = {
            **(release if version else {}), "agent_intake_url": "https://192.0.2.1", "agent_token": TOKEN,
            "rollout_soak_s": 1, "release_selinux_enforce": "/run/selinux/enforce",
            "agent_start_s": 10, "fastoom_start_s": 10, **variables,
        }  # fmt: skip
        playbook = playbook if isinstance(playbook, Path) else f"{playbook}.yml"
        argv = ["ansible-playbook", "-i", str(self.inventory), str(ROOT / "playbooks" / playbook)]
        began = time.monotonic()
        log = self.directory / f"play-{len(self.texts)}.log"
        try:
            ended = self.bed.controller(
                [*argv, "-e", json.dumps(given), *words], timeout_s=timeout_s, cwd=ROOT,
                env={**self.environ, "ANSIBLE_LOG_PATH": str(log)},
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            told = "\n".join(f"{seconds:7.1f} s  {name}" for name, seconds in task_times(log))
            said = (late.output or b"").decode("utf-8", "replace")[-3000:]
            raise AssertionError(f"{playbook} took over {timeout_s} s:\n{told}\n{said}") from None
        text = ended.stdout + ended.stderr
        self.texts.append(text)
        recap = {
            host: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", rest)}
            for host, rest in re.findall(r"^(\S+) +: (ok=.*)$", text, re.MULTILINE)
        }
        took_s = time.monotonic() - began
        times = task_times(log)
        slow = ", ".join(f"{seconds:.1f} s {name}" for name, seconds in sorted(times, key=lambda each: -each[1])[:4])
        print(f"{playbook} {version}: {took_s:.1f} s, {len(times)} tasks on {len(recap)} hosts; {slow}")
        told = re.sub(r"\s+", " ", text)
        return SimpleNamespace(code=ended.returncode, text=text, told=told, recap=recap, times=times, took_s=took_s)

    def changes(self):
        return {host.name: changes(host) for host in self.hosts}
