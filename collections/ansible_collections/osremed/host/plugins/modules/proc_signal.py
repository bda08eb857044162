#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: proc_signal
short_description: Signal exactly one process, and end it if it does not listen
version_added: 0.1.0
description:
  - Sends a signal to one process, named by its pid and start time together, and waits for what comes of it.
  - Pid 1, kernel threads, the processes that carry this task, and processes that the FastOOM policy protects are refused.
  - So are processes that the policy may protect, when what a rule asks for (program, control group, user) cannot be read.
  - A process that has ended already is no failure. There is nothing to do then and RV(gone=true).
  - This cannot be undone.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
    details:
      - All refusals are made in check mode too. Whether the process would listen is not known.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - A signal that ends the process is sent once. Others are sent each time.
options:
  pid:
    description: The process.
    type: int
    required: true
  start_time_ticks:
    description: Its start time in clock ticks since boot, field 22 of C(/proc/PID/stat).
    type: int
    required: true
  cmdline:
    description: Regular expression that must be found in its arguments, joined by spaces.
    type: str
  signal:
    description: What to send. All but V(HUP), V(USR1), V(USR2), V(STOP) and V(CONT) are expected to end the process.
    type: str
    choices: [TERM, INT, QUIT, ABRT, KILL, HUP, USR1, USR2, STOP, CONT]
    default: TERM
  grace_s:
    description: Seconds to wait for the end of the process, at most V(600).
    type: float
    default: 10.0
  escalate:
    description: Whether a process that has not ended after O(grace_s) gets V(KILL). Without it the task fails.
    type: bool
    default: false
  policy_file:
    description: The FastOOM policy whose protected processes are refused. Without such a file no rule protects.
    type: path
    default: /etc/osremed/fastoom.json
"""

EXAMPLES = r"""
- name: End the leaking worker, by force after twenty seconds
  osremed.host.proc_signal:
    pid: 4711
    start_time_ticks: 8837123
    cmdline: worker --queue=import
    grace_s: 20
    escalate: true
"""

RETURN = r"""
gone:
  description: Whether there was no such process to begin with.
  returned: success
  type: bool
ended:
  description: Whether the process is known to have ended.
  returned: success
  type: bool
signals:
  description: Names of the signals that were sent, in order.
  returned: always
  type: list
  elements: str
waited_s:
  description: Seconds from the first signal to the end of the process or of the patience.
  returned: success
  type: float
previous:
  description: Always empty, since a signal cannot be taken back.
  returned: success
  type: dict
evidence:
  description: What was seen and done, one sentence each.
  returned: success
  type: list
  elements: str
refused:
  description: Why the process must not be signalled.
  returned: when the process is not to be touched
  type: str
"""

import signal
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _process
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from

ENDING = ("TERM", "INT", "QUIT", "ABRT", "KILL")
AFTER_KILL_S = 10.0


def argument_spec():
    return dict(
        pid=dict(type="int", required=True),
        start_time_ticks=dict(type="int", required=True),
        cmdline=dict(type="str"),
        signal=dict(type="str", choices=list(ENDING) + ["HUP", "USR1", "USR2", "STOP", "CONT"], default="TERM"),
        grace_s=dict(type="float", default=10.0),
        escalate=dict(type="bool", default=False),
        policy_file=dict(type="path", default="/etc/osremed/fastoom.json"),
    )


def act(options, check_mode):
    pid = options["pid"]
    if pid < 1 or options["start_time_ticks"] < 0:
        raise ActionFailed("pid %d with start time %d names no process" % (pid, options["start_time_ticks"]))
    if not 0 <= options["grace_s"] <= 600:
        raise ActionFailed("grace_s %g is not between 0 and 600 seconds" % options["grace_s"])
    if options["escalate"] and options["signal"] not in ENDING:
        raise ActionFailed("escalate needs a signal that ends the process, not %s" % options["signal"])
    result = {"changed": False, "gone": False, "ended": False, "signals": [], "waited_s": 0.0, "previous": {}}
    result.update(evidence=[], diff={"before": "", "after": ""})
    found = _process.find(pid, options["start_time_ticks"], options["cmdline"])
    if found is None:
        return dict(result, gone=True, ended=True, evidence=["process %d has ended: nothing to do" % pid])
    why = _process.why_untouchable(found, options["policy_file"])
    if why:
        raise ActionFailed("process %d (%s) is not to be touched: %s" % (pid, found.name, why), refused=why, signals=[])
    after = (
        "" if options["signal"] in ENDING else "process %d (%s) signalled %s\n" % (pid, found.name, options["signal"])
    )
    result["diff"] = {"before": "process %d (%s)\n" % (pid, found.name), "after": after}
    result["changed"] = True
    if check_mode:
        result["evidence"].append("would send %s to process %d (%s)" % (options["signal"], pid, found.name))
        return result
    handle = _process.Handle(found)
    try:
        deliver(handle, options, result)
    finally:
        handle.close()
    return dict(result, changed=bool(result["signals"]))


def deliver(handle, options, result):
    began = time.monotonic()
    _send(handle, options["signal"], result)
    if options["signal"] in ENDING:
        result["ended"] = handle.wait(AFTER_KILL_S if options["signal"] == "KILL" else options["grace_s"])
        if not result["ended"] and options["escalate"]:
            _send(handle, "KILL", result)
            result["ended"] = handle.wait(AFTER_KILL_S)
        if not result["ended"]:
            raise ActionFailed(
                "process %d (%s) got %s and has not ended. Hint: %s"
                % (
                    handle.process.pid,
                    handle.process.name,
                    ", ".join(result["signals"]),
                    "it may be stuck in the kernel"
                    if "KILL" in result["signals"]
                    else "give more grace_s or set escalate",
                ),
                changed=True,
                signals=result["signals"],
            )
    result["waited_s"] = round(time.monotonic() - began, 3)


def _send(handle, name, result):
    if handle.send(getattr(signal, "SIG" + name)):
        result["signals"].append(name)
        result["evidence"].append("sent %s to process %d (%s)" % (name, handle.process.pid, handle.process.name))
    else:
        result["evidence"].append("process %d ended before it could get %s" % (handle.process.pid, name))


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = act(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
