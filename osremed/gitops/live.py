"""The live set: one directory per set, named by its content; `live` is a link that is old or new and never between.

<home>/sets/<sha256>/runbooks/<name>/runbook.yaml …   a set, complete before it has its name
<home>/live -> sets/<sha256>                          what the dispatcher loads
<home>/status.json                                    what the last look found
<home>/history                                        journal: every swap, why, and by whom
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from osremed.core.errors import BadInput, NotFound
from osremed.core.files import exclusive_lock, fsync_directory, read_bytes, write_atomic
from osremed.core.journal import Journal
from osremed.core.record import record
from osremed.gitops.tree import Files, digest_of
from osremed.runbook.rulefile import read_inside
from osremed.runbook.ruleset import history_of

_DIGEST = re.compile(r"[0-9a-f]{64}")


@record
class Home:
    """Everything of GitOps lies below `directory`."""

    directory: str

    def path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)

    @property
    def live(self) -> str:
        return self.path("live")

    @property
    def runbooks(self) -> str:
        return self.path("live", "runbooks")

    @property
    def mirror(self) -> str:
        return self.path("mirror.git")

    @property
    def status(self) -> str:
        return self.path("status.json")

    @property
    def hosts(self) -> str:
        return self.path("hosts.json")

    @property
    def suspended(self) -> str:
        return self.path("suspended.json")


@contextlib.contextmanager
def alone(home: Home) -> Iterator[None]:
    """One reconciler at a time; what a killed one left half written is swept. BlockingIOError if there is another."""
    os.makedirs(home.path("sets"), mode=0o755, exist_ok=True)
    with exclusive_lock(home.path("lock"), wait=False):
        for name in os.listdir(home.path("sets")):
            if not _DIGEST.fullmatch(name):
                shutil.rmtree(home.path("sets", name))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(home.path(".live"))
        yield


def is_busy(home: Home) -> bool:
    """Whether a reconciler is at work now. Asks the kernel (proc_locks(5)) and takes no lock: a taken one, however
    short, would turn away the reconciler that comes just then."""
    try:
        inode = os.stat(home.path("lock")).st_ino
        held = read_bytes("/proc/locks").decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return False
    return any(line.split()[1] == "FLOCK" and line.split()[-3].endswith(f":{inode}") for line in held)


def live_digest(home: Home) -> str:
    """The name of the live set; "" before the first."""
    try:
        name = os.path.basename(os.readlink(home.live))
    except FileNotFoundError:
        return ""
    except OSError as error:
        hint = "move it away; the link is made by: osremed gitops apply"
        raise BadInput(f"is not the link to the live set: {error.strerror}", where=home.live, hint=hint) from error
    return name if _DIGEST.fullmatch(name) else ""


def read_set(directory: str) -> Files:
    """The files of a set as they are on the disk. BadInput if something else lies there, a link above all."""
    files = {}
    for folder, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                raise BadInput("a link in a set of rules", where=path, hint="osremed gitops apply --repair")
        for name in names:
            path = os.path.join(folder, name)
            files[os.path.relpath(path, directory)] = read_inside(path, directory)
    return files


def stage(home: Home, files: Files) -> str:
    """Writes a set under a name that nobody reads, durable; its directory."""
    directory = home.path("sets", f".staged-{os.getpid()}")
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory, 0o755)
    for path, content in files.items():
        target = os.path.join(directory, path)
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        with open(target, "xb", opener=_read_only) as out:
            out.write(content)
    os.sync()  # once for all of them: an fsync each costs 10 ms a file on a plain disk
    return directory


def _read_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o444)


def adopt(home: Home, staged: str, files: Files) -> str:
    """Gives a staged set its name; that name. A set of the same name stays if it is still what its name says."""
    name = digest_of(files)
    target = home.path("sets", name)
    if os.path.isdir(target) and _is_whole(target, name):
        shutil.rmtree(staged)
        return name
    if os.path.isdir(target):
        os.rename(target, home.path("sets", f".damaged-{name}-{time.time_ns()}"))
    os.rename(staged, target)
    fsync_directory(home.path("sets"))
    return name


def _is_whole(directory: str, name: str) -> bool:
    try:
        return digest_of(read_set(directory)) == name
    except (BadInput, OSError):
        return False


def swap(home: Home, name: str) -> None:
    """Makes a set the live one: after return it is, after a crash the old or the new one is."""
    if not os.path.isdir(home.path("sets", name)):
        raise NotFound(f"no set {name[:12]}", where=home.path("sets"))
    temporary = home.path(".live")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(os.path.join("sets", name), temporary)
    os.rename(temporary, home.live)
    fsync_directory(home.directory)


def drift(home: Home) -> str:
    """Why the live files are not what their set's name says; "" if they are."""
    name = live_digest(home)
    if not name:
        return ""
    try:
        found = digest_of(read_set(home.path("sets", name)))
    except (BadInput, OSError) as error:
        return str(error)
    return "" if found == name else f"the files of set {name[:12]} were changed on this machine"


def prune(home: Home, keep: int) -> list[str]:
    """Removes all but the live set and the latest `keep` of the history; their names."""
    wanted = {live_digest(home), *[entry["set"] for entry in history(home)[-keep:]]}
    gone = [name for name in os.listdir(home.path("sets")) if name not in wanted]
    for name in gone:
        shutil.rmtree(home.path("sets", name))
    return gone


def history(home: Home) -> list[Mapping[str, Any]]:
    """Every swap, oldest first."""
    return history_of(home.directory)


def remember(home: Home, entry: Mapping[str, Any]) -> None:
    """Appends to the history, durable."""
    journal = Journal(home.path("history"))
    try:
        journal.append({"at_ns": time.time_ns(), **entry})
    finally:
        journal.close()


def read_json(path: str) -> Mapping[str, Any]:
    """The object in a file of ours; {} if there is none."""
    try:
        found: Mapping[str, Any] = json.loads(read_bytes(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read: {error}", where=path) from error
    return found


def write_json(path: str, document: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(document, indent=2).encode("utf-8"), mode=0o644)
