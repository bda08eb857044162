# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A symbolic link that is pointed elsewhere as one step, such as `current` of a release, and back."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import fsync_directory

UNIT = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]{0,250}\.(?:service|target)")
RESTART_TIMEOUT_S = 15.0


class LinkChange(NamedTuple):
    """Targets are as in the link; an empty string is no link. `unit` runs what it points to, or is empty."""

    path: str
    previous: str
    applied: str
    unit: str


def where_to(path):
    """The link's target, an empty string if there is nothing, None if it is not a link."""
    try:
        return os.readlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def point(path, target):
    """After return the link is so on disk; a crash leaves the old one or the new one. Call it under `lock_directory`."""
    directory = os.path.dirname(path)
    if target:
        temporary = os.path.join(directory, ".%s.osremed-new" % os.path.basename(path))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, path)
    else:
        os.unlink(path)
    fsync_directory(directory)


def leads_out(target):
    """Whether the target is not beside the link or below it."""
    return os.path.isabs(target) or ".." in target.split("/") or "\0" in target


def decide_link(change, current):
    """restored, nothing_to_do or conflict."""
    if current == change.previous:
        return "nothing_to_do"
    if current != change.applied:
        return "conflict"
    there = os.path.exists(os.path.join(os.path.dirname(change.path), change.previous))
    return "restored" if there or not change.previous else "conflict"


def revert_link(change, check_mode):
    """(outcome, what was found). It is never pointed back to what is not there any more."""
    current = where_to(change.path)
    outcome = decide_link(change, current)
    if outcome == "restored" and not check_mode:
        point(change.path, change.previous)
    return outcome, current or ""


def restart(unit):
    """Has systemd start anew what the link points to now. An empty string once it does so, else why not. A unit that was
    stopped stays so; one that the bad release made fail, until systemd starts it no more, has to start; else it is not
    waited for."""
    failed = _systemctl(["--quiet", "is-failed"], unit).code == 0
    ended = _systemctl(["restart"] if failed else ["--no-block", "try-restart"], unit)
    return "" if ended.code == 0 else ended.why_no_code or ended.stderr_text().strip()[-300:] or "it does not say why"


def _systemctl(words, unit):
    return run_bounded(["systemctl"] + words + ["--", unit], RESTART_TIMEOUT_S, 64 << 10)


def check_unit(unit):
    """ActionFailed unless it is the full name of a service or target."""
    if not UNIT.fullmatch(unit):
        raise ActionFailed(
            "%r is not the full name of a unit. Hint: write it with its ending, such as x.service" % unit
        )
    return unit
