#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Read what the GPUs of a host do, and what its GPU watch says
version_added: 0.1.0
description:
  - Asks the on-host C(osremed) for every GPU, each in a process of its own with a deadline, and for the state of the GPU watch.
  - What cannot be read is an object with the keys C(missing), C(source) and C(detail), never 0. A GPU that hangs does not hide
    the others.
  - Changes nothing, so it does the same in check mode.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.onhost
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
  timeout_s:
    description: Seconds that each of the two questions may take.
    type: float
    default: 30.0
seealso:
  - module: osremed.host.gpu_reset
"""

EXAMPLES = r"""
- name: What the GPUs do
  osremed.host.gpu_info:
  register: gpu

- name: Nobody may use a GPU when the driver is replaced
  ansible.builtin.assert:
    that: gpu.in_use == []
"""

RETURN = r"""
gpus:
  description: Every GPU that answered, with C(uuid), C(bdf), C(metrics) and C(processes); or a gap.
  returned: success
  type: raw
driver_version:
  description: Of the driver. An empty string when it does not answer.
  returned: success
  type: str
unreadable:
  description: Why each of the GPUs that did not answer did not, by index.
  returned: success
  type: dict
in_use:
  description: UUIDs of the GPUs that are held by a process, or of which it is not known.
  returned: success
  type: list
  elements: str
alerts:
  description: What the GPU watch of the host holds for wrong now; or a gap when none runs.
  returned: success
  type: raw
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _gpu
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import COMMAND, as_gap, gap


def argument_spec():
    return dict(
        command=dict(type="list", elements="str", default=COMMAND),
        timeout_s=dict(type="float", default=30.0),
    )


def look(options):
    if options["timeout_s"] <= 0:
        raise ActionFailed("timeout_s must be more than 0")
    document, missing = _gpu.ask(options["command"], "gpus", options["timeout_s"])
    document = document if isinstance(document, dict) else {}
    inventory = document.get("inventory") or {}
    gpus = missing or as_gap(inventory) or document.get("gpus", [])
    return {
        "gpus": gpus,
        "driver_version": inventory.get("driver_version", ""),
        "unreadable": dict(document.get("unreadable") or {}, **(document.get("hung") or {})),
        "in_use": [gpu["uuid"] for gpu in gpus if gpu["processes"] != []] if isinstance(gpus, list) else [],
        "alerts": alerts_of(options),
    }


def alerts_of(options):
    document, missing = _gpu.ask(options["command"], "timeline", options["timeout_s"])
    if missing is not None:
        return missing
    status = document.get("status") if isinstance(document, dict) else None
    if not isinstance(status, dict):
        return gap("malformed", "collect timeline", "it has no status")
    return as_gap(status) or status.get("alerts", [])


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = look(module.params)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
