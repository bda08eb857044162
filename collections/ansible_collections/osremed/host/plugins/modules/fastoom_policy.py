#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fastoom_policy
short_description: Set, replace or remove the FastOOM policy of a host, with a way back
version_added: 0.1.0
description:
  - Changes the policy file of the FastOOM daemon, has the daemon load it, and returns the arguments that undo the change.
  - The new file is validated before it takes the place of the old one. It is replaced whole, on disk, with the owner and
    mode of the old one. A symbolic link is never followed.
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
  path:
    description: The policy file. Its directory must exist.
    type: path
    default: /etc/osremed/fastoom.json
  state:
    description: Whether the file is there.
    type: str
    choices: [present, absent]
    default: present
  sensitivity:
    description: How early the daemon acts.
    type: str
    choices: [low, medium, high]
  scopes:
    description: What the daemon guards.
    type: list
    elements: dict
    suboptions:
      node:
        description: The whole host. Only V(true) has a meaning.
        type: bool
      cgroup:
        description: A control group, as a path below the hierarchy, such as V(/system.slice), or a glob.
        type: str
      sensitivity:
        description: How early the daemon acts there. Without it O(sensitivity) holds.
        type: str
        choices: [low, medium, high]
      overrides:
        description: Thresholds of this scope, as in O(overrides).
        type: dict
      kill:
        description: Whether the victim ends alone or with its whole control group.
        type: str
        choices: [process, group]
  protect:
    description: Processes that are never chosen.
    type: list
    elements: dict
    suboptions: &rule
      name:
        description: Glob on the name of the process or the base name of its first argument.
        type: str
      cmdline:
        description: Regular expression searched in the arguments, joined by spaces.
        type: str
      argv:
        description: Globs. Each must match one whole argument.
        type: list
        elements: str
      exe:
        description: Glob on the path of the program.
        type: str
      cgroup:
        description: Glob on the control group. It also means the groups below.
        type: str
      user:
        description: Name or number of the user.
        type: raw
  prefer:
    description: Processes that are chosen before others.
    type: list
    elements: dict
    suboptions: *rule
  avoid:
    description: Processes that are chosen after others.
    type: list
    elements: dict
    suboptions: *rule
  overrides:
    description:
      - Thresholds that take the place of what O(sensitivity) implies, such as C(enter_percent).
      - The daemon says which keys it knows. Use O(validate) to ask it before the change.
    type: dict
  limits:
    description: The storm breaker of the daemon.
    type: dict
    suboptions:
      max_kills:
        description: Processes that may be ended within O(limits.window_s), over all scopes.
        type: int
      window_s:
        description: Length of the window in seconds.
        type: float
      cooldown_s:
        description: Rest between two interventions in one scope, in seconds.
        type: float
  merge:
    description:
      - V(replace) puts each given setting in the place of the one in the file. Settings that are not given stay.
      - V(extend) appends rules and scopes that are not there yet and updates O(overrides) and O(limits) key by key.
    type: str
    choices: [replace, extend]
    default: replace
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
    description: Status file of the daemon. It names the process to tell and says which policy it has loaded.
    type: path
    default: /run/osremed/fastoom.json
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
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Raise the sensitivity, to be confirmed within five minutes
  osremed.host.fastoom_policy:
    sensitivity: medium
    validate: [/opt/osremed/host/current/osremed, fastoom, check, "%s"]
    undo_id: run-42-step-1
    confirm_within: 300
  register: change

- name: Protect one more service
  osremed.host.fastoom_policy:
    protect:
      - cmdline: ^/usr/bin/python3 .*ota-gateway
    merge: extend

- name: Take the first change back, byte for byte, unless someone else changed the file since
  osremed.host.fastoom_policy: "{{ change.previous }}"
"""

RETURN = r"""
previous:
  description:
    - Arguments for this module that undo the change. Empty if nothing changed.
    - After a repeated call with the same O(undo_id) these are the arguments that undo the first one.
  returned: success
  type: dict
  sample: {"path": "/etc/osremed/fastoom.json", "state": "absent", "expect_sha256": "9f2c..."}
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
from ansible_collections.osremed.host.plugins.module_utils._policyfile import (
    merge_policy,
    parse_policy,
    render_policy,
    without_unset,
)
from ansible_collections.osremed.host.plugins.module_utils._policyoptions import OPTIONS, make_request, plan_of

SETTINGS = ("sensitivity", "scopes", "protect", "prefer", "avoid", "overrides", "limits")
RULE_KEYS = ("name", "cmdline", "argv", "exe", "cgroup", "user")
_SENSITIVITY = ["low", "medium", "high"]


def argument_spec():
    rules = dict(
        type="list",
        elements="dict",
        options=dict(
            {key: dict(type="str") for key in RULE_KEYS},
            argv=dict(type="list", elements="str"),
            user=dict(type="raw"),
        ),
        required_one_of=[RULE_KEYS],
    )
    scopes = dict(
        type="list",
        elements="dict",
        options=dict(
            node=dict(type="bool"),
            cgroup=dict(type="str"),
            sensitivity=dict(type="str", choices=_SENSITIVITY),
            overrides=dict(type="dict"),
            kill=dict(type="str", choices=["process", "group"]),
        ),
        required_one_of=[("node", "cgroup")],
        mutually_exclusive=[("node", "cgroup")],
    )
    return dict(
        path=dict(type="path", default="/etc/osremed/fastoom.json"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        sensitivity=dict(type="str", choices=_SENSITIVITY),
        scopes=scopes,
        protect=rules,
        prefer=rules,
        avoid=rules,
        overrides=dict(type="dict"),
        limits=dict(
            type="dict",
            options=dict(max_kills=dict(type="int"), window_s=dict(type="float"), cooldown_s=dict(type="float")),
        ),
        merge=dict(type="str", choices=["replace", "extend"], default="replace"),
        status_file=dict(type="path", default="/run/osremed/fastoom.json"),
        **OPTIONS
    )


def make_plan(options):
    """The function from the present FileState to the wanted one. ActionFailed for options that contradict each other."""
    given = {key: options[key] for key in SETTINGS if options[key] is not None}
    for key in ("scopes", "protect", "prefer", "avoid"):
        if key in given:
            given[key] = without_unset(given[key])
    if "limits" in given:
        (given["limits"],) = without_unset([given["limits"]])
    if any(scope.get("node") is False for scope in given.get("scopes", [])):
        raise ActionFailed("scopes: node can only be true. Leave the entry out to not guard the whole host")
    needs = "at least one of: %s, content_b64" % ", ".join(SETTINGS)
    return plan_of(options, given or None, lambda before: merged_bytes(before, given, options), needs)


def merged_bytes(before, given, options):
    existing = parse_policy(before.data, options["path"]) if before.exists else {}
    wanted = merge_policy(existing, given, options["merge"])
    if existing == wanted:
        return before.data
    return render_policy(wanted)


def main():
    settings_or_bytes = [("content_b64", key) for key in SETTINGS]
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=settings_or_bytes,
        required_by={"confirm_within": ["undo_id"]},
        supports_check_mode=True,
    )
    options = module.params
    try:
        request = make_request(options, make_plan(options), lambda: module.tmpdir)
        result = carry_out(request, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
