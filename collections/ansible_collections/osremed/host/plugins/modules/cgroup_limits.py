#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup_limits
short_description: Limit memory, swap, CPU and processes of a control group, with a way back
version_added: 0.1.0
description:
  - Sets limits of one existing control group, version 1 or 2, and reads them back. All are changed or none.
  - Limits last as long as the group. Nothing is kept over a restart of the service or the host.
  - A group that is managed by systemd gets its configured limits again when its unit is started, or changed by others.
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
  cgroup:
    description: The group as a path below the hierarchy, such as V(/system.slice/batch.service). Not the root.
    type: str
    required: true
  memory_max:
    description: Bytes above which the group is reclaimed from and then has a process ended. V(512MiB), or V(max) for no limit.
    type: str
  memory_high:
    description: Bytes above which the group is slowed down and reclaimed from. Version 2 only.
    type: str
  memory_low:
    description: Bytes that are spared while other memory can be reclaimed. Version 2 only.
    type: str
  memory_min:
    description: Bytes that are never reclaimed. Version 2 only.
    type: str
  swap_max:
    description: Bytes of swap that the group may use. In version 1 this limits the sum of memory and swap.
    type: str
  cpu_weight:
    description: Share of the CPU from V(1) to V(10000). The default of the kernel is V(100).
    type: int
  cpu_max:
    description: Microseconds of CPU in each period of microseconds, such as V(50000 100000), or V(max).
    type: str
  pids_max:
    description: Number of tasks, or V(max).
    type: str
  fail_below_usage:
    description:
      - Whether to fail when O(memory_max) or O(memory_high) is below what the group uses now. Without this check such a limit
        slows the group down or ends processes in it.
      - An undo by the host itself does not make this check.
    type: bool
    default: true
  persist:
    description: Only V(false) is supported. Limits that last belong into the unit of the service.
    type: bool
    choices: [false]
    default: false
  exact:
    description: Exact content by file name. This is how RV(previous) undoes a change.
    type: dict
  expect:
    description: Content by file name that must be there now, or the wanted one already. Otherwise fail with RV(conflict=true).
    type: dict
seealso:
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Slow the importer down before it fills the host
  osremed.host.cgroup_limits:
    cgroup: /system.slice/import.service
    memory_high: 6GiB
    memory_max: 8GiB
    cpu_weight: 20
    undo_id: run-42-step-4
    confirm_within: 900
"""

RETURN = r"""
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
from ansible_collections.osremed.host.plugins.module_utils import _cgroup, _values
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import Change, normalised, read_value

USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
LIMITS_OF_USAGE = ("memory.max", "memory.high", "memory.limit_in_bytes")


def argument_spec():
    knobs = {name: dict(type="str") for name in _cgroup.KNOBS}
    knobs["cpu_weight"] = dict(type="int")
    return dict(
        cgroup=dict(type="str", required=True),
        fail_below_usage=dict(type="bool", default=True),
        persist=dict(type="bool", choices=[False], default=False),
        exact=dict(type="dict"),
        expect=dict(type="dict"),
        **dict(knobs, **_values.UNDO_OPTIONS),
    )


def wanted_of(options, mounts):
    """[(directory, file, text)] in the order of writing."""
    path, wanted = options["cgroup"], []
    for name, text in (options["exact"] or {}).items():
        _version, directory = _cgroup.group(mounts, path, _cgroup.controller_of_file(name))
        wanted.append((directory, name, normalised(text)))
    for knob in _cgroup.KNOBS:
        if options[knob] is None:
            continue
        version, directory = _cgroup.group(mounts, path, _cgroup.CONTROLLER[knob])
        memory_max = memory_max_of(options, directory) if (knob, version) == ("swap_max", 1) else "max"
        wanted += [
            (directory, name, text) for name, text in _cgroup.lines_for(knob, options[knob], version, memory_max)
        ]
    if not wanted:
        raise ActionFailed("nothing is asked for. Hint: set one of %s" % ", ".join(_cgroup.KNOBS))
    return wanted


def memory_max_of(options, directory):
    if options["memory_max"] is not None:
        return _cgroup.bytes_of(options["memory_max"], "memory_max")
    return _cgroup.in_bytes(read_value(directory + "/memory.limit_in_bytes"))


def changes_to(wanted):
    changes = []
    for directory, name, text in wanted:
        path = "%s/%s" % (directory, name)
        try:
            changes.append(Change(name, path, read_value(path), text))
        except FileNotFoundError:
            raise ActionFailed("UNSUPPORTED: this kernel has no %s (looked for %s)" % (name, path))
    return in_order(changes)


def in_order(changes):
    """Version 1 keeps memory <= memory + swap at every moment: what grows goes from the sum down, what shrinks the other
    way."""
    names = {each.name: each for each in changes}
    total = names.get("memory.memsw.limit_in_bytes")
    if total is not None and "memory.limit_in_bytes" in names and int(total.applied) > int(total.previous):
        return [total] + [each for each in changes if each is not total]
    if total is not None:
        return [each for each in changes if each is not total] + [total]
    return changes


def check_usage(changes, directory, version):
    used = int(read_value("%s/%s" % (directory, USAGE[version])))
    for each in changes:
        limit = _cgroup.in_bytes(each.applied) if each.name in LIMITS_OF_USAGE else "max"
        if limit != "max" and limit < used and each.previous != each.applied:
            raise ActionFailed(
                "%s of %d bytes is below the %d bytes that are in use (%s). Nothing changed. Hint: choose a higher limit, or "
                "set fail_below_usage to false to accept that processes are slowed down or ended"
                % (each.name, limit, used, directory),
                usage_bytes=used,
            )


def change(options, check_mode, mounts):
    _cgroup.check_path(options["cgroup"])

    def plan():
        wanted = wanted_of(options, mounts)
        changes = changes_to(wanted)
        if options["fail_below_usage"] and any(each.name in LIMITS_OF_USAGE for each in changes):
            version, directory = _cgroup.group(mounts, options["cgroup"], "memory")
            check_usage(changes, directory, version)
        return _values.Plan(changes)

    result, done = _values.carry_out(_values.request_of(options, plan, options["expect"]), check_mode)
    previous = {}
    if result["changed"] or result["undo_registered"]:
        previous = {
            "cgroup": options["cgroup"],
            "exact": {each.name: each.previous for each in reversed(done.changes)},
            "expect": {each.name: each.applied for each in done.changes},
        }
    return dict(result, previous=previous)


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        required_by={"confirm_within": ["undo_id"]},
        mutually_exclusive=[("exact", name) for name in _cgroup.KNOBS],
        supports_check_mode=True,
    )
    try:
        result = change(module.params, module.check_mode, _cgroup.hierarchies())
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
