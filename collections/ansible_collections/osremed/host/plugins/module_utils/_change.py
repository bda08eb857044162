# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guarded change of one file: expect -> plan -> validate -> register undo -> replace -> reload, or as it was before."""

from __future__ import annotations

import base64
import contextlib
import os
from typing import Any, Callable, NamedTuple

from ansible_collections.osremed.host.plugins.module_utils import _undo
from ansible_collections.osremed.host.plugins.module_utils._agent import Deadline, require_keeper
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import put_state, read_state
from ansible_collections.osremed.host.plugins.module_utils._reload import (
    find_daemon,
    reload_and_wait,
    send_hangup,
)

VALIDATE_TIMEOUT_S = 60.0


class Request(NamedTuple):
    """`plan` makes the wanted FileState from the present one. `expect_sha256` None means: whatever is there.
    `scratch_dir` is asked for a directory only when one is needed."""

    path: str
    plan: Callable[[Any], Any]
    expect_sha256: Any
    validate: list
    undo_id: str
    undo_dir: str
    confirm_within_s: float
    status_file: str
    reload: str
    reload_timeout_s: float
    scratch_dir: Callable[[], str]
    agent_status: str = ""

    @property
    def deadline(self):
        return Deadline(self.confirm_within_s, self.undo_dir, self.agent_status)


def carry_out(request, check_mode):
    """The module's return values. With `check_mode` nothing is written and no daemon is asked. ActionFailed says what was
    refused; the file then holds what it held before."""
    if check_mode:
        return _carry_out(request, check_mode)
    with _undo.locked(request.undo_dir, os.path.dirname(request.path), create=bool(request.undo_id)):
        return _carry_out(request, check_mode)


def _carry_out(request, check_mode):
    before = read_state(request.path)
    after = request.plan(before)
    _expect(request, before, after)
    daemon, why_none = _find_daemon(request)
    same = before == after or not (before.exists or after.exists)
    result = {
        "changed": not same,
        "previous": {} if same else _previous_arguments(request, before, after),
        "applied_sha256": after.sha256,
        "previous_sha256": before.sha256,
        "as_seen": {"expect_sha256": before.sha256},
        "reloaded": False,
        "undo_registered": False,
        "evidence": ["before: %s" % _describe(before), "after: %s" % _describe(after)],
        "diff": _diff(request.path, before, after),
    }
    if not same:
        kept = require_keeper(request.deadline, [request.path])
        result["evidence"] += [kept] if kept else []
        _require_directory(request, after, check_mode, result["evidence"])
        _validate(request, after, check_mode, result["evidence"])
        if not check_mode:
            _write(request, before, after, result)
    elif request.undo_id:
        _recall(request, after, result)
    if daemon is None:
        result["evidence"].append("not reloaded: %s" % why_none)
    elif not same or (after.exists or daemon.optional) and daemon.policy_sha256 != after.sha256:
        result["changed"] = True
        if check_mode:
            result["evidence"].append("would reload pid %d" % daemon.pid)
        else:
            _reload(request, daemon, before, after, result)
    else:
        result["evidence"].append("not reloaded: pid %d has this policy already" % daemon.pid)
    return result


def _expect(request, before, after):
    if request.expect_sha256 is None or before.sha256 == request.expect_sha256 or before.same_content(after):
        return
    raise ActionFailed(
        "%s was changed by someone else since: expected %s, found %s. It was left alone"
        % (request.path, request.expect_sha256 or "no file", before.sha256 or "no file"),
        conflict=True,
        expected_sha256=request.expect_sha256,
        previous_sha256=before.sha256,
    )


def _find_daemon(request):
    if request.reload == "never":
        return None, "reload is never"
    daemon, why_none = find_daemon(request.status_file, request.path)
    if daemon is None and request.reload == "required":
        raise ActionFailed("reload is required, but %s. Nothing changed" % why_none)
    return daemon, why_none


def _previous_arguments(request, before, after):
    arguments = {
        "path": request.path,
        "expect_sha256": after.sha256,
        "status_file": request.status_file,
        "reload": "never" if request.reload == "never" else "auto",  # a dead daemon must not stop an undo
        "state": "present" if before.exists else "absent",
    }
    if before.exists:
        arguments["content_b64"] = base64.b64encode(before.data).decode("ascii")
        arguments["mode"] = "%04o" % before.mode
    return arguments


def _describe(state):
    if not state.exists:
        return "no file"
    return "sha256 %s, %d bytes, mode %04o, owner %d:%d" % (
        state.sha256,
        len(state.data),
        state.mode,
        state.uid,
        state.gid,
    )


