"""What is registered before a change: `<undo>/<undo_id>.json`, read with suspicion."""

from __future__ import annotations

import base64
import json
import os
import re
from typing import Any

from osremed.core.errors import BadInput, NotFound, Unavailable
from osremed.core.files import read_bytes
from osremed.core.record import record

SUFFIX, CONFLICT_SUFFIX = ".json", ".conflict"
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"(?:[0-9a-f]{64})?")  # empty: the change removed the file
_UNIT = re.compile(r"(?:[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]{0,250}\.(?:service|target))?")
_MAX_VALUES, _MAX_VALUE_CHARACTERS = 1000, 4096


@record
class Previous:
    """The file before the change; all but `exists` are empty when there was none."""

    exists: bool
    content: bytes
    mode: int
    uid: int
    gid: int


@record
class FileChange:
    path: str
    previous: Previous
    applied_sha256: str


@record
class LinkChange:
    """A symbolic link that was pointed elsewhere, such as `current` of a release. Targets are as in the link; "" is no
    link. `unit`: the systemd unit that is to run what it points to, or ""."""

    path: str
    previous: str
    applied: str
    unit: str


@record
class ValueChange:
    """One file of the kernel's that holds one value: a sysctl, a limit of a control group, an oom_score_adj."""

    path: str
    previous: str
    applied: str


@record
class Guard:
    """The values count only while this process lives; without it there is nothing to take back."""

    pid: int
    start_time_ticks: int


@record
class UndoRecord:
    """`deadline_ns` is wall time, 0 for none. `reload_status` names the status file of the daemon to be told, or "".
    `values` are in the order in which they were written."""

    undo_id: str
    file: FileChange | None
    values: tuple[ValueChange, ...]
    guard: Guard | None
    deadline_ns: int
    reload_status: str
    created_ns: int
    link: LinkChange | None = None

    @property
    def path(self) -> str:
        """What the change is known by: its file or link, else the first of its values."""
        about = self.file or self.link or self.values[0]
        return about.path

    @property
    def applied_sha256(self) -> str:
        return self.file.applied_sha256 if self.file else ""


@record
class Registered:
    """What the undo directory holds. `damaged`: file and why, for records that cannot be understood."""

    pending: tuple[UndoRecord, ...]
    conflicts: tuple[str, ...]
    damaged: tuple[str, ...]


def undo_from_json(document: Any, *, where: str = "undo record") -> UndoRecord:
    """The record, every field checked. BadInput names the field."""
    try:
        kind = _typed(document, "kind", str)
        if kind not in ("file", "values", "link"):
            raise ValueError(f"kind {kind!r} is not known")
        return UndoRecord(
            undo_id=_matched(document, "undo_id", _ID),
            file=_file(None if kind == "link" else document if kind == "file" else document.get("file")),
            link=_link(document) if kind == "link" else None,
            values=_values(document["values"]) if kind == "values" else (),
            guard=_guard(document.get("guard")) if kind == "values" else None,
            deadline_ns=_typed(document, "deadline_ns", int),
            reload_status=_typed(document, "reload_status", str),
            created_ns=_typed(document, "created_ns", int),
        )
    except KeyError as error:
        raise BadInput(f"not an undo record: no {error.args[0]!r}", where=where) from error
    except (TypeError, ValueError) as error:
        raise BadInput(f"not an undo record: {error}", where=where) from error


def _link(document: Any) -> LinkChange:
    previous, applied = _target(document, "previous"), _target(document, "applied")
    if previous == applied:
        raise ValueError(f"the link pointed to {applied!r} before and after")
    return LinkChange(_absolute(document), previous, applied, _matched(document, "unit", _UNIT))


def _target(document: Any, key: str) -> str:
    """Beside the link or below it, never above it."""
    target = _text(document, key)
    if target and (os.path.isabs(target) or ".." in target.split("/")):
        raise ValueError(f"{key} {target!r} leads out of the link's directory")
    return target


def _file(document: Any) -> FileChange | None:
    """A change of values may come with one file that keeps them over a restart, or with none."""
    if document is None:
        return None
    sha256 = _matched(document, "applied_sha256", _SHA256)
    return FileChange(_absolute(document), _previous(document["previous"]), sha256)


def _values(items: Any) -> tuple[ValueChange, ...]:
    if not isinstance(items, list) or not 1 <= len(items) <= _MAX_VALUES:
        raise ValueError(f"values is not a list of 1 to {_MAX_VALUES}")
    return tuple(ValueChange(_absolute(each), _text(each, "previous"), _text(each, "applied")) for each in items)


def _guard(document: Any) -> Guard | None:
    if document is None:
        return None
    return Guard(_typed(document, "pid", int), _typed(document, "start_time_ticks", int))


def _absolute(document: Any) -> str:
    path = _typed(document, "path", str)
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError(f"path {path!r} is not absolute")
    return str(path)


def _text(document: Any, key: str) -> str:
    value = _typed(document, key, str)
    if "\0" in value or len(value) > _MAX_VALUE_CHARACTERS:
        raise ValueError(f"{key} is not a value of the kernel's")
    return str(value)


def _typed(document: Any, key: str, kind: type) -> Any:
    value = document[key]
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise TypeError(f"{key} {value!r} is not {kind.__name__}")
    return value


def _matched(document: Any, key: str, pattern: re.Pattern[str]) -> str:
    value = _typed(document, key, str)
    if not pattern.fullmatch(value):
        raise ValueError(f"{key} {value!r} does not match {pattern.pattern}")
    return str(value)


def _previous(document: Any) -> Previous:
    if not _typed(document, "exists", bool):
        return Previous(False, b"", 0, 0, 0)
    content = base64.b64decode(_typed(document, "content_b64", str), validate=True)
    mode = _typed(document, "mode", int)
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"mode {mode!r} is not a file mode")
    return Previous(True, content, mode, _typed(document, "uid", int), _typed(document, "gid", int))


def list_undo(directory: str) -> Registered:
    """All records, oldest first. Nothing there is nothing registered; Unavailable without the right to look."""
    pending, conflicts, damaged = [], [], []
    for name in _names(directory):
        if name.endswith(CONFLICT_SUFFIX):
            conflicts.append(name[: -len(CONFLICT_SUFFIX)])
            continue
        try:
            pending.append(load_undo(directory, name[: -len(SUFFIX)]))
        except NotFound:  # confirmed meanwhile
            continue
        except BadInput as error:
            damaged.append(str(error))
    pending.sort(key=lambda each: (each.created_ns, each.undo_id))
    return Registered(tuple(pending), tuple(conflicts), tuple(damaged))


def _names(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise Unavailable("the undo records cannot be read", where=directory, hint="run as root") from error
    return sorted(name for name in names if name.endswith((SUFFIX, CONFLICT_SUFFIX)) and not name.startswith("."))


def load_undo(directory: str, undo_id: str) -> UndoRecord:
    if not _ID.fullmatch(undo_id):
        raise BadInput(f"{undo_id!r} is not an undo id", hint="osremed agent undo list")
    path = os.path.join(directory, undo_id + SUFFIX)
    try:
        parsed = undo_from_json(json.loads(read_bytes(path)), where=path)
    except FileNotFoundError:
        hint = "it was confirmed, taken back, or never registered; see: osremed agent undo list"
        raise NotFound(f"no undo record {undo_id!r}", where=directory, hint=hint) from None
    except OSError as error:
        raise BadInput(f"cannot read the undo record: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not an undo record: {error}", where=path) from error
    if parsed.undo_id != undo_id:
        raise BadInput(f"the record says it is {parsed.undo_id!r}", where=path)
    return parsed
