"""What a session has made on this machine, written down before it is made; teardown works from that record alone.

A session is a directory `<cache>/sessions/<id>/` with `state.json`. The record survives a crash of its owner: the next
session that opens releases what dead owners left (`sweep`). Nothing is ever found by a name pattern: a process is its
pid and start time, in this boot; everything else is the exact path or name in the record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]
_WAIT_S = 10.0


def cache_directory() -> Path:
    """`$OSREMED_TESTBED_CACHE`, else `<checkout>/.osremed/testbed`; made if missing."""
    path = Path(os.environ.get("OSREMED_TESTBED_CACHE") or _CHECKOUT / ".osremed" / "testbed")
    (path / "sessions").mkdir(parents=True, exist_ok=True)
    return path


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 when there is no such process or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in b"ZX" else int(fields[19])


def poll(condition: Callable[[], Any], timeout_s: float, every_s: float = 0.02) -> Any:
    """The first true value of `condition`, or the last one when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(every_s)
    return value


class Session:
    """One user of the test bed and everything it has made. `close` releases in reverse order and then forgets."""

    def __init__(self, directory: Path, document: dict[str, Any]) -> None:
        self.directory, self._document = directory, document
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def id(self) -> str:
        """Six characters, unique on this machine."""
        return str(self._document["id"])

    @property
    def subnet(self) -> int:
        """The x of 10.77.x.0/24; no other living session has it."""
        return int(self._document["subnet"])

    @property
    def resources(self) -> list[dict[str, Any]]:
        return list(self._document["resources"])

    @property
    def notes(self) -> dict[str, Any]:
        """What the owner wants to find again, such as addresses; saved by `save`."""
        return dict(self._document["notes"])

    def note(self, **values: Any) -> None:
        self._document["notes"].update(values)
        self.save()

    def record(self, kind: str, **facts: Any) -> dict[str, Any]:
        """On disk before this returns: call it before the resource is made. `kind` is one of RELEASE."""
        if kind not in RELEASE:
            raise ValueError(f"no way to release a {kind}")
        resource = {"kind": kind, **facts}
        self._document["resources"].append(resource)
        self.save()
        return resource

    def directory_outside(self, path: str) -> str:
        """Makes a directory that is not below the session's own, and that goes with the session."""
        self.record("directory", path=path)
        os.mkdir(path, 0o700)
        return path

    def spawn(
        self, argv: Sequence[str], output: Path, *, grace_s: float = 5.0, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process in a session of its own, recorded before it runs `argv`. `grace_s`: from SIGTERM to SIGKILL."""
        # The shell waits for a line that comes when the record is on disk; without it, it ends.
        waits = ["/bin/sh", "-c", 'read -r go && exec "$@" < /dev/null', "sh", *argv]
        with open(output, "ab") as stream:
            child = subprocess.Popen(
                waits, stdin=subprocess.PIPE, stdout=stream, stderr=stream, start_new_session=True, env=env
            )
        self.record("process", pid=child.pid, start_time_ticks=start_time_ticks(child.pid), grace_s=grace_s)
        self._children[child.pid] = child
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.close()
        return child

    def release(self, resource: dict[str, Any]) -> None:
        """Takes one resource away now. TimeoutError or OSError when it stays; it stays in the record too."""
        RELEASE[resource["kind"]](resource)
        child = self._children.pop(resource.get("pid", 0), None)
        if child is not None:
            child.wait(timeout=_WAIT_S)
        self._document["resources"].remove(resource)
        self.save()

    def close(self) -> None:
        """Takes everything away, newest first. All are tried; OSError with every failure when something stays."""
        failures = []
        for resource in reversed(self.resources):
            try:
                self.release(resource)
            except (OSError, subprocess.SubprocessError) as error:
                failures.append(f"{resource}: {error!r}")
        if failures:
            raise OSError(f"test bed session {self.id} left: " + "; ".join(failures))
        shutil.rmtree(self.directory)

    def save(self) -> None:
        partial = self.directory / "state.json.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(self._document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.directory / "state.json")


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with open(cache / "sessions" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_session(*, keep: bool = False) -> Session:
    """A new session, after what dead owners left is gone. `keep`: it outlives this process, until `close`."""
    cache = cache_directory()
    with _locked(cache):
        _sweep(cache)
        taken = {session.subnet for session in sessions()}
        subnet = next(number for number in range(1, 255) if number not in taken)
        directory = cache / "sessions" / secrets.token_hex(3)
        directory.mkdir(mode=0o700)
        owner = None if keep else {"pid": os.getpid(), "start_time_ticks": start_time_ticks(os.getpid())}
        document = {"id": directory.name, "boot_id": boot_id(), "owner": owner, "subnet": subnet, "notes": {},
                    "resources": []}  # fmt: skip
        session = Session(directory, document)
        session.save()
    return session


def sessions() -> list[Session]:
    """Every session with a record, of living and dead owners, oldest first."""
    found = sorted((cache_directory() / "sessions").glob("*/state.json"), key=lambda path: path.stat().st_mtime)
    return [Session(path.parent, json.loads(path.read_text())) for path in found]


def sweep() -> list[str]:
    """Releases what sessions of dead owners left; their ids."""
    cache = cache_directory()
    with _locked(cache):
        return _sweep(cache)


def _sweep(cache: Path) -> list[str]:
    swept = []
    for session in sessions():
        if not _is_abandoned(session):
            continue
        session.close()
        swept.append(session.id)
    # A directory without a record is of an owner that ended before it made anything.
    for directory in (cache / "sessions").iterdir():
        if directory.is_dir() and not (directory / "state.json").exists():
            shutil.rmtree(directory)
    return swept


def _is_abandoned(session: Session) -> bool:
    """Its owner ended. After a reboot nobody owns anything, kept or not."""
    owner = session._document["owner"]
    if session._document["boot_id"] != boot_id():
        for resource in session.resources:
            if resource["kind"] == "process":
                session._document["resources"].remove(resource)
        return True
    return owner is not None and start_time_ticks(owner["pid"]) != owner["start_time_ticks"]


def _end_process(resource: dict[str, Any]) -> None:
    pid, started = resource["pid"], resource["start_time_ticks"]
    for number, wait_s in ((signal.SIGTERM, resource["grace_s"]), (signal.SIGKILL, _WAIT_S)):
        if not started or start_time_ticks(pid) != started:
            return
        os.kill(pid, number)
        poll(lambda: start_time_ticks(pid) != started, wait_s)
    if start_time_ticks(pid) == started:
        raise TimeoutError(f"process {pid} does not end")


def end_control_group(top: str) -> None:
    """Ends what runs in the group and below it, then removes it depth-first. TimeoutError when it does not empty."""
    if not os.path.isdir(top):
        return
    directories = [directory for directory, _, _ in os.walk(top, topdown=False)]
    deadline = time.monotonic() + _WAIT_S
    while directories and time.monotonic() < deadline:
        for directory in directories:
            with contextlib.suppress(FileNotFoundError):
                _kill_members(directory)
        for directory in directories:
            with contextlib.suppress(FileNotFoundError, OSError):
                os.rmdir(directory)
        directories = [directory for directory, _, _ in os.walk(top, topdown=False)]
        time.sleep(0.02 if directories else 0)
    if directories:
        raise TimeoutError(f"control group {top} does not empty")


def _kill_members(directory: str) -> None:
    for pid in Path(directory, "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _remove_namespace(resource: dict[str, Any]) -> None:
    path = f"/run/netns/{resource['name']}"
    if os.path.exists(path):
        subprocess.run(["ip", "netns", "delete", resource["name"]], check=True, timeout=_WAIT_S, capture_output=True)


def _unmount(resource: dict[str, Any]) -> None:
    path = resource["path"]
    if not os.path.ismount(path):
        return
    argv = ["umount", path]
    if not poll(lambda: _succeeds(argv), 5, 0.1):
        subprocess.run(["umount", "--lazy", path], check=True, timeout=_WAIT_S, capture_output=True)


def _succeeds(argv: list[str]) -> bool:
    return subprocess.run(argv, check=False, capture_output=True, timeout=_WAIT_S).returncode == 0


def _remove_directory(resource: dict[str, Any]) -> None:
    if os.path.ismount(resource["path"]):
        raise OSError(f"{resource['path']} is still a mount point")
    if os.path.isdir(resource["path"]):
        shutil.rmtree(resource["path"])


#: How each kind is taken away; each is quiet when there is nothing left to take. A process also needs `grace_s`.
RELEASE: dict[str, Callable[[dict[str, Any]], None]] = {
    "process": _end_process,
    "cgroup": lambda resource: end_control_group(resource["path"]),
    "netns": _remove_namespace,
    "mount": _unmount,
    "directory": _remove_directory,
}
