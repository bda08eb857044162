"""PostgreSQL and Redis from the distribution's packages, for as long as a test needs them: in the network namespace of
the test bed, with data in a directory of the session. Each can be killed and started again."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

PROGRAMS = {"initdb": "postgresql", "psql": "postgresql", "redis-server": "redis-server", "redis-cli": "redis-tools"}
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
_START_S = 60.0


def find(program: str) -> str:
    """Where it is: Debian keeps PostgreSQL's own off the path. Empty when it is not installed."""
    there = shutil.which(program) or ""
    return there or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"), reverse=True)), "")


def missing_here() -> str:
    """What to install; empty when both can run."""
    packages = sorted({package for program, package in PROGRAMS.items() if not find(program)})
    return f"not installed: apt-get install {' '.join(packages)}" if packages else ""


class Databases:
    """Both, at `address`, each with a password that has to be quoted in a URL."""

    def __init__(self, bed, address: str) -> None:
        self.address, self._bed, self._password = address, bed, "p@s+s/w%rd:1"
        self.directory = Path(bed.session.directory_outside(f"/tmp/osr-{bed.session.id}-db"))
        os.chmod(self.directory, 0o711)
        self._data, self._redis_data = self.directory / "postgresql", self.directory / "redis"
        self._redis_data.mkdir()
        self._data.mkdir()
        shutil.chown(self._data, "postgres", "postgres")
        secret = self.directory / "password"
        secret.write_text(self._password)
        secret.chmod(0o644)
        self._as_postgres(find("initdb"), "-D", str(self._data), "-U", "prefect", "-A", "scram-sha-256", "--no-sync",
                          f"--pwfile={secret}", "--locale=C.UTF-8")  # fmt: skip
        with open(self._data / "pg_hba.conf", "a", encoding="utf-8") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        self._pids: dict[str, int] = {}
        self.start("postgresql")
        self.start("redis")

    @property
    def postgresql_url(self) -> str:
        return f"postgresql+asyncpg://prefect:{quote(self._password, safe='')}@{self.address}:5432/postgres"

    @property
    def redis_url(self) -> str:
        return f"redis://default:{quote(self._password, safe='')}@{self.address}:6379/2"

    def start(self, name: str) -> None:
        """Returns when it answers."""
        words = {
            "postgresql": [*AS_POSTGRES, find("postgres"), "-D", str(self._data), "-c", "unix_socket_directories=",
                           "-c", f"listen_addresses={self.address}"],
            "redis": [find("redis-server"), "--bind", self.address, "--requirepass", self._password, "--dir",
                      str(self._redis_data), "--appendonly", "yes", "--appendfsync", "always"],
        }  # fmt: skip
        inside = self._bed.within("c", *words[name])
        self._pids[name] = self._bed.session.spawn(inside, self.directory / f"{name}.log").pid
        ask = {"postgresql": lambda: self.sql("select 1"), "redis": lambda: self.redis("ping")}[name]
        deadline = time.monotonic() + _START_S
        while ask() not in ("1", "PONG"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} does not answer: {(self.directory / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """As a crash would: SIGKILL. PostgreSQL's other processes notice and end."""
        pid = self._pids.pop(name)
        os.kill(pid, signal.SIGKILL)
        self._bed.session.release(next(each for each in self._bed.session.resources if each.get("pid") == pid))

    def sql(self, query: str) -> str:
        """The answer's rows, unaligned; what went wrong instead when it did."""
        environ = {"PGPASSWORD": self._password, "PATH": os.environ["PATH"], "PGCONNECT_TIMEOUT": "5"}
        argv = [find("psql"), "-h", self.address, "-U", "prefect", "-d", "postgres", "-Atc", query]
        return self._said(self._bed.controller(argv, env=environ, timeout_s=30))

    def redis(self, *words: str) -> str:
        environ = {"REDISCLI_AUTH": self._password, "PATH": os.environ["PATH"]}
        return self._said(self._bed.controller([find("redis-cli"), "-h", self.address, "-n", "2", *words], env=environ))

    @staticmethod
    def _said(ended: subprocess.CompletedProcess[str]) -> str:
        return (ended.stdout or ended.stderr).strip()

    def _as_postgres(self, *argv: str) -> None:
        subprocess.run([*AS_POSTGRES, *argv], check=True, capture_output=True, timeout=60, cwd="/")