def _diff(path, before, after):
    header = {}
    for key, state in (("before_header", before), ("after_header", after)):
        header[key] = "%s (mode %04o)" % (path, state.mode) if state.exists else "%s (absent)" % path
    return dict(header, before=before.data.decode("utf-8", "replace"), after=after.data.decode("utf-8", "replace"))


def _require_directory(request, after, check_mode, evidence):
    directory = os.path.dirname(request.path)
    if not after.exists or os.path.isdir(directory):
        return
    if not check_mode:
        raise ActionFailed("directory %s does not exist: create it first (the roles do)" % directory)
    evidence.append("directory %s does not exist yet" % directory)


def _validate(request, after, check_mode, evidence):
    """Runs the validator on the new bytes in a scratch file. A validator that is not installed is a failure, except in
    check mode, where it may come with an earlier task."""
    if not request.validate or not after.exists:
        return
    scratch = os.path.join(request.scratch_dir(), os.path.basename(request.path))
    with open(scratch, "wb") as stream:
        stream.write(after.data)
    try:
        argv = [word.replace("%s", scratch) for word in request.validate]
        ended = run_bounded(argv, VALIDATE_TIMEOUT_S, 64 << 10)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
    shown = " ".join(request.validate)
    if check_mode and _is_not_installed(request, ended):
        evidence.append("not validated: %s is not installed yet" % shown)
        return
    said = (ended.stderr_text() or ended.stdout_text()).replace(scratch, request.path).strip()
    if ended.why_no_code or ended.code != 0:
        why = ended.why_no_code or "exit code %d" % ended.code
        raise ActionFailed(
            "the new policy was rejected by %s (%s): %s. Nothing changed" % (shown, why, said or "no message"),
            rejected=True,
            rejected_sha256=after.sha256,
        )
    evidence.append("validated by %s" % shown)


def _is_not_installed(request, ended):
    """An interpreter answers for a script that is not there, so absolute paths among the words are looked at too."""
    words = [word for word in request.validate if os.path.isabs(word) and "%s" not in word]
    return ended.code is None and not ended.timed_out or not all(os.path.exists(word) for word in words)


def _write(request, before, after, result):
    if request.undo_id:
        record = _undo.make_record(
            request.undo_id,
            request.path,
            before,
            after.sha256,
            request.confirm_within_s,
            "" if request.reload == "never" else request.status_file,
        )
        record = _undo.register(request.undo_dir, record)
        result["undo_registered"] = True
        result["deadline_ns"] = record["deadline_ns"]
        result["evidence"].append("undo %s registered in %s" % (request.undo_id, request.undo_dir))
    try:
        put_state(request.path, after)
    except OSError as error:
        changed = read_state(request.path) != before
        if not changed:
            _withdraw(request)
        raise ActionFailed("%s was not written: %s" % (request.path, error.strerror), changed=changed)


def _withdraw(request):
    """A change that did not happen needs no undo."""
    if request.undo_id:
        _undo.withdraw(request.undo_dir, request.undo_id)


def _recall(request, after, result):
    """The file is as wanted because an earlier call with this undo id made it so: say again how to undo that."""
    record = _undo.load_record(request.undo_dir, request.undo_id)
    part = _undo.file_of(record) if record else None
    if part is None or (part["path"], part["applied_sha256"]) != (request.path, after.sha256):
        return
    result["previous"] = _previous_arguments(request, _undo.previous_of(part), after)
    result["undo_registered"] = True
    result["deadline_ns"] = record["deadline_ns"]
    result["evidence"].append("undo %s was registered by an earlier call" % request.undo_id)


def _reload(request, daemon, before, after, result):
    if not after.exists and not daemon.optional:
        send_hangup(daemon)
        result["evidence"].append("pid %d was told; without a file it keeps its last policy until it ends" % daemon.pid)
        return
    answer = reload_and_wait(daemon, request.status_file, after.sha256, request.reload_timeout_s)
    told = "%s after %.3f s: %s" % (answer.kind, answer.waited_s, answer.detail)
    if answer.kind == "loaded":
        result["reloaded"] = True
        result["evidence"].append("reloaded: %s" % told)
        return
    if before != after:
        _restore(request, before, told)
        send_hangup(daemon)  # it kept the old policy; this lets it see that the file agrees again
        told += ". The old file was restored"
    raise ActionFailed(
        "the daemon did not take the new policy: %s" % told,
        rejected=answer.kind == "rejected",
        reload_answer=answer.kind,
        restored=before != after,
        rejected_sha256=after.sha256 if answer.kind == "rejected" else "",
    )


def _restore(request, before, told):
    try:
        put_state(request.path, before)
    except OSError as error:
        raise ActionFailed(
            "the daemon did not take the new policy (%s) and %s could not be restored: %s. The undo record, if one was "
            "asked for, is in place" % (told, request.path, error.strerror),
            changed=True,
        )
    _withdraw(request)
