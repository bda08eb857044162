#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup_reclaim
short_description: Have the kernel reclaim memory of a control group, step by step
version_added: 0.1.0
description:
  - Writes to C(memory.reclaim) of one control group of version 2 (Linux 5.19) until enough is reclaimed, the time is over,
    the group feels it, or nothing more comes.
  - Version 1 is not supported. Its C(memory.force_empty) drops all of the group at once and without a bound.
  - This cannot be undone and needs no undo. What is used again comes back into memory.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
    details:
      - How much could be reclaimed is only found out by doing it.
  diff_mode:
    support: full
  idempotent:
    support: none
    details:
      - Each call reclaims again.
options:
  cgroup:
    description: The group as a path below the hierarchy, such as V(/system.slice/batch.service). Not the root.
    type: str
    required: true
  bytes:
    description: How much to reclaim, as a number or as V(512MiB).
    type: str
    required: true
  max_step:
    description: How much to ask for at once.
    type: str
    default: 64MiB
  timeout_s:
    description: Seconds after which no further step is begun, at most V(600).
    type: float
    default: 30.0
  max_pressure:
    description: Percent of time that some task of the group waited for memory, over ten seconds, at which to stop.
    type: float
    default: 10.0
"""

EXAMPLES = r"""
- name: Take two GiB from the importer, gently
  osremed.host.cgroup_reclaim:
    cgroup: /system.slice/import.service
    bytes: 2GiB
"""

RETURN = r"""
reclaimed_bytes:
  description: How much less the group uses after than before. Less than 0 if it grew faster.
  returned: success
  type: int
steps:
  description: How often the kernel was asked.
  returned: success
  type: int
stopped_by:
  description: V(done), V(timeout), V(pressure), V(exhausted) when the kernel gave less than it was asked for, or V(check_mode).
  returned: success
  type: str
pressure:
  description: The last pressure that was seen, in percent. None if the kernel does not measure it.
  returned: success
  type: float
previous:
  description: Always empty, since there is nothing to undo.
  returned: success
  type: dict
evidence:
  description: What was seen and done, one sentence each.
  returned: success
  type: list
  elements: str
"""

import errno
import os
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _cgroup
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import read_value, write_value


def argument_spec():
    return dict(
        cgroup=dict(type="str", required=True),
        bytes=dict(type="str", required=True),
        max_step=dict(type="str", default="64MiB"),
        timeout_s=dict(type="float", default=30.0),
        max_pressure=dict(type="float", default=10.0),
    )


def size(text, option):
    wanted = _cgroup.bytes_of(text, option)
    if wanted == "max" or wanted == 0:
        raise ActionFailed("%s %r is not a size of at least one page" % (option, text))
    return wanted


def pressure(directory):
    """Percent, or None if the kernel does not measure it."""
    try:
        match = re.match(r"some avg10=([0-9.]+)", read_value(directory + "/memory.pressure"))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return None
        raise
    return float(match.group(1)) if match else None


def directory_of(path, mounts):
    version, directory = _cgroup.group(mounts, path, "memory")
    if version == 1:
        raise ActionFailed(
            "UNSUPPORTED: cgroup %s is of version 1, which can only drop all of a group at once (memory.force_empty). "
            "Hint: use osremed.host.page_cache for its files" % path
        )
    if not os.path.exists(directory + "/memory.reclaim"):
        raise ActionFailed("UNSUPPORTED: this kernel has no memory.reclaim (Linux 5.19), looked in %s" % directory)
    return directory


def act(options, check_mode, mounts):
    wanted, step = size(options["bytes"], "bytes"), size(options["max_step"], "max_step")
    if not 0 < options["timeout_s"] <= 600 or not 0 < options["max_pressure"] <= 100:
        raise ActionFailed("timeout_s must be above 0 and at most 600, max_pressure above 0 and at most 100")
    directory = directory_of(options["cgroup"], mounts)
    before = int(read_value(directory + "/memory.current"))
    steps, stopped_by = (0, "check_mode") if check_mode else reclaim(directory, wanted, step, options)
    after = max(0, before - wanted) if check_mode else int(read_value(directory + "/memory.current"))
    line = "%s/memory.current = %%d\n" % directory
    return {
        "changed": check_mode or steps > 0,
        "reclaimed_bytes": 0 if check_mode else before - after,
        "steps": steps,
        "stopped_by": stopped_by,
        "pressure": pressure(directory),
        "previous": {},
        "evidence": ["%s: %d bytes before, %d after, %d steps, %s" % (directory, before, after, steps, stopped_by)],
        "diff": {"before": line % before, "after": line % after},
    }


def reclaim(directory, wanted, step, options):
    """(steps, why it stopped)."""
    give_up, left, steps = time.monotonic() + options["timeout_s"], wanted, 0
    while left > 0:
        felt = pressure(directory)
        if felt is not None and felt >= options["max_pressure"]:
            return steps, "pressure"
        if time.monotonic() > give_up:
            return steps, "timeout"
        steps += 1
        try:
            write_value(directory + "/memory.reclaim", str(min(step, left)))
        except BlockingIOError:  # EAGAIN: the kernel reclaimed less than it was asked for
            return steps, "exhausted"
        left -= min(step, left)
    return steps, "done"


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = act(module.params, module.check_mode, _cgroup.hierarchies())
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
