"""ansible-playbook without its start of half a second: a process of the collection's that has imported it and forks for
each call. What cannot be served so runs as ever."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

from osremed.core.log import Log
from osremed.executor.stragglers import MARK

_PROGRAM = os.path.join("ansible_collections", "osremed", "host", "scripts", "warm_playbook.py")
_AGAIN_S = 60.0
_LOG = Log("executor")


class WarmPlaybook:
    """Lives in `directory`, which it makes and removes. With the collection in none of `collections`, or an
    ansible-playbook (`program`) of another interpreter than this one, it does nothing and `path` is empty."""

    def __init__(self, directory: str, collections: str, program: str) -> None:
        found = (os.path.join(folder, _PROGRAM) for folder in collections.split(os.pathsep))
        self._script = next((each for each in found if os.path.isfile(each)), "")
        ours = os.path.dirname(os.path.abspath(program)) == os.path.dirname(os.path.abspath(sys.executable))
        self._directory, self._program = directory, program
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._begun_s = 0.0
        self.path = directory if self._script and ours else ""
        if self.path:
            os.makedirs(directory, mode=0o700)
            words = shlex.join([sys.executable, "-ISE", self._script, "ask", directory, program])
            shim = os.open(os.path.join(directory, "ansible-playbook"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
            with open(shim, "w", encoding="utf-8") as stream:
                stream.write(f'#!/bin/sh\nexec {words} "$@"\n')

    def begin(self, environ: Mapping[str, str]) -> None:
        """Sees to it that somebody serves, or will in a moment, calls with this environment."""
        with self._lock:
            runs = self._server is not None and self._server.poll() is None
            if not self.path or runs or (self._begun_s and time.monotonic() - self._begun_s < _AGAIN_S):
                return
            if self._server is not None:
                _LOG.warning("the warm ansible-playbook ended, another begins", code=self._server.returncode)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._directory, "socket"))
            self._begun_s = time.monotonic()
            own = {
                MARK: self._directory,
                "ANSIBLE_LOCAL_TEMP": os.path.join(self._directory, "tmp"),
                "PATH": _without(environ, self._directory),
            }
            words = [sys.executable, self._script, "serve", self._directory, self._program]
            self._server = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**environ, **own}, cwd=self._directory, start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """It ends once the calls in flight have; not waited for."""
        with self._lock:
            if self._server is not None and self._server.stdin is not None:
                self._server.stdin.close()
            if self.path:
                shutil.rmtree(self._directory, ignore_errors=True)


def _without(environ: Mapping[str, str], directory: str) -> str:
    """PATH without `directory`."""
    return os.pathsep.join(path for path in environ.get("PATH", "").split(os.pathsep) if path != directory)
