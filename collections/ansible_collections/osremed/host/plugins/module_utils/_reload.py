# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a running daemon to read its policy again, and believes only what its status file then says.

A process is named by pid and start time together (field 22 of /proc/PID/stat): a number alone may be someone else's."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from typing import NamedTuple

POLL_S = 0.02


class Daemon(NamedTuple):
    """What the status file tells of a process that lives. `optional`: without a file it obeys its defaults."""

    pid: int
    start_ticks: int
    policy_path: str
    policy_sha256: str
    policy_error: str
    rejected_sha256: str
    optional: bool = False


class Answer(NamedTuple):
    """`kind` is loaded, rejected, silent (no answer in time) or gone."""

    kind: str
    detail: str
    waited_s: float


def start_ticks(pid, proc="/proc"):
    """Start time of the process in clock ticks since boot, or None if there is no such process."""
    try:
        with open("%s/%d/stat" % (proc, pid), "rb") as stream:
            text = stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses: count from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def find_daemon(status_file, policy_path):
    """(Daemon, "") for the living process that reads `policy_path`, else (None, why not)."""
    try:
        with open(status_file, "rb") as stream:
            document = json.loads(stream.read(1 << 20).decode("utf-8"))
        daemon = Daemon(
            int(document["pid"]),
            int(document["start_time_ticks"]),
            str(document["policy_path"]),
            str(document["policy_sha256"] or ""),
            str(document.get("policy_error") or ""),
            str(document.get("policy_rejected_sha256") or ""),
            document.get("policy_optional") is True,
        )
    except FileNotFoundError:
        return None, "no daemon: there is no status file %s" % status_file
    except (ValueError, KeyError, TypeError) as error:
        return None, "status file %s cannot be read: %r" % (status_file, error)
    if daemon.pid <= 1 or start_ticks(daemon.pid) != daemon.start_ticks:
        return None, "no daemon: process %d of %s has ended" % (daemon.pid, status_file)
    if os.path.realpath(daemon.policy_path) != os.path.realpath(policy_path):
        return None, "the daemon (pid %d) reads another policy: %s" % (daemon.pid, daemon.policy_path)
    return daemon, ""


def send_hangup(daemon):
    """True once SIGHUP went to exactly this process; False if it has ended."""
    try:
        handle = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return False
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        handle = -1  # a kernel before 5.3: a small window between look and signal remains
    try:
        if start_ticks(daemon.pid) != daemon.start_ticks:
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, signal.SIGHUP)
        else:
            os.kill(daemon.pid, signal.SIGHUP)
        return True
    except ProcessLookupError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)


def reload_and_wait(daemon, status_file, wanted_sha256, timeout_s):
    """The daemon's Answer about the policy with this digest, within `timeout_s`."""
    began = time.monotonic()
    if not send_hangup(daemon):
        return Answer("gone", "process %d has ended" % daemon.pid, 0.0)
    while True:
        now, why = find_daemon(status_file, daemon.policy_path)
        waited_s = time.monotonic() - began
        if now is not None and now.policy_sha256 == wanted_sha256:
            return Answer("loaded", "pid %d" % now.pid, waited_s)
        if now is not None and now.rejected_sha256 == wanted_sha256 and now.policy_error:
            return Answer("rejected", now.policy_error, waited_s)
        if now is None and start_ticks(daemon.pid) != daemon.start_ticks:
            return Answer("gone", why, waited_s)
        if waited_s > timeout_s:
            return Answer("silent", why or "no answer from pid %d within %g s" % (daemon.pid, timeout_s), waited_s)
        time.sleep(POLL_S)
