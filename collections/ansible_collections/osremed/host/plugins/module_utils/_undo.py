# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo records: written to disk before a file changes, so that the host can take the change back by itself.

A record is <undo_dir>/<undo_id>.json. Confirming deletes it. Reverting puts the old bytes back only where the file still
holds what the change wrote; a file that someone else changed since is left alone and the record becomes
<undo_id>.conflict, for a human.

Kind `file` is one file. Kind `values` is a list of files of the kernel's with one value each, in the order in which they
were written, perhaps with a process they belong to (`guard`) and with one file that keeps them over a restart (`file`).
Kind `link` is one symbolic link that was pointed elsewhere, perhaps with the unit that runs what it points to."""

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
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import Change, Guard, revert_values
from ansible_collections.osremed.host.plugins.module_utils._link import UNIT, LinkChange, leads_out, revert_link

_MAX_VALUES, _MAX_VALUE_CHARACTERS = 1000, 4096
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
    """The record of a file as a document; `confirm_within_s` 0 means no deadline."""
    record = dict(file_part(path, before, applied_sha256), undo_id=undo_id, kind="file", reload_status=status_file)
    return _with_times(record, confirm_within_s)


def make_values_record(undo_id, changes, guard, file, confirm_within_s):
    """The record of values as a document. `file` is what `file_part` makes, or None."""
    record = {
        "undo_id": undo_id,
        "kind": "values",
        "values": [{"path": each.path, "previous": each.previous, "applied": each.applied} for each in changes],
        "reload_status": "",
    }
    if guard is not None:
        record["guard"] = {"pid": guard.pid, "start_time_ticks": guard.start_ticks}
    if file is not None:
        record["file"] = file
    return _with_times(record, confirm_within_s)


def make_link_record(undo_id, change, confirm_within_s):
    """The record of a LinkChange as a document."""
    return _with_times(dict(change._asdict(), undo_id=undo_id, kind="link", reload_status=""), confirm_within_s)


def file_part(path, before, applied_sha256):
    return {
        "path": path,
        "previous": {
            "exists": before.exists,
            "content_b64": base64.b64encode(before.data).decode("ascii"),
            "mode": before.mode,
            "uid": before.uid,
            "gid": before.gid,
        },
        "applied_sha256": applied_sha256,
    }


def _with_times(record, confirm_within_s):
    now_ns = time.time_ns()
    deadline_ns = now_ns + int(confirm_within_s * 1e9) if confirm_within_s else 0
    return dict(record, deadline_ns=deadline_ns, created_ns=now_ns)


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
            and isinstance(record["reload_status"], str)
            and _is_whole(record["deadline_ns"])
            and _is_whole(record["created_ns"])
            and _is_well_formed(record)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ActionFailed("%s is not an undo record: %r" % (path, error))
    if not well_formed:
        raise ActionFailed("%s is not an undo record of a known kind for %r" % (path, undo_id))
    return record


def _is_whole(number):
    return isinstance(number, int) and not isinstance(number, bool)


def _is_well_formed(record):
    if record["kind"] == "file":
        return _is_file_part(record)
    if record["kind"] == "link":
        return _is_link(record)
    values = record["values"]
    guard = record.get("guard")
    return (
        record["kind"] == "values"
        and isinstance(values, list)
        and 1 <= len(values) <= _MAX_VALUES
        and all(_is_value(each) for each in values)
        and (guard is None or (_is_whole(guard["pid"]) and _is_whole(guard["start_time_ticks"])))
        and (record.get("file") is None or _is_file_part(record["file"]))
    )


def _is_link(record):
    targets = (record["previous"], record["applied"])
    return (
        _is_path(record["path"])
        and targets[0] != targets[1]
        and all(len(target) <= _MAX_VALUE_CHARACTERS and not leads_out(target) for target in targets)
        and (record["unit"] == "" or UNIT.fullmatch(record["unit"]) is not None)
    )


def _is_path(path):
    return isinstance(path, str) and os.path.isabs(path) and "\0" not in path


def _is_value(item):
    texts = (item["previous"], item["applied"])
    return _is_path(item["path"]) and all(
        isinstance(text, str) and "\0" not in text and len(text) <= _MAX_VALUE_CHARACTERS for text in texts
    )


def _is_file_part(part):
    previous_of(part)
    return _is_path(part["path"]) and re.fullmatch("(?:[0-9a-f]{64})?", part["applied_sha256"]) is not None


def file_of(record):
    """The part about a file, or None: the whole record of kind file, `file` of kind values."""
    return record if record["kind"] == "file" else record.get("file")


def link_of(record):
    """The LinkChange, or None."""
    return LinkChange(*(record[name] for name in LinkChange._fields)) if record["kind"] == "link" else None


def changes_of(record):
    """The values of a record, in the order in which they were written."""
    return [Change(each["path"], each["path"], each["previous"], each["applied"]) for each in record.get("values", [])]


def guard_of(record):
    guard = record.get("guard")
    return None if guard is None else Guard(guard["pid"], guard["start_time_ticks"])


def about(record):
    """What the change is known by: its file or link, else the first of its values."""
    part = file_of(record) or link_of(record) and record
    return part["path"] if part else record["values"][0]["path"]


def same_change(one, other):
    """Whether two records take back the same change."""
    return _what_it_does(one) == _what_it_does(other)


def _what_it_does(record):
    """Equal for two records of the same change: all but what was before."""
    part = file_of(record)
    file = (part["path"], part["applied_sha256"]) if part else None
    link = link_of(record)
    return (
        file,
        link and link._replace(previous=""),
        sorted((each.path, each.applied) for each in changes_of(record)),
        guard_of(record),
    )


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
        if not same_change(present, record):
            raise ActionFailed(
                "undo id %r is taken by another change of %s: nothing changed" % (record["undo_id"], about(present))
            )
        record = dict(present, deadline_ns=record["deadline_ns"], reload_status=record["reload_status"])
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


def _without_record(undo_dir, undo_id):
    return "conflict" if held_conflict(undo_dir, undo_id) else "absent"


def confirm(undo_dir, undo_id, check_mode):
    """confirmed, absent or conflict: keeps the change by forgetting how to undo it."""
    record = load_record(undo_dir, undo_id)
    if record is None:
        return _without_record(undo_dir, undo_id)
    if check_mode:
        return "confirmed"
    with locked(undo_dir, os.path.dirname(about(record))):
        return "confirmed" if withdraw(undo_dir, undo_id) else _without_record(undo_dir, undo_id)


def revert(undo_dir, undo_id, check_mode, follow=None):
    """(outcome, record, before, after): takes back what is still ours under the lock, does what must `follow(record,
    outcome, after)` and removes the record, or sets it aside on a conflict. What raises leaves the record for the next
    try. `record` is None when there is none. Values are shown as a text in `before` and `after`."""
    record = load_record(undo_dir, undo_id)
    if record is None:
        return _without_record(undo_dir, undo_id), None, ABSENT, ABSENT
    with contextlib.nullcontext() if check_mode else locked(undo_dir, os.path.dirname(about(record))):
        record = load_record(undo_dir, undo_id)
        if record is None:  # the host took it back while we waited for the lock
            return _without_record(undo_dir, undo_id), None, ABSENT, ABSENT
        outcome, before, after = _revert_parts(record, check_mode)
        if not check_mode:
            if follow and outcome != "conflict":
                follow(record, outcome, after)
            _settle(undo_dir, undo_id, outcome)
        return outcome, record, before, after


def _revert_parts(record, check_mode):
    """(outcome, before, after) of the file or link and the values."""
    outcomes, before, after = [], ABSENT, ABSENT
    part, link = file_of(record), link_of(record)
    try:
        if part:
            outcome, before, after = _revert_file(part, check_mode)
            outcomes.append(outcome)
        if link:
            outcome, found = revert_link(link, check_mode)
            outcomes.append(outcome)
            before, after = _link_as_text(link, outcome, found)
    finally:  # a file that cannot be put back does not keep the values applied
        reverted = revert_values(changes_of(record), guard_of(record), check_mode)
    outcomes += [each[1] for each in reverted]
    if record["kind"] == "values":
        before, after = _as_text(reverted, before, after)
    return next((each for each in ("conflict", "restored") if each in outcomes), "nothing_to_do"), before, after


def _revert_file(part, check_mode):
    before, after = read_state(part["path"]), previous_of(part)
    outcome = decide(part, before)
    if outcome == "restored" and not check_mode:
        put_state(part["path"], after)
    return outcome, before, after


def _link_as_text(link, outcome, found):
    targets = (found, link.previous if outcome == "restored" else found)
    return [
        FileState(True, ("%s -> %s\n" % (link.path, target or "nothing")).encode("utf-8"), 0, 0, 0)
        for target in targets
    ]


def _as_text(reverted, file_before, file_after):
    lines = [[], []]
    for change, outcome, found in reverted:
        lines[0].append("%s = %s\n" % (change.path, found))
        lines[1].append("%s = %s\n" % (change.path, change.previous if outcome == "restored" else found))
    texts = ["".join(lines[0]).encode("utf-8") + file_before.data, "".join(lines[1]).encode("utf-8") + file_after.data]
    return [FileState(True, text, 0, 0, 0) for text in texts]


def _settle(undo_dir, undo_id, outcome):
    if outcome == "conflict":
        os.rename(record_path(undo_dir, undo_id), os.path.join(undo_dir, "%s.conflict" % undo_id))
        fsync_directory(undo_dir)
    else:
        withdraw(undo_dir, undo_id)
