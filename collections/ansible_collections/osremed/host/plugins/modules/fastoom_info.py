#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fastoom_info
short_description: Read what the FastOOM daemon of a host does and obeys
version_added: 0.1.0
description:
  - Reads the policy file and the status file, and tells whether a daemon runs and obeys exactly this policy.
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
  path:
    description: The policy file.
    type: path
    default: /etc/osremed/fastoom.json
  status_file:
    description: Status file of the daemon.
    type: path
    default: /run/osremed/fastoom.json
"""

EXAMPLES = r"""
- name: Does the guard obey the policy
  osremed.host.fastoom_info:
  register: fastoom
  failed_when: not fastoom.obeyed
"""

RETURN = r"""
policy:
  description: The policy as a document.
  returned: success
  type: dict
policy_sha256:
  description: SHA-256 of the policy file. An empty string if there is none.
  returned: success
  type: str
status:
  description: The status file as a document. What it says may be old if no daemon runs.
  returned: success
  type: dict
running:
  description: Whether the daemon of the status file lives and reads this policy file.
  returned: success
  type: bool
why_not_running:
  description: Why it does not. An empty string if it does.
  returned: success
  type: str
obeyed:
  description: Whether a daemon runs and has loaded exactly this policy.
  returned: success
  type: bool
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._files import read_state
from ansible_collections.osremed.host.plugins.module_utils._onhost import gap
from ansible_collections.osremed.host.plugins.module_utils._policyfile import parse_policy
from ansible_collections.osremed.host.plugins.module_utils._pressure import reading
from ansible_collections.osremed.host.plugins.module_utils._reload import find_daemon


def policy_of(state, path):
    if not state.exists:
        return gap("no_data", path, "there is no such file")
    try:
        return parse_policy(state.data, path)
    except ActionFailed as error:
        return gap("malformed", path, str(error))


def look(options):
    path, status_file = options["path"], options["status_file"]
    state = read_state(path)
    daemon, why = find_daemon(status_file, path)
    return {
        "policy": policy_of(state, path),
        "policy_sha256": state.sha256,
        "status": reading(status_file, json.loads),
        "running": daemon is not None,
        "why_not_running": why,
        "obeyed": daemon is not None and state.exists and daemon.policy_sha256 == state.sha256,
    }


def main():
    module = AnsibleModule(
        argument_spec=dict(
            path=dict(type="path", default="/etc/osremed/fastoom.json"),
            status_file=dict(type="path", default="/run/osremed/fastoom.json"),
        ),
        supports_check_mode=True,
    )
    try:
        result = look(module.params)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
