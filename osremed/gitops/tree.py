"""The files of a commit, read from git's objects and never from a checkout: no links, no submodules, no surprises."""

from __future__ import annotations

import re
from collections.abc import Mapping

from osremed.core.canonical import digest, sha256_hex
from osremed.core.errors import BadInput
from osremed.gitops.document import Limits
from osremed.gitops.git import Repository, TreeEntry, list_tree, read_blobs

#: A path part of the rules: what every file system, shell and page shows as what it is.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,126}")
ROOTS = ("runbooks/", "policies/", "prefect/", "environments/")
_KINDS = {"120000": "a symbolic link", "160000": "a submodule"}

Files = Mapping[str, bytes]  #: path inside the rules -> content


def digest_of(files: Files) -> str:
    """SHA-256 over every path and content: the name of this set of rules."""
    return digest({path: sha256_hex(content) for path, content in files.items()})


def read_tree(mirror: Repository, commit: str, folder: str, limits: Limits) -> Files:
    """The rules below `folder`: what lies in the ROOTS. Other files of the repository are not read.

    BadInput for links, submodules, names outside [A-Za-z0-9._-], two names equal but for case, too many or too much."""
    prefix = folder.strip("/").encode("utf-8") + b"/" if folder.strip("/") else b""
    wanted: list[tuple[str, TreeEntry]] = []
    total = 0
    for entry in list_tree(mirror, commit, max_files=limits.files):
        inside = entry.path[len(prefix) :] if entry.path.startswith(prefix) else b""
        name = inside.decode("utf-8", "backslashreplace")
        if not name.startswith(ROOTS):
            continue
        _check(name, entry, limits)
        total += entry.size_bytes
        wanted.append((name, entry))
    if total > limits.total_bytes:
        raise BadInput(f"{total} bytes, at most {limits.total_bytes} are read", hint="raise limits.total_bytes")
    _check_names([name for name, _entry in wanted])
    contents = read_blobs(mirror, [entry.object_id for _name, entry in wanted], max_bytes=limits.total_bytes)
    return {name: content for (name, _entry), content in zip(wanted, contents, strict=True)}


def _check(name: str, entry: TreeEntry, limits: Limits) -> None:
    if entry.mode in _KINDS:
        raise BadInput(f"{_KINDS[entry.mode]} has no place among rules", where=name, hint="commit the file itself")
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise BadInput("a path of rules is made of letters, digits, '.', '_' and '-'", where=name, hint="rename it")
    if entry.size_bytes > limits.file_bytes:
        what = f"{entry.size_bytes} bytes, at most {limits.file_bytes} are read"
        raise BadInput(what, where=name, hint="raise limits.file_bytes")


def _check_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise BadInput(f"differs from {other} in case only", where=name, hint="rename one of them")
