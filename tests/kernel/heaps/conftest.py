"""Targets: programs that plant a known heap, print one JSON line when it stands, and end when their input ends."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PLANTER = os.path.join(os.path.dirname(__file__), "planter.py")
RELEASES = ("3.9", "3.10", "3.11", "3.12", "3.13")


def interpreters() -> dict[str, str]:
    """release -> an installed CPython of it: the running one, and those of pyenv."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for release in RELEASES:
        for path in sorted(glob.glob(f"{root}/versions/{release}.*/bin/python")):
            found[release] = path
    return found


class Target:
    """A started program; `planted` is what its first line says."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{command[0]} said nothing"
        self.planted: dict[str, Any] = json.loads(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, line: str) -> str:
        """Sends a line and returns the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Target]]:
    targets: list[Target] = []

    def begin(command: list[str], **options: Any) -> Target:
        targets.append(Target(command, **options))
        return targets[-1]

    yield begin
    for target in targets:
        target.end()
