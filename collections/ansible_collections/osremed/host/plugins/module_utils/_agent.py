# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether anybody on this host keeps a deadline: the agent lives, reads these undo records and may write what it would have
to put back. A deadline that nobody keeps would leave the change for ever."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._reload import start_ticks

HINT = "start the agent (the role osremed.host.agent), or leave confirm_within out"
HINT_WRITABLE = "name the directory in agent_writable of the role osremed.host.agent"


class Deadline(NamedTuple):
    """`within_s` 0 means that there is none."""

    within_s: float
    undo_dir: str
    agent_status: str


def deadline_of(options):
    return Deadline(options["confirm_within"] or 0.0, options["undo_dir"], options["agent_status"])


def require_keeper(deadline, paths):
    """A sentence for the evidence; "" without a deadline. ActionFailed, with nothing changed, unless the agent would take
    these files and values back when the deadline has passed."""
    if not deadline.within_s:
        return ""
    pid, why = _agent(deadline)
    if pid is None:
        _refuse(why, HINT)
    unknown = ""
    for path in paths:
        try:
            why = _why_not_written(pid, path)
        except PermissionError as error:  # not root: what the agent sees is not shown
            unknown = "; whether it may write %s is not known: %s" % (path, error.strerror)
        if why:
            _refuse("the agent (pid %d) %s" % (pid, why), HINT_WRITABLE)
    return "the agent (pid %d) keeps the deadline%s" % (pid, unknown)


def _refuse(why, hint):
    what = "nobody would take this back after confirm_within: %s. Nothing changed" % why
    raise ActionFailed("%s. Hint: %s" % (what, hint), no_keeper=True)


def _agent(deadline):
    """(pid of the living agent that reads these records, ""), or (None, why there is none)."""
    path = deadline.agent_status
    try:
        with open(path, "rb") as stream:
            document = json.loads(stream.read(1 << 20).decode("utf-8"))
        pid, began, undo = int(document["pid"]), int(document["start_time_ticks"]), str(document["undo_dir"])
    except FileNotFoundError:
        return None, "no agent runs: there is no status file %s" % path
    except (ValueError, KeyError, TypeError, OSError) as error:
        return None, "the agent's status file %s cannot be read: %r" % (path, error)
    if pid <= 1 or start_ticks(pid) != began:
        return None, "no agent runs: process %d of %s has ended" % (pid, path)
    if os.path.realpath(undo) != os.path.realpath(deadline.undo_dir):
        return None, "the agent (pid %d) reads other undo records: %s, not %s" % (pid, undo, deadline.undo_dir)
    return pid, ""


def _why_not_written(pid, path):
    """Why the process could not put this file or value back, as far as mounts tell; "" if nothing does. A service has mounts
    of its own: what is hidden from it, or read-only there, may be neither for us."""
    place = path if path.startswith(("/proc/", "/sys/")) else os.path.dirname(path)
    try:
        ours = os.stat(place)
    except FileNotFoundError:
        return ""  # it is yet to be made
    seen = "/proc/%d/root%s" % (pid, os.path.realpath(place))
    try:
        theirs = os.stat(seen)
        read_only = os.statvfs(seen).f_flag & os.ST_RDONLY
    except (FileNotFoundError, NotADirectoryError):
        return "does not see %s" % place
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) and not path.startswith("/proc/"):
        return "sees something else as %s" % place
    return "may not write %s" % place if read_only else ""
