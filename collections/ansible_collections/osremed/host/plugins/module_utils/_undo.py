# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo records: written to disk before a file changes, so that the host can take the change back by itself.

A record is <undo_dir>/<undo_id>.json. Confirming deletes it. Reverting puts the old bytes back only where the file still
holds what the change wrote; a file that someone else changed since is left alone and the record becomes
<undo_id>.conflict, for a human."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import time

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import (
    ABSENT,
    FileState,
    fsync_directory,
    lock_directory,
    lock_file,
    put_state,
    read_state,
)

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def record_path(undo_dir, undo_id):
    """Where the record lies. ActionFailed unless the id is a plain file name."""
    if not _ID.fullmatch(undo_id):
        raise ActionFailed("undo id %r: only letters, digits, . _ - and at most 128 of them" % undo_id)
    return os.path.join(undo_dir, "%s.json" % undo_id)


@contextlib.contextmanager
def locked(undo_dir, directory, create=False):
    """Holds the lock that the host's own agent takes when it reverts, and then that of the file's directory. What does not
    exist is not locked, unless `create` makes the undo directory."""
    if create:
        os.makedirs(undo_dir, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as held:
        if os.path.isdir(undo_dir):
            held.enter_context(lock_file(os.path.join(undo_dir, ".lock")))
        if os.path.isdir(directory):
            held.enter_context(lock_directory(directory))
        yield


def make_record(undo_id, path, before, applied_sha256, confirm_within_s, status_file):
    """The record as a document; `confirm_within_s` 0 means no deadline."""
    now_ns = time.time_ns()
    return {
        "undo_id": undo_id,
        "kind": "file",
        "path": path,
        "previous": {
            "exists": before.exists,
            "content_b64": base64.b64encode(before.data).decode("ascii"),
            "mode": before.mode,
            "uid": before.uid,
            "gid": before.gid,
        },
        "applied_sha256": applied_sha256,
        "deadline_ns": now_ns + int(confirm_within_s * 1e9) if confirm_within_s else 0,
        "reload_status": status_file,
        "created_ns": now_ns,
    }


def load_record(undo_dir, undo_id):
    """The record, its fields checked, or None if there is none. ActionFailed if it cannot be understood: then nothing may
    be concluded from it, and it stays where it is."""
    path = record_path(undo_dir, undo_id)
    state = read_state(path)
    if not state.exists:
        return None
    try:
        record = json.loads(state.data.decode("utf-8"))
        well_formed = (
            record["undo_id"] == undo_id
            and record["kind"] == "file"
            and os.path.isabs(record["path"])
            and isinstance(record["applied_sha256"], str)
            and isinstance(record["reload_status"], str)
            and isinstance(record["deadline_ns"], int)
        )
        previous_of(record)
    except (ValueError, KeyError, TypeError) as error:
        raise ActionFailed("%s is not an undo record: %r" % (path, error))
    if not well_formed:
        raise ActionFailed("%s is not an undo record of kind file for %r" % (path, undo_id))
    return record


def previous_of(record):
    """The FileState to go back to."""
    previous = record["previous"]
    if not previous["exists"]:
        return ABSENT
    data = base64.b64decode(previous["content_b64"], validate=True)
    return FileState(True, data, int(previous["mode"]), int(previous["uid"]), int(previous["gid"]))


def register(undo_dir, record):
    """After return the record is on disk. The caller holds `locked(create=True)`. A record of the same
    id for the same change keeps its `previous`, the oldest value wins, and takes the new deadline; one for another change
    is ActionFailed."""
    present = load_record(undo_dir, record["undo_id"])
    if present is not None:
        if (present["path"], present["applied_sha256"]) != (record["path"], record["applied_sha256"]):
            raise ActionFailed(
                "undo id %r is taken by another change of %s: nothing changed" % (record["undo_id"], present["path"])
            )
        record = dict(record, previous=present["previous"], created_ns=present["created_ns"])
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    path = record_path(undo_dir, record["undo_id"])
    put_state(path, FileState(True, text.encode("utf-8"), 0o600, os.geteuid(), os.getegid()))
    fsync_directory(os.path.dirname(undo_dir))
    return record


def withdraw(undo_dir, undo_id):
    """True if there was a record and it is gone now."""
    try:
        os.unlink(record_path(undo_dir, undo_id))
    except FileNotFoundError:
        return False
    fsync_directory(undo_dir)
    return True


def decide(record, current):
    """What a revert has to do: restored, nothing_to_do or conflict. Pure."""
    previous = previous_of(record)
    if current.sha256 == record["applied_sha256"]:
        return "nothing_to_do" if current == previous else "restored"
    return "nothing_to_do" if current.same_content(previous) else "conflict"


def held_conflict(undo_dir, undo_id):
    """Path of the record that an earlier revert set aside, or an empty string."""
    path = record_path(undo_dir, undo_id)[: -len(".json")] + ".conflict"
    return path if os.path.lexists(path) else ""


def confirm(undo_dir, undo_id, check_mode):
    """confirmed, absent or conflict: keeps the change by forgetting how to undo it."""
    record = load_record(undo_dir, undo_id)
    if record is None:
        return "conflict" if held_conflict(undo_dir, undo_id) else "absent"
    if check_mode:
        return "confirmed"
    with locked(undo_dir, os.path.dirname(record["path"])):
        return "confirmed" if withdraw(undo_dir, undo_id) else "absent"


def revert(undo_dir, undo_id, check_mode):
    """(outcome, record, before, after): carries out `decide` under the lock and removes the record, or sets it aside on a
    conflict. `record` is None when there is none."""
    record = load_record(undo_dir, undo_id)
    if record is None:
        outcome = "conflict" if held_conflict(undo_dir, undo_id) else "absent"
        return outcome, None, ABSENT, ABSENT
    path = record["path"]
    with contextlib.nullcontext() if check_mode else locked(undo_dir, os.path.dirname(path)):
        if load_record(undo_dir, undo_id) is None:  # the host took it back while we waited for the lock
            return "absent", None, ABSENT, ABSENT
        before, after = read_state(path), previous_of(record)
        outcome = decide(record, before)
        if check_mode:
            return outcome, record, before, after
        if outcome == "restored":
            put_state(path, after)
        if outcome == "conflict":
            os.rename(record_path(undo_dir, undo_id), os.path.join(undo_dir, "%s.conflict" % undo_id))
            fsync_directory(undo_dir)
        else:
            withdraw(undo_dir, undo_id)
        return outcome, record, before, after
