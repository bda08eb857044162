#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: memory_info
short_description: Read how much memory a host and its control groups have and use
version_added: 0.1.0
description:
  - Reads C(/proc/meminfo) and, for each of O(cgroups), usage and limit.
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
- name: How much is left
  osremed.host.memory_info:
    cgroups: [/system.slice/import.service]
  register: memory
"""

RETURN = r"""
meminfo:
  description: Bytes by name as in C(/proc/meminfo). C(HugePages_) fields are numbers of pages.
  returned: success
  type: dict
cgroups:
  description: For each group its C(version), C(usage_bytes), C(limit_bytes) (V(max) for no limit), and
    C(swap_bytes), or C(memory_and_swap_bytes) in version 1; or a gap.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _cgroup
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import gap
from ansible_collections.osremed.host.plugins.module_utils._pressure import parse_meminfo, reading

FILES = {
    1: {
        "usage_bytes": "memory.usage_in_bytes",
        "limit_bytes": "memory.limit_in_bytes",
        "memory_and_swap_bytes": "memory.memsw.usage_in_bytes",
    },
    2: {"usage_bytes": "memory.current", "limit_bytes": "memory.max", "swap_bytes": "memory.swap.current"},
}


def figures_of(path, mounts):
    try:
        version, directory = _cgroup.group(mounts, path, "memory")
    except ActionFailed as error:
        return gap("unsupported" if "UNSUPPORTED" in str(error) else "no_data", "cgroup %s" % path, str(error))
    files = FILES[version]
    figures = {
        name: reading("%s/%s" % (directory, file), lambda text: _cgroup.in_bytes(text.strip()))
        for name, file in files.items()
    }
    return dict(figures, version=version)


def look(options, mounts, proc="/proc"):
    for path in options["cgroups"]:
        _cgroup.check_path(path)
    return {
        "meminfo": reading("%s/meminfo" % proc, parse_meminfo),
        "cgroups": {path: figures_of(path, mounts) for path in options["cgroups"]},
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
