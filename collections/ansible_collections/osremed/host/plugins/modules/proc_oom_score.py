#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: proc_oom_score
short_description: Make the kernel spare or prefer a process when memory runs out, with a way back
version_added: 0.1.0
description:
  - Sets C(oom_score_adj) of one running process, named by its pid and start time together.
  - Children that the process starts later inherit the value. The undo does not reach them.
  - A process that has ended is no failure. There is nothing to do then and RV(gone=true).
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.change
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
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
  value:
    description: From V(-1000), never chosen, to V(1000), chosen first.
    type: int
    required: true
  expect:
    description: The value that must be there now, or the wanted one already. Otherwise fail with RV(conflict=true).
    type: int
seealso:
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Let the batch job go first
  osremed.host.proc_oom_score:
    pid: 4711
    start_time_ticks: 8837123
    cmdline: batch-import
    value: 800
    undo_id: run-42-step-3
    confirm_within: 600
"""

RETURN = r"""
gone:
  description: Whether the process has ended, or its pid belongs to another now.
  returned: success
  type: bool
previous:
  description:
    - Arguments for this module that undo the change. Empty if nothing changed.
    - After a repeated call with the same O(undo_id) these are the arguments that undo the first one.
  returned: success
  type: dict
values:
  description: Each value before and after, by name.
  returned: success
  type: dict
as_seen:
  description: Options with which the same call refuses when the host is no longer as it was before this one.
  returned: success
  type: dict
undo_registered:
  description: Whether an undo record for this change is on the host.
  returned: success
  type: bool
deadline_ns:
  description: When the host takes the change back, in nanoseconds since the epoch. V(0) means never.
  returned: when an undo record is registered
  type: int
evidence:
  description: What was seen and done, one sentence each.
  returned: success
  type: list
  elements: str
conflict:
  description: Whether it was left alone because it is not what was expected.
  returned: on a conflict
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _process, _values
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import Change, Guard, read_value

NAME = "oom_score_adj of pid %d"


def argument_spec():
    return dict(
        pid=dict(type="int", required=True),
        start_time_ticks=dict(type="int", required=True),
        cmdline=dict(type="str"),
        value=dict(type="int", required=True),
        expect=dict(type="int"),
        **_values.UNDO_OPTIONS,
    )


def change(options, check_mode, proc="/proc"):
    pid = options["pid"]
    if not -1000 <= options["value"] <= 1000:
        raise ActionFailed("value %d is not between -1000 and 1000" % options["value"])
    if pid < 1 or options["start_time_ticks"] < 0:
        raise ActionFailed("pid %d with start time %d names no process" % (pid, options["start_time_ticks"]))
    seen = []

    def plan():
        seen[:] = [_process.find(pid, options["start_time_ticks"], options["cmdline"], proc)]
        if seen[0] is None:
            return _values.Plan([], evidence=("process %d has ended: nothing to do" % pid,))
        if seen[0].kernel_thread:
            raise ActionFailed("process %d is a kernel thread: the kernel never chooses it" % pid)
        path = "%s/%d/oom_score_adj" % (proc, pid)
        try:
            present = read_value(path)
        except (FileNotFoundError, ProcessLookupError):
            seen[:] = [None]
            return _values.Plan([], evidence=("process %d has just ended: nothing to do" % pid,))
        one = Change(NAME % pid, path, present, str(options["value"]))
        who = "pid %d is %s" % (pid, seen[0].name)
        return _values.Plan([one], Guard(pid, options["start_time_ticks"]), evidence=(who,))

    expect = {} if options["expect"] is None else {NAME % pid: options["expect"]}
    result, done = _values.carry_out(_values.request_of(options, plan, expect), check_mode)
    previous = {}
    if done.changes and (result["changed"] or result["undo_registered"]):
        previous = {"pid": pid, "start_time_ticks": options["start_time_ticks"], "expect": options["value"]}
        previous["value"] = int(done.changes[0].previous)
    as_seen = {"expect": int(each["before"]) for each in result["values"].values()}
    result["as_seen"] = as_seen
    return dict(result, gone=seen[0] is None, previous=previous)


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        required_by={"confirm_within": ["undo_id"]},
        supports_check_mode=True,
    )
    try:
        result = change(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
