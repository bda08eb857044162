# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guarded change of values: plan -> expect -> register undo -> write, read back -> keep in a file; or as it was before."""

from __future__ import annotations

import errno
import os
from typing import Any, Callable, NamedTuple

from ansible_collections.osremed.host.plugins.module_utils import _undo
from ansible_collections.osremed.host.plugins.module_utils._agent import Deadline, deadline_of, require_keeper
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import put_state, read_state
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import VANISHED, read_value, write_value

HINTS = {
    errno.EACCES: "run as root",
    errno.EPERM: "run as root; lowering an oom_score_adj also needs CAP_SYS_RESOURCE",
    errno.EROFS: "the file system is mounted read-only, as in a container: run on the host",
    errno.EINVAL: "the kernel does not take this value: look at its range and at the values it depends on",
    errno.EBUSY: "more is in use than the new limit allows: free some first or choose a higher limit",
}
UNDO_OPTIONS = dict(
    undo_id=dict(type="str"),
    undo_dir=dict(type="path", default="/var/lib/osremed/undo"),
    confirm_within=dict(type="float"),
    agent_status=dict(type="path", default="/run/osremed/agent.json"),
)


class FilePlan(NamedTuple):
    """The file that keeps the values over a restart, as FileStates."""

    path: str
    before: Any
    after: Any


class Plan(NamedTuple):
    """`changes`: every value that is to be so, in the order of writing, those that are so already too."""

    changes: list
    guard: Any = None
    file: Any = None
    evidence: tuple = ()


class Request(NamedTuple):
    """`plan` looks at the host and makes the Plan; it is called under the lock. `expect`: name -> the value that must be
    there unless the wanted one is. `lock_directory` is that of the file, or "" without one."""

    plan: Callable[[], Plan]
    expect: dict
    undo_id: str
    undo_dir: str
    deadline: Deadline
    lock_directory: str = ""


def check_undo_options(options):
    for key in ("undo_dir", "agent_status"):
        if not os.path.isabs(options[key]):
            raise ActionFailed("%s must be an absolute path, not %r" % (key, options[key]))
    if (options["confirm_within"] or 0.0) < 0:
        raise ActionFailed("confirm_within must not be less than 0 seconds")


def request_of(options, plan, expect, lock_directory=""):
    """The Request of a module with UNDO_OPTIONS."""
    check_undo_options(options)
    deadline = deadline_of(options)
    return Request(plan, expect or {}, options["undo_id"] or "", options["undo_dir"], deadline, lock_directory)


def carry_out(request, check_mode):
    """(return values, Plan whose `previous` values are the oldest known). ActionFailed says what was refused; the host
    then is as it was, unless the message says otherwise."""
    if check_mode:
        return _carry_out(request, check_mode)
    with _undo.locked(request.undo_dir, request.lock_directory, create=bool(request.undo_id)):
        return _carry_out(request, check_mode)


def _carry_out(request, check_mode):
    plan = request.plan()
    _expect(request, plan)
    changed = any(each.previous != each.applied for each in plan.changes) or _file_changes(plan)
    result = {
        "changed": changed,
        "values": {each.name: {"before": each.previous, "after": each.applied} for each in plan.changes},
        "as_seen": as_seen(plan),
        "undo_registered": False,
        "evidence": ["%s: %s -> %s" % (each.name, each.previous, each.applied) for each in plan.changes],
        "diff": diff_of(plan),
    }
    result["evidence"] += list(plan.evidence)
    if changed:
        kept = require_keeper(request.deadline, _touched(plan))
        result["evidence"] += [kept] if kept else []
    if check_mode:
        return result, plan
    if request.undo_id and (plan.changes or plan.file):
        plan = _register(request, plan, result) if changed else _recall(request, plan, result)
    if changed:
        _apply(request, plan, result)
    return result, plan


def _file_changes(plan):
    return plan.file is not None and plan.file.before != plan.file.after


def _touched(plan):
    """Every file that putting it back would write."""
    files = [plan.file.path] if _file_changes(plan) else []
    return files + [each.path for each in plan.changes if each.previous != each.applied]


def _expect(request, plan):
    for each in plan.changes:
        expected = request.expect.get(each.name)
        if expected is None or each.previous in (" ".join(str(expected).split()), each.applied):
            continue
        raise ActionFailed(
            "%s was changed by someone else since: expected %s, found %s. It was left alone"
            % (each.name, expected, each.previous),
            conflict=True,
        )


