# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one command within a bound on time and output, and ends its whole process group when it leaves either."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import NamedTuple, Optional


class Ended(NamedTuple):
    """`code` is None when the command was not started or was ended by us; `why_no_code` then says why."""

    code: Optional[int]
    stdout: bytes
    stderr: bytes
    timed_out: bool
    too_large: bool
    why_no_code: str
    duration_s: float

    def stdout_text(self):
        return self.stdout.decode("utf-8", "replace")

    def stderr_text(self):
        return self.stderr.decode("utf-8", "replace")


def run_bounded(argv, timeout_s, max_bytes):
    """The command's Ended; never later than `timeout_s` plus the time a SIGKILL takes. Above `max_bytes` of standard output
    the command is ended too; standard error keeps its last 16 KiB."""
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        why = "%s: %s" % (argv[0], error.strerror)
        return Ended(None, b"", b"", False, False, why, time.monotonic() - began)
    with process:
        stdout, stderr, why = _drain(process, began + timeout_s, max_bytes)
        if not why:
            why = _await_exit(process, began + timeout_s)
        if why:
            # Started in a session of its own: the group is exactly this command and its children.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    told = {"": "", "time": "no end within %g s" % timeout_s, "size": "more than %d bytes of output" % max_bytes}[why]
    return Ended(
        None if why else process.returncode,
        stdout,
        stderr,
        why == "time",
        why == "size",
        told,
        time.monotonic() - began,
    )


def _drain(process, deadline, max_bytes):
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, stdout)
        selector.register(process.stderr, selectors.EVENT_READ, stderr)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return bytes(stdout), bytes(stderr), "time"
            for key, _events in selector.select(left_s):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
            if len(stdout) > max_bytes:
                return bytes(stdout[:max_bytes]), bytes(stderr), "size"
            del stderr[: -(16 << 10)]
    return bytes(stdout), bytes(stderr), ""


def _await_exit(process, deadline):
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
        return ""
    except subprocess.TimeoutExpired:
        return "time"
