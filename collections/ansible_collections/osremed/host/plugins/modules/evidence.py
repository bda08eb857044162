#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Collect what a host knows about its trouble
version_added: 0.1.0
description:
  - Runs collectors of the on-host C(osremed) one after the other, each within bounds on time and size.
  - A collector that gave nothing becomes a gap with its reason. Gaps do not fail the task, they are part of the evidence.
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
  collectors:
    description: Names of collectors, each with its arguments as a dictionary.
    type: dict
    required: true
  timeout_s:
    description: Seconds that each collector may take.
    type: float
    default: 30.0
  max_bytes:
    description: Bytes that each collector may print.
    type: int
    default: 8388608
"""

EXAMPLES = r"""
- name: Who holds the memory
  osremed.host.evidence:
    collectors:
      panorama: {files: 30, processes: 50}
      fastoom: {}
    timeout_s: 20
  register: evidence
"""

RETURN = r"""
items:
  description: The JSON document of each collector that gave one, by its name.
  returned: success
  type: dict
gaps:
  description: The reason for each collector that gave none, by its name.
  returned: success
  type: dict
  contains:
    missing:
      description: One of V(timed_out), V(unsupported), V(no_data), V(malformed), or what the collector itself said.
      type: str
    source:
      description: What was asked.
      type: str
    detail:
      description: What came back.
      type: str
durations:
  description: Seconds that each collector took, by its name.
  returned: success
  type: dict
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import COMMAND, check_command, check_name, read_document


def collect(options):
    command = check_command(options["command"])
    if options["timeout_s"] <= 0 or options["max_bytes"] <= 0:
        raise ActionFailed("timeout_s and max_bytes must be more than 0")
    for name, args in options["collectors"].items():
        check_name(name)
        if args is not None and not isinstance(args, dict):
            raise ActionFailed("the arguments of collector %s must be a dictionary" % name)
    items, gaps, durations = {}, {}, {}
    for name, args in options["collectors"].items():
        argv = command + ["collect", name, "--args", json.dumps(args or {}, sort_keys=True), "-o", "json"]
        ended = run_bounded(argv, options["timeout_s"], options["max_bytes"])
        document, missing = read_document(ended, "collect %s" % name)
        durations[name] = round(ended.duration_s, 4)
        if missing is None:
            items[name] = document
        else:
            gaps[name] = missing
    return {"items": items, "gaps": gaps, "durations": durations}


def main():
    module = AnsibleModule(
        argument_spec=dict(
            command=dict(type="list", elements="str", default=COMMAND),
            collectors=dict(type="dict", required=True),
            timeout_s=dict(type="float", default=30.0),
            max_bytes=dict(type="int", default=8 << 20),
        ),
        supports_check_mode=True,
    )
    try:
        result = collect(module.params)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
