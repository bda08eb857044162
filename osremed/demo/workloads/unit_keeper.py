"""Keeps services as systemd would, for a story on a machine whose systemd it must not touch, or that has none.

unit_keeper.py keep SOCKET UNIT_DIRECTORY...      keeps the services of these directories until SIGTERM
unit_keeper.py ask SOCKET WORD...                 what `systemctl WORD...` asks; exit code 0 when it was done

It knows `start`, `restart`, `stop`, `show` and `daemon-reload`, and of a unit with its drop-ins the keys Environment=,
ExecStart= and X-Group= (the cgroup.procs that its processes go to). As with systemd, what a file says counts from the
next daemon-reload on, and for a process from its next start on. It starts nothing again by itself.
"""

from __future__ import annotations

import glob
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

STOP_S = 10.0


def read_unit(path: str) -> dict[str, Any]:
    """{environment, command, group}: of the unit's file, then its drop-ins in the order of their names."""
    unit: dict[str, Any] = {"environment": {}, "command": [], "group": ""}
    for part in [path, *sorted(glob.glob(glob.escape(path) + ".d/*.conf"))]:
        with open(part) as stream:
            for line in stream:
                key, _, value = line.strip().partition("=")
                if key == "Environment":
                    unit["environment"].update(word.replace("%%", "%").split("=", 1) for word in shlex.split(value))
                elif key == "ExecStart":
                    unit["command"] = shlex.split(value)
                elif key == "X-Group":
                    unit["group"] = value
    return unit


class Service:
    def __init__(self, path: str) -> None:
        self.path, self.started_us = path, 0
        self.process: subprocess.Popen[bytes] | None = None
        self.unit = read_unit(path)

    def start(self) -> None:
        words = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', self.unit["group"], *self.unit["command"]]
        with open(self.path + ".log", "ab") as log:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.unit["environment"]},
                start_new_session=True,
            )
        self.started_us = int(time.monotonic() * 1e6)

    def _left(self) -> list[int]:
        with open(self.unit["group"]) as stream:
            return [int(line) for line in stream if os.path.exists(f"/proc/{int(line)}")]

    def stop(self) -> None:
        """TERM to all of its control group, as KillMode=control-group says, and KILL to what is left."""
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._left():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            end = time.monotonic() + STOP_S
            while time.monotonic() < end and (self.process.poll() is None or self._left()):
                time.sleep(0.05)

    def show(self) -> dict[str, object]:
        pid = self.process.pid if self.process and self.process.poll() is None else 0
        code = self.process.returncode if self.process and not pid else 0
        return {
            "LoadState": "loaded",
            "ActiveState": "active" if pid else "failed" if code else "inactive",
            "SubState": "running" if pid else "failed" if code else "dead",
            "MainPID": pid,
            "NRestarts": 0,
            "Result": "exit-code" if code else "success",
            "ExecMainStartTimestampMonotonic": self.started_us,
        }


class Keeper:
    def __init__(self, directories: list[str]) -> None:
        self.directories = directories
        self.services: dict[str, Service] = {}
        self.reload()

    def reload(self) -> None:
        for directory in self.directories:
            for path in glob.glob(glob.escape(directory) + "/*.service"):
                known = self.services.setdefault(os.path.basename(path), Service(path))
                known.unit = read_unit(path)

    def answer(self, words: list[str]) -> dict[str, Any]:
        """{code, out, error} of one question."""
        verb, name = words[0], words[-1]
        if verb == "daemon-reload":
            self.reload()
            return {"code": 0, "out": "", "error": ""}
        service = self.services.get(name)
        if verb == "show":
            facts: dict[str, object] = {"LoadState": "not-found", "ActiveState": "inactive"}
            facts = service.show() if service else facts
            return {"code": 0, "out": "".join(f"{key}={value}\n" for key, value in facts.items()), "error": ""}
        if service is None or verb not in ("start", "stop", "restart"):
            return {"code": 1, "out": "", "error": f"no such unit, or no such verb: {words}\n"}
        if verb != "start":
            service.stop()
        if verb != "stop":
            service.start()
        return {"code": 0, "out": "", "error": ""}


def keep(path: str, directories: list[str]) -> None:
    keeper = Keeper(directories)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(16)
    try:
        while True:
            peer = server.accept()[0]
            with peer, peer.makefile("rw") as stream:
                stream.write(json.dumps(keeper.answer(json.loads(stream.readline()))) + "\n")
    finally:
        stops = [threading.Thread(target=service.stop) for service in keeper.services.values()]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()


def ask(path: str, words: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        with peer.makefile("rw") as stream:
            stream.write(json.dumps(words) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["error"])
    sys.exit(answer["code"])


if sys.argv[1] == "keep":
    keep(sys.argv[2], sys.argv[3:])
else:
    ask(sys.argv[2], sys.argv[3:])
