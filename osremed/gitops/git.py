"""The `git` program on a short lead: no configuration but ours, no hooks, no prompts, no checkout, bounded time."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from osremed.core.errors import BadInput, Unavailable
from osremed.core.record import field, record

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
#: A name that `git` cannot take for an option or a revision expression (git-check-ref-format(1)).
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")
_FETCHED = "refs/osremed/fetched"
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "fetch.fsckObjects=true",
    "transfer.fsckObjects=true",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "http.lowSpeedLimit=1",
    "maintenance.auto=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.ssh.allow=always",
    "protocol.file.allow=always",
    "protocol.git.allow=never",
    "protocol.ext.allow=never",
)


class GitFailed(Unavailable):
    """git ended with an error, or did not end in time."""

    code = "unavailable.git"


@record
class TreeEntry:
    """One file of a commit as git has it; `mode` is git's (100644, 100755, 120000, 160000)."""

    path: bytes
    mode: str
    object_id: str
    size_bytes: int


@record
class Repository:
    """A bare mirror in `directory`, used by this program alone."""

    directory: str
    timeout_s: float = 60.0
    ssh_command: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    max_file_bytes: int = 0  #: of any file that git writes, a pack among them; 0: no limit

    def run(self, *arguments: str, stdin: bytes = b"", max_bytes: int = 64 << 20) -> bytes:
        """What git prints. GitFailed with its own last line otherwise."""
        return self.talk(*arguments, stdin=stdin, max_bytes=max_bytes)[0]

    def talk(self, *arguments: str, stdin: bytes = b"", max_bytes: int = 64 << 20) -> tuple[bytes, bytes]:
        """`run` with what git says on standard error beside it."""
        argv = ["git", "--no-pager", "--git-dir", self.directory]
        given = (f"{key}={value}" for key, value in self.settings.items())
        for setting in (*_SETTINGS, f"http.lowSpeedTime={self._patience_s}", *given):
            argv += ["-c", setting]
        code, out, err = self._ended([*argv, *arguments], stdin, arguments[0])
        if code != 0:
            said = err.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise GitFailed(f"git {arguments[0]}: {said[-1]}", where=self.directory)
        if len(out) > max_bytes:
            raise BadInput(f"git {arguments[0]} gave {len(out)} bytes, at most {max_bytes} are read")
        return out, err

    def _ended(self, argv: Sequence[str], stdin: bytes, word: str) -> tuple[int, bytes, bytes]:
        """(exit code, output, errors) of git; when it is not waited for any longer, those it started end with it."""
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment(),
                preexec_fn=self._limit,  # noqa: PLW1509  one system call, and no lock is taken
                start_new_session=True,
            )
        except FileNotFoundError:
            raise Unavailable("git is not installed", hint="apt-get install git") from None
        with process:
            try:
                out, err = process.communicate(stdin, self.timeout_s)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    what = f"git {word} did not end within {self.timeout_s:g} s"
                    hint = "raise `timeout`, or look at the network"
                    raise GitFailed(what, where=self.directory, hint=hint) from None
                raise
        return process.returncode, out, err

    @property
    def _patience_s(self) -> int:
        """How long a silent network is borne: as long as git itself. It is for what outlives this program."""
        return math.ceil(self.timeout_s)

    def _limit(self) -> None:
        if self.max_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.max_file_bytes, self.max_file_bytes))

    def _environment(self) -> Mapping[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "SSH_AUTH_SOCK", "TMPDIR") if name in os.environ}
        ours = {
            "HOME": self.directory,
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_ATTR_NOSYSTEM": "1",
            "GNUPGHOME": os.path.join(self.directory, "gnupg"),
        }
        alive = {"ConnectTimeout": self._patience_s, "ServerAliveInterval": self._patience_s, "ServerAliveCountMax": 1}
        ssh = " ".join(["ssh", *(f"-o {option}={value}" for option, value in alive.items())])
        return {**kept, **ours, "GIT_SSH_COMMAND": self.ssh_command or ssh}


def open_mirror(
    directory: str,
    *,
    timeout_s: float,
    ssh_command: str = "",
    settings: Mapping[str, str] | None = None,
    max_file_bytes: int = 0,
) -> Repository:
    """The mirror, made empty if there is none."""
    mirror = Repository(directory, timeout_s, ssh_command, settings or {}, max_file_bytes)
    if not os.path.isdir(os.path.join(directory, "objects")):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        mirror.run("init", "--quiet", "--bare", "--template=", directory)
    return mirror


