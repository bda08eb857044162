#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl
short_description: Set kernel parameters now and at boot, with a way back
version_added: 0.1.0
description:
  - Writes sysctls to the running kernel, reads them back, and keeps them in one drop-in file below C(sysctl.d).
  - All of O(settings) are changed or none. The file C(/etc/sysctl.conf) is never touched.
  - When setting one parameter makes the kernel zero another, as with C(vm.dirty_bytes) and C(vm.dirty_ratio), both belong
    to the change and to its undo.
  - Parameters that only start something, that name a program for the kernel to run, or that cannot be set back before the
    next boot are refused.
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
    details:
      - White space inside a value does not count.
options:
  settings:
    description:
      - Values by name. A name is written as V(vm.swappiness) or V(net/ipv4/conf/eth0.1/forwarding), without wildcards.
    type: dict
    required: true
  runtime:
    description: Whether the running kernel gets the values.
    type: bool
    default: true
  persist:
    description: Whether O(file) gets the values. Without it they last until the next boot.
    type: bool
    default: true
  file:
    description: The drop-in. It must lie in a directory named C(sysctl.d) and end in C(.conf).
    type: path
    default: /etc/sysctl.d/90-osremed.conf
  ignore_missing:
    description: Whether parameters that this kernel does not have are left out. Without it they fail the task.
    type: bool
    default: false
  expect:
    description:
      - Values by name that must be there now, or the wanted ones already. Otherwise fail with RV(conflict=true).
    type: dict
  restore:
    description: The drop-in as RV(previous) remembers it. Takes the place of what O(settings) would make of it.
    type: dict
  expect_sha256:
    description:
      - Act only if the drop-in has this SHA-256, or holds what is wanted already. Otherwise fail with RV(conflict=true).
      - An empty string means that there must be no file.
    type: str
seealso:
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Start writing back earlier, to be confirmed within five minutes
  osremed.host.sysctl:
    settings:
      vm.dirty_background_bytes: 268435456
      vm.swappiness: 10
    undo_id: run-42-step-2
    confirm_within: 300
  register: change

- name: Take it back
  osremed.host.sysctl: "{{ change.previous }}"
"""

RETURN = r"""
missing:
  description: Parameters that this kernel does not have and that were left out.
  returned: success
  type: list
  elements: str
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

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _values
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState, read_state
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import Change, read_value
from ansible_collections.osremed.host.plugins.module_utils._sysctl import (
    HEADER,
    check_settings,
    merge_drop_in,
    path_of,
    twin_of,
)
from ansible_collections.osremed.host.plugins.module_utils._undo import file_part, previous_of


def argument_spec():
    return dict(
        settings=dict(type="dict", required=True),
        runtime=dict(type="bool", default=True),
        persist=dict(type="bool", default=True),
        file=dict(type="path", default="/etc/sysctl.d/90-osremed.conf"),
        ignore_missing=dict(type="bool", default=False),
        expect=dict(type="dict"),
        restore=dict(type="dict"),
        expect_sha256=dict(type="str"),
        **_values.UNDO_OPTIONS,
    )


def check_file(options):
    directory, name = os.path.split(options["file"])
    if not os.path.isabs(options["file"]) or os.path.basename(directory) != "sysctl.d" or not name.endswith(".conf"):
        raise ActionFailed("file %s is not a drop-in. Hint: use /etc/sysctl.d/NAME.conf" % options["file"])
    if options["persist"] and not os.path.isdir(directory):
        raise ActionFailed("directory %s does not exist. Hint: create it, or set persist=false" % directory)


def read_present(settings, ignore_missing, root):
    """({name: present value}, names that this kernel does not have)."""
    present, missing = {}, []
    for name in settings:
        try:
            present[name] = read_value(path_of(name, root))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            missing.append(name)
    if missing and not ignore_missing:
        raise ActionFailed(
            "this kernel has no sysctl %s (looked below %s). Hint: load its module, or set ignore_missing"
            % (", ".join(missing), os.path.join(root, "proc/sys"))
        )
    return present, missing


def changes_to(settings, present, root):
    """In the order of writing; a twin comes right after what zeroes it."""
    changes = []
    for name, before in present.items():
        changes.append(Change(name, path_of(name, root), before, settings[name]))
        twin = twin_of(name)
        if twin and settings[name] != "0":
            path = path_of(twin, root)
            changes.append(Change(twin, path, read_value(path), "0"))
    return changes


def plan_file(options, settings):
    before = read_state(options["file"])
    if options["restore"] is not None:
        try:
            after = previous_of({"previous": options["restore"]})
        except (KeyError, ValueError, TypeError) as error:
            raise ActionFailed("restore is not what this module returned as previous: %r" % error)
    else:
        after = merged(before, options["file"], settings)
    expected = options["expect_sha256"]
    if expected is not None and before.sha256 != expected and not before.same_content(after):
        raise ActionFailed("%s was changed by someone else since: it was left alone" % options["file"], conflict=True)
    return _values.FilePlan(options["file"], before, after)


def merged(before, path, settings):
    try:
        text = before.data.decode("utf-8") if before.exists else HEADER
    except UnicodeDecodeError:
        raise ActionFailed("%s is not UTF-8 text: nothing changed" % path)
    data = merge_drop_in(text, settings).encode("utf-8")
    if before.exists:
        return before._replace(data=data)
    return FileState(True, data, 0o644, os.geteuid(), os.getegid()) if settings else ABSENT


def previous_arguments(options, plan):
    """How to undo, as arguments. A value that the kernel zeroed comes back with its twin: 0 is not written."""
    names = [each.name for each in plan.changes]
    arguments = {"runtime": options["runtime"], "persist": options["persist"], "file": options["file"]}
    arguments["settings"] = {
        each.name: each.previous for each in plan.changes if not (each.previous == "0" and twin_of(each.name) in names)
    }
    arguments["expect"] = {each.name: each.applied for each in plan.changes}
    if plan.file is not None:
        arguments["restore"] = file_part(*plan.file[:2], applied_sha256="")["previous"]
        arguments["expect_sha256"] = plan.file.after.sha256
    return arguments


def change(options, check_mode, root="/"):
    if not (options["runtime"] or options["persist"]):
        raise ActionFailed("runtime and persist are both false: there is nothing to do")
    check_file(options)
    settings = check_settings(options["settings"])
    missing = []

    def plan():
        present, missing[:] = read_present(settings, options["ignore_missing"], root)
        known = {name: settings[name] for name in present}
        changes = changes_to(known, present, root) if options["runtime"] else []
        file = plan_file(options, known) if options["persist"] else None
        return _values.Plan(changes, None, file, tuple("this kernel has no %s" % name for name in missing))

    lock = os.path.dirname(options["file"]) if options["persist"] else ""
    result, done = _values.carry_out(_values.request_of(options, plan, options["expect"], lock), check_mode)
    acted = result["changed"] or result["undo_registered"]
    return dict(result, missing=missing, previous=previous_arguments(options, done) if acted else {})


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