def as_seen(plan):
    """The options with which the same call refuses when the host is no longer as it is now."""
    options = {"expect": {each.name: each.previous for each in plan.changes}} if plan.changes else {}
    if plan.file is not None:
        options["expect_sha256"] = plan.file.before.sha256
    return options


def diff_of(plan):
    """Values as lines, then the file."""
    before = "".join("%s = %s\n" % (each.name, each.previous) for each in plan.changes)
    after = "".join("%s = %s\n" % (each.name, each.applied) for each in plan.changes)
    if plan.file is not None:
        before += "".join("%s: %s\n" % (plan.file.path, line) for line in _lines(plan.file.before))
        after += "".join("%s: %s\n" % (plan.file.path, line) for line in _lines(plan.file.after))
    return {"before": before, "after": after}


def _lines(state):
    return state.data.decode("utf-8", "replace").splitlines() if state.exists else []


def _record_of(request, plan):
    if not plan.changes:
        path, before, after = plan.file
        return _undo.make_record(request.undo_id, path, before, after.sha256, request.deadline.within_s, "")
    file = plan.file and _undo.file_part(plan.file.path, plan.file.before, plan.file.after.sha256)
    return _undo.make_values_record(request.undo_id, plan.changes, plan.guard, file, request.deadline.within_s)


def _register(request, plan, result):
    record = _undo.register(request.undo_dir, _record_of(request, plan))
    result["evidence"].append("undo %s registered in %s" % (request.undo_id, request.undo_dir))
    return _with_oldest(plan, record, result)


def _recall(request, plan, result):
    """All is as wanted because an earlier call with this undo id made it so: say again how to undo that."""
    record = _undo.load_record(request.undo_dir, request.undo_id)
    if record is None or not _undo.same_change(record, _record_of(request, plan)):
        return plan
    result["evidence"].append("undo %s was registered by an earlier call" % request.undo_id)
    return _with_oldest(plan, record, result)


def _with_oldest(plan, record, result):
    result["undo_registered"] = True
    result["deadline_ns"] = record["deadline_ns"]
    oldest = {each.path: each.previous for each in _undo.changes_of(record)}
    file = plan.file
    if file is not None:
        file = file._replace(before=_undo.previous_of(_undo.file_of(record)))
    return plan._replace(changes=[each._replace(previous=oldest[each.path]) for each in plan.changes], file=file)


def _apply(request, plan, result):
    """Writes what is not so yet and believes only what it reads back."""
    written = 0
    try:
        for each in plan.changes:
            if read_value(each.path) != each.applied:
                _write(each, plan.guard)
                written += 1
        if _file_changes(plan):
            put_state(plan.file.path, plan.file.after)
    except (ActionFailed, OSError) as error:
        _put_back(request, plan, error)
    result["evidence"].append("%d values written and read back" % written)


def _write(change, guard):
    if not write_value(change.path, change.applied, guard):
        raise ActionFailed("%s: process %d has ended" % (change.name, guard.pid))
    found = read_value(change.path)
    if found != change.applied:
        raise ActionFailed(
            "%s: the kernel keeps %r instead of %r (%s). Hint: ask for a value that it takes as it is"
            % (change.name, found, change.applied, change.path)
        )


def _put_back(request, plan, error):
    """Newest first, all of them; then the failure is told with what could not be put back."""
    left = []
    try:
        if plan.file is not None and read_state(plan.file.path) != plan.file.before:
            put_state(plan.file.path, plan.file.before)
    except (ActionFailed, OSError) as worse:
        left.append("%s: %s" % (plan.file.path, told(worse)))
    for each in reversed(plan.changes):
        try:
            if read_value(each.path) != each.previous:
                write_value(each.path, each.previous, plan.guard)
        except OSError as worse:
            if worse.errno not in VANISHED:
                left.append("%s: %s" % (each.name, worse.strerror))
    if request.undo_id and not left:
        _undo.withdraw(request.undo_dir, request.undo_id)
    raise ActionFailed(
        "%s. %s" % (told(error), "NOT PUT BACK: %s" % "; ".join(left) if left else "Nothing changed"),
        changed=bool(left),
    )


def told(error):
    """What, where, why and a hint."""
    if isinstance(error, ActionFailed):
        return str(error)
    hint = HINTS.get(error.errno, "")
    return "%s: %s%s" % (error.filename, error.strerror, ". Hint: %s" % hint if hint else "")
