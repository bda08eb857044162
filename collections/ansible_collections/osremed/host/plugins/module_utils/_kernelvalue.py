# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the kernel's that hold one value each: a sysctl, a limit of a control group, an oom_score_adj."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._reload import start_ticks

LIMIT_BYTES = 64 << 10
#: The file is gone: the control group was removed, the process ended, the module was unloaded.
VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV)


class Change(NamedTuple):
    """`previous` and `applied` are normalised text. `name` is what people call it."""

    name: str
    path: str
    previous: str
    applied: str


class Guard(NamedTuple):
    """The values count only while this process lives."""

    pid: int
    start_ticks: int

    def lives(self):
        return start_ticks(self.pid) == self.start_ticks


def normalised(text):
    """The words with single spaces between: the kernel writes tabs and newlines of its own."""
    return " ".join(str(text).split())


def read_value(path):
    """The normalised text. OSError as the system gives it, with the path."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) <= LIMIT_BYTES:
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                return normalised(data.decode("utf-8", "backslashreplace"))
            data += chunk
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
    raise ActionFailed("%s holds more than %d bytes: it is not one value" % (path, LIMIT_BYTES))


def write_value(path, text, guard=None):
    """True once the kernel took the value; False if the guarded process has ended.

    The guard is looked at when the file is open already: from then on a process that comes to the same pid is not reached."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if guard is not None and not guard.lives():
            return False
        os.write(fd, text.encode("utf-8") + b"\n")
        return True
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def decide_value(change, current):
    """restored, nothing_to_do or conflict. Pure."""
    if normalised(current) == normalised(change.previous):
        return "nothing_to_do"
    return "restored" if normalised(current) == normalised(change.applied) else "conflict"


def revert_value(change, guard, check_mode):
    """(outcome, what was found or "" if the file is gone). OSError for what cannot be read or written."""
    try:
        current = read_value(change.path)
        outcome = decide_value(change, current)
        if outcome == "restored" and not check_mode and not write_value(change.path, change.previous, guard):
            outcome = "nothing_to_do"
        return outcome, current
    except OSError as error:
        if error.errno not in VANISHED:
            raise
        return "nothing_to_do", ""


def revert_values(changes, guard, check_mode):
    """(change, outcome, found) of each, newest first. All are tried; then the first that failed is raised."""
    if guard is not None and not guard.lives():
        return [(change, "nothing_to_do", "") for change in reversed(changes)]
    done, failed = [], []
    for change in reversed(changes):
        try:
            done.append((change,) + revert_value(change, guard, check_mode))
        except (ActionFailed, OSError) as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return done