def fetch(mirror: Repository, url: str, ref: str, *, depth: int = 0) -> str:
    """The commit (of a tag: the tag object) that `ref` names at `url` now. `depth` 0 fetches the whole history."""
    if not _REF.fullmatch(ref) or ".." in ref or ref.endswith((".lock", "/", ".")):
        raise BadInput(f"{ref!r} is not a branch or tag", hint="write for example main, or refs/tags/v1.2")
    if url.startswith("-"):
        raise BadInput(f"{url!r} is not the address of a repository")
    arguments = ["fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"]
    if depth:
        arguments.append(f"--depth={depth}")
    try:
        mirror.run(*arguments, "--", url, f"+{ref}:{_FETCHED}")
    except GitFailed:
        _sweep(mirror)
        raise
    return resolve(mirror, _FETCHED)


def _sweep(mirror: Repository) -> None:
    """What a fetch that broke off has left: git leaves it for two weeks, and there is a fetch every minute."""
    for pattern in ("pack/tmp_*", "??/tmp_obj_*", "tmp_objdir-incoming-*"):
        for path in glob.glob(os.path.join(glob.escape(mirror.directory), "objects", pattern)):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)


def resolve(mirror: Repository, name: str) -> str:
    """The object id of a ref or of an id in the mirror."""
    found = mirror.run("rev-parse", "--verify", "--quiet", "--end-of-options", name).decode("ascii", "replace").strip()
    if not _COMMIT.fullmatch(found):
        raise GitFailed(f"git knows no {name}", where=mirror.directory)
    return found


def commit_of(mirror: Repository, object_id: str) -> str:
    """The commit an id means: itself, or what a tag points to."""
    return resolve(mirror, f"{object_id}^{{commit}}")


def has_commit(mirror: Repository, commit: str) -> bool:
    try:
        mirror.run("cat-file", "-e", f"{commit}^{{commit}}")
    except GitFailed:
        return False
    return True


def is_ancestor(mirror: Repository, older: str, newer: str) -> bool:
    """Whether `newer` only adds to `older`."""
    base = mirror.run("rev-list", "--max-count=1", older, f"^{newer}")
    return not base.strip()


def commits_between(mirror: Repository, older: str, newer: str) -> tuple[str, ...]:
    """Every commit reachable from `newer` and not from `older` (empty: only `newer` itself), oldest first."""
    arguments = ["rev-list", "--reverse", "--topo-order"]
    arguments += [newer, f"^{older}"] if older else ["--max-count=1", newer]
    return tuple(mirror.run(*arguments).decode("ascii").split())


def subject_of(mirror: Repository, commit: str) -> str:
    """The first line of the message: foreign text."""
    return mirror.run("log", "-1", "--format=%s", commit).decode("utf-8", "replace").strip()[:200]


def list_tree(mirror: Repository, commit: str, *, max_files: int) -> tuple[TreeEntry, ...]:
    """Every file of the commit. BadInput above `max_files`."""
    output = mirror.run("ls-tree", "-r", "-z", "-l", "--full-tree", commit)
    lines = [line for line in output.split(b"\0") if line]
    if len(lines) > max_files:
        raise BadInput(
            f"{len(lines)} files, at most {max_files} are read", where=commit[:12], hint="raise limits.files"
        )
    return tuple(_entry(line) for line in lines)


def _entry(line: bytes) -> TreeEntry:
    head, _tab, path = line.partition(b"\t")
    mode, kind, object_id, size = head.decode("ascii").split()
    return TreeEntry(path, mode, object_id, int(size) if kind == "blob" else 0)


def read_blobs(mirror: Repository, object_ids: Sequence[str], *, max_bytes: int) -> Iterator[bytes]:
    """The contents in the order asked for."""
    asked = "".join(f"{object_id}\n" for object_id in object_ids).encode("ascii")
    output = mirror.run("cat-file", "--batch", stdin=asked, max_bytes=max_bytes + 200 * len(object_ids))
    at = 0
    for object_id in object_ids:
        end = output.index(b"\n", at)
        head = output[at:end].decode("ascii", "replace").split()
        if len(head) != 3 or head[1] != "blob":
            raise GitFailed(f"object {object_id[:12]} is {' '.join(head[1:]) or 'missing'}", where=mirror.directory)
        size = int(head[2])
        yield output[end + 1 : end + 1 + size]
        at = end + size + 2
