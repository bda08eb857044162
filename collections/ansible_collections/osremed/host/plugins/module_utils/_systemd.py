# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A unit of systemd's as it says itself, and a restart of it within a bound on time."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

_ASK_TIMEOUT_S, _RELOAD_TIMEOUT_S = 15.0, 30.0
_TYPES = "service|socket|device|mount|automount|swap|target|path|timer|slice|scope"
_DROP_IN = re.compile(r".*/(?:[^/]+\.)?(?:%s)\.d/[^/]+\.conf" % _TYPES)
_STARTED = ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic")
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "MainPID", "NRestarts", "ControlGroup", "Result") + _STARTED


class Unit(NamedTuple):
    """`n_restarts` counts what systemd did by itself, -1 before systemd 235. `started_s` is on the monotonic clock, 0 if
    it never was started since boot."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    main_pid: int
    n_restarts: int
    control_group: str
    result: str
    started_s: float

    def told(self):
        """As a document for return values."""
        keys = ("active_state", "sub_state", "main_pid", "n_restarts", "result")
        return dict({key: getattr(self, key) for key in keys}, started_ago_s=self.started_ago_s())

    def started_ago_s(self):
        return round(max(0.0, time.monotonic() - self.started_s), 3) if self.started_s else None


def parse_unit(name, text):
    """The Unit from what `systemctl show` prints. ActionFailed if that is not understood."""
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "ActiveState" not in facts:
        raise ActionFailed("systemctl says nothing that is understood about %s: %r" % (name, text[:200]))
    try:
        started_us = max(int(facts.get(key) or 0) for key in _STARTED)
        return Unit(
            name,
            facts["LoadState"],
            facts["ActiveState"],
            facts.get("SubState", ""),
            int(facts.get("MainPID") or 0),
            int(facts.get("NRestarts") or -1),
            facts.get("ControlGroup", ""),
            facts.get("Result", ""),
            started_us / 1e6,
        )
    except (ValueError, KeyError) as error:
        raise ActionFailed("systemctl says nothing that is understood about %s: %r" % (name, error))


def look_at(name):
    """The Unit now. ActionFailed without systemd."""
    ended = run_bounded(["systemctl", "show", "--property", ",".join(_PROPERTIES), "--", name], _ASK_TIMEOUT_S, 1 << 20)
    if ended.code != 0:
        why = ended.why_no_code or ended.stderr_text().strip()[-300:]
        raise ActionFailed("systemd does not tell about %s: %s. Hint: this module needs systemd as pid 1" % (name, why))
    return parse_unit(name, ended.stdout_text())


def restart(name, timeout_s):
    """An empty string once systemd says that the unit was restarted, else why not."""
    ended = run_bounded(["systemctl", "restart", "--", name], timeout_s, 1 << 20)
    if ended.code == 0:
        return ""
    return "systemctl restart %s: %s" % (name, ended.why_no_code or ended.stderr_text().strip()[-500:])


def is_drop_in(path):
    """Whether systemd reads the file as a drop-in of a unit, or of all units of a type."""
    return _DROP_IN.fullmatch(path) is not None


def daemon_reload():
    """An empty string once systemd has read its units and their drop-ins anew, else why not."""
    ended = run_bounded(["systemctl", "daemon-reload"], _RELOAD_TIMEOUT_S, 64 << 10)
    return "" if ended.code == 0 else ended.why_no_code or ended.stderr_text().strip()[-300:] or "it does not say why"


def why_not_active(unit, restarted):
    """An empty string if the unit is active and systemd did not start it again by itself since it was `restarted`."""
    if unit.active_state != "active":
        return "%s is %s (%s, result %s)" % (unit.name, unit.active_state, unit.sub_state, unit.result)
    if unit.n_restarts > restarted.n_restarts >= 0:
        return "%s ended and was restarted by systemd %d times since" % (
            unit.name,
            unit.n_restarts - restarted.n_restarts,
        )
    return ""


def ask_active(restarted):
    """For _health.wait_for: content while `why_not_active` is. A look without an answer is not well, and made again."""

    def ask(left_s):
        try:
            return why_not_active(look_at(restarted.name), restarted)
        except ActionFailed as error:
            return str(error)

    return ask


def carries_this_task(unit):
    """Whether this process lives in the control group of the unit, so that a restart would end it half-way."""
    if not unit.control_group.strip("/"):
        return False
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        paths = [line.rstrip("\n").split(":", 2)[2] for line in stream]
    return any((path + "/").startswith(unit.control_group + "/") for path in paths)
