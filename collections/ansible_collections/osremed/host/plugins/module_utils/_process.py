# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process named by pid and start time, held so that nobody else can be meant, and what protects it."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import time
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils import _rules
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import read_state
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import read_value
from ansible_collections.osremed.host.plugins.module_utils._policyfile import parse_policy
from ansible_collections.osremed.host.plugins.module_utils._reload import start_ticks

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
POLL_S = 0.02


class Process(NamedTuple):
    pid: int
    start_ticks: int
    name: str
    argv: tuple
    kernel_thread: bool
    ppid: int

    @property
    def cmdline(self):
        return " ".join(self.argv)


def look(pid, proc="/proc"):
    """The Process that has this pid now, or None if there is none (a zombie is none)."""
    try:
        with open("%s/%d/stat" % (proc, pid), "rb") as stream:
            text = stream.read()
        with open("%s/%d/cmdline" % (proc, pid), "rb") as stream:
            words = stream.read(1 << 20)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses: count from the last one.
    left, right = text.index(b"("), text.rindex(b")")
    fields = text[right + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    argv = tuple(word.decode("utf-8", "backslashreplace") for word in words.rstrip(b"\0").split(b"\0")) if words else ()
    name = text[left + 1 : right].decode("utf-8", "backslashreplace")
    return Process(pid, int(fields[19]), name, argv, bool(int(fields[6]) & _PF_KTHREAD), int(fields[1]))


def find(pid, start_time_ticks, cmdline, proc="/proc"):
    """The Process, or None if it has ended or its pid belongs to another. ActionFailed if `cmdline` does not match."""
    if cmdline is not None:
        try:
            pattern = re.compile(cmdline)
        except re.error as error:
            raise ActionFailed("cmdline %r is not a regular expression: %s" % (cmdline, error))
    found = look(pid, proc)
    if found is None or found.start_ticks != start_time_ticks:
        return None
    if cmdline is not None and not pattern.search(found.cmdline):
        raise ActionFailed(
            "process %d is not the one that was meant: %r is not found in its arguments %r. It was left alone"
            % (pid, cmdline, found.cmdline[:200]),
            conflict=True,
        )
    return found


def why_untouchable(process, policy_file, proc="/proc"):
    """Why the process must not be signalled, or an empty string. A policy that cannot be read is ActionFailed."""
    if process.pid == 1:
        return "it is pid 1"
    if process.kernel_thread:
        return "it is a kernel thread"
    if process.pid in ancestors(proc):
        return "it carries this very task"
    if int(read_value("%s/%d/oom_score_adj" % (proc, process.pid))) <= -1000:
        return "its oom_score_adj is -1000, so the kernel and FastOOM spare it too"
    for rule in protect_rules(policy_file):
        meant = _rules.verdict(rule, process, proc)
        text = ", ".join("%s %r" % item for item in sorted(rule.items()))
        if meant:
            return "%s protects it: %s" % (policy_file, text)
        if meant is None:
            return "%s may protect it: %s cannot be told from what can be read of it" % (policy_file, text)
    return ""


def ancestors(proc="/proc"):
    """This process and those above it."""
    pids, pid = set(), os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        above = look(pid, proc)
        pid = above.ppid if above else 0
    return pids


def protect_rules(policy_file):
    """The rules of the FastOOM policy that protect; none without a file."""
    state = read_state(policy_file)
    if not state.exists:
        return []
    rules = parse_policy(state.data, policy_file).get("protect", [])
    if not isinstance(rules, list):
        raise ActionFailed("%s: protect is not a list. Nobody was signalled" % policy_file)
    for rule in rules:
        _rules.check_rule(rule, policy_file)
    return rules


class Handle:
    """Exactly one process, until `close`. Before Linux 5.3 a small window between look and signal remains."""

    def __init__(self, process):
        self.process = process
        try:
            self._fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            self._fd = -1
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            self._fd = -1

    def send(self, number):
        """True once the signal is queued; False if the process has ended."""
        if start_ticks(self.process.pid) != self.process.start_ticks:
            return False
        try:
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.process.pid, number)
            return True
        except ProcessLookupError:
            return False

    def wait(self, timeout_s):
        """Whether it has ended, once it has or the time is over."""
        if self._fd >= 0:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            return bool(poller.poll(timeout_s * 1000))
        give_up = time.monotonic() + timeout_s
        while start_ticks(self.process.pid) == self.process.start_ticks:
            if time.monotonic() > give_up:
                return False
            time.sleep(POLL_S)
        return True

    def close(self):
        if self._fd >= 0:
            os.close(self._fd)
