#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_policy
short_description: Set, replace or remove the policy of the GPU watch or the recorder of a host, with a way back
version_added: 0.1.0
description:
  - Changes the policy file of a daemon of the host, has the daemon load it, and returns the arguments that undo the change.
  - For the FastOOM daemon there is M(osremed.host.fastoom_policy).
  - These daemons run without a policy too. Then their defaults hold, so a removed policy counts at once.
  - The new file is replaced whole, on disk, with the owner and mode of the old one. A symbolic link is never followed.
  - With O(undo_id) the way back is registered on the host before the file changes, so that the host can take the change
    back by itself when nobody confirms it. See M(osremed.host.undo).
  - When the daemon rejects the new policy, or does not answer, the old file is restored and the task fails.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.change
attributes:
  check_mode:
    support: full
    details:
      - The validator is run in check mode too, on a scratch file, if it is installed already.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - A policy that says the same in another layout is left as it is, unless O(content_b64) asks for exact bytes.
options:
  daemon:
    description:
      - Whose policy. V(timeline) is the GPU watch and its thresholds, V(hotspot) the recorder and what it may cost.
    type: str
    choices: [timeline, hotspot]
    required: true
  path:
    description: The policy file. Its directory must exist. Without it C(/etc/osremed/DAEMON.json).
    type: path
  state:
    description: Whether the file is there.
    type: str
    choices: [present, absent]
    default: present
  settings:
    description:
      - What the policy sets, such as C(temperature_margin_celsius) of V(timeline) or C(ceiling_percent) of V(hotspot).
      - The daemon says which keys it knows. Use O(validate) to ask it before the change.
    type: dict
  purge:
    description: Whether settings of the file that are not given go. Otherwise they stay.
    type: bool
    default: false
  content_b64:
    description:
      - The exact bytes of the file, in Base64. This is how RV(previous) undoes a change byte for byte.
    type: str
  mode:
    description: Mode of the file in octal. Without it a file keeps its mode and a new one gets V(0644).
    type: str
  expect_sha256:
    description:
      - Act only if the file has this SHA-256, or holds what is wanted already. Otherwise fail with RV(conflict=true).
      - An empty string means that there must be no file.
    type: str
  validate:
    description:
      - Command as a list of words that must accept the new file before it is put in place. Each V(%s) in it becomes the
        path of a scratch file. It is run without a shell and ended after 30 seconds.
    type: list
    elements: str
  status_file:
    description:
      - Status file of the daemon. It names the process to tell and says which policy it has loaded.
      - Without it C(/run/osremed/DAEMON.json).
    type: path
  reload:
    description:
      - V(auto) tells the daemon if one runs with this policy file, and then requires that it takes the policy.
      - V(required) fails before any change if no such daemon runs.
      - V(never) leaves the daemon alone.
    type: str
    choices: [auto, never, required]
    default: auto
  reload_timeout_s:
    description: How long the daemon may take to answer, in seconds.
    type: float
    default: 10.0
seealso:
  - module: osremed.host.fastoom_policy
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Ring at 10 degrees below the slowdown, to be confirmed within five minutes
  osremed.host.daemon_policy:
    daemon: timeline
    settings:
      temperature_margin_celsius: 10
    undo_id: run-42-step-1
    confirm_within: 300
  register: change

- name: Half a percent of the machine for the recorder, and a ring of 2 GB
  osremed.host.daemon_policy:
    daemon: hotspot
    settings:
      ceiling_percent: 0.5
      ring_bytes: 2000000000
    purge: true

- name: Take the first change back, byte for byte, unless someone else changed the file since
  osremed.host.daemon_policy: "{{ change.previous }}"
"""

RETURN = r"""
previous:
  description:
    - Arguments for this module that undo the change. Empty if nothing changed.
    - After a repeated call with the same O(undo_id) these are the arguments that undo the first one.
  returned: success
  type: dict
  sample: {"daemon": "timeline", "path": "/etc/osremed/timeline.json", "state": "absent", "expect_sha256": "9f2c..."}
applied_sha256:
  description: SHA-256 of the file after the change. An empty string if there is no file.
  returned: success
  type: str
previous_sha256:
  description: SHA-256 of the file before the change. An empty string if there was no file.
  returned: success
  type: str
reloaded:
  description: Whether the daemon said that it has loaded exactly this policy after it was told.
  returned: success
  type: bool
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
  description: Whether the file was left alone because it is not what O(expect_sha256) names.
  returned: on a conflict
  type: bool
rejected:
  description: Whether the validator or the daemon refused the new policy.
  returned: when the validator refused or the daemon did not take the policy
  type: bool
rejected_sha256:
  description: SHA-256 of the policy that was refused.
  returned: when the validator refused or the daemon did not take the policy
  type: str
restored:
  description: Whether the old file was put back.
  returned: when the daemon did not take the policy
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._change import carry_out
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._policyfile import merge_policy, parse_policy, render_policy
from ansible_collections.osremed.host.plugins.module_utils._policyoptions import OPTIONS, make_request, plan_of

KINDS = {"timeline": "TimelinePolicy", "hotspot": "HotspotPolicy"}


def argument_spec():
    return dict(
        daemon=dict(type="str", choices=list(KINDS), required=True),
        path=dict(type="path"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        settings=dict(type="dict"),
        purge=dict(type="bool", default=False),
        status_file=dict(type="path"),
        **OPTIONS
    )


def with_places(options):
    """The options, with the paths of the daemon where none is given."""
    places = {"path": "/etc/osremed/%s.json", "status_file": "/run/osremed/%s.json"}
    return dict(options, **{key: options[key] or place % options["daemon"] for key, place in places.items()})


def make_plan(options):
    """The function from the present FileState to the wanted one. ActionFailed for options that contradict each other."""
    settings = options["settings"]
    return plan_of(options, settings, lambda before: merged_bytes(before, settings, options), "settings or content_b64")


def merged_bytes(before, settings, options):
    existing = parse_policy(before.data, options["path"]) if before.exists else {}
    wanted = merge_policy({} if options["purge"] else existing, settings, "replace", KINDS[options["daemon"]])
    return before.data if existing == wanted else render_policy(wanted)


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[("content_b64", "settings")],
        required_by={"confirm_within": ["undo_id"]},
        supports_check_mode=True,
    )
    options = with_places(module.params)
    try:
        request = make_request(options, make_plan(options), lambda: module.tmpdir)
        result = carry_out(request, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if result["previous"]:
        result["previous"]["daemon"] = options["daemon"]
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
