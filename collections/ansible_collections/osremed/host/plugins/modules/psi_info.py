#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: psi_info
short_description: Read how long the tasks of a host wait for CPU, memory and IO
version_added: 0.1.0
description:
  - Reads the pressure stall information of the host and of each of O(cgroups) (version 2 only).
  - What cannot be read is an object with the keys C(missing), C(source) and C(detail), never 0.
  - Changes nothing, so it does the same in check mode.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details:
      - Nothing changes.
  idempotent:
    support: N/A
    details:
      - Nothing changes.
options:
  cgroups:
    description: Control groups as paths below the hierarchy, such as V(/system.slice/batch.service).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Who waits for what
  osremed.host.psi_info:
  register: psi
"""

RETURN = r"""
node:
  description: For V(cpu), V(memory) and V(io) the lines C(some) and C(full), each with averages in percent and C(total_us).
  returned: success
  type: dict
cgroups:
  description: The same for each group.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _cgroup
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import gap
from ansible_collections.osremed.host.plugins.module_utils._pressure import parse_pressure, reading

RESOURCES = ("cpu", "memory", "io")


def of_group(path, mounts):
    hierarchy = mounts.get("unified")
    if hierarchy is None:
        return gap("unsupported", "cgroup %s" % path, "no hierarchy of version 2 is mounted")
    directory = hierarchy.mount.rstrip("/") + path
    return {name: reading("%s/%s.pressure" % (directory, name), parse_pressure) for name in RESOURCES}


def look(options, mounts, proc="/proc"):
    for path in options["cgroups"]:
        _cgroup.check_path(path)
    return {
        "node": {name: reading("%s/pressure/%s" % (proc, name), parse_pressure) for name in RESOURCES},
        "cgroups": {path: of_group(path, mounts) for path in options["cgroups"]},
    }


def main():
    module = AnsibleModule(
        argument_spec=dict(
            cgroups=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    try:
        result = look(module.params, _cgroup.hierarchies())
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
