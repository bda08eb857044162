#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_switch
short_description: Turn a declared switch of a service on or off in its configuration, with a way back
version_added: 0.1.0
description:
  - Sets one key of the JSON configuration of a service to the value that its owner declared for V(on) or V(off).
  - Only switches declared on the host are turned, see O(declared). Neither the file nor the values can be given by a caller.
  - The service is not restarted and not signalled. It has to read its file again by itself.
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
  name:
    description: The switch, as it is named where it is declared.
    type: str
    required: true
  state:
    description: What it is to be.
    type: str
    choices: ["on", "off"]
    default: "on"
  declared:
    description:
      - The file in which the owners of this host's services declare their switches, an object with the keys C(apiVersion)
        (V(osremed/v1)), C(kind) (V(ServiceSwitches)) and C(switches), a list.
      - Of a switch, C(name), C(file), C(key), C(on) and C(off) are read here. C(file) is the JSON configuration, C(key) a key of
        its top level, and the others are the two values.
    type: path
    default: /etc/osremed/switches.json
  restore:
    description: The configuration as RV(previous) remembers it. Takes the place of what O(state) would make of it.
    type: dict
  expect_sha256:
    description: Act only if the configuration has this SHA-256, or holds what is wanted already. Otherwise fail with
      RV(conflict=true).
    type: str
notes:
  - A key that has neither of the two values was set by somebody else. It is left alone, and the module fails.
  - The agent takes the change back by itself only where it may write. Name the directory of the configuration in
    C(agent_writable) of the role P(osremed.host.agent#role). Where it may not, a change with O(confirm_within) is refused.
seealso:
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Let the gateway keep what it read for a second
  osremed.host.service_switch:
    name: gateway-cache
    undo_id: run-7-step-1
    confirm_within: 600
"""

RETURN = r"""
path:
  description: The configuration.
  returned: success
  type: str
previous:
  description:
    - Arguments for this module that undo the change. Empty if nothing changed.
    - After a repeated call with the same O(undo_id) these are the arguments that undo the first one.
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

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _values
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._files import read_state
from ansible_collections.osremed.host.plugins.module_utils._undo import file_part, previous_of


def argument_spec():
    return dict(
        name=dict(type="str", required=True),
        state=dict(type="str", choices=["on", "off"], default="on"),
        declared=dict(type="path", default="/etc/osremed/switches.json"),
        restore=dict(type="dict"),
        expect_sha256=dict(type="str"),
        **_values.UNDO_OPTIONS,
    )


def document_of(state, path):
    """The object that a file holds. ActionFailed if it holds none."""
    if not state.exists:
        raise ActionFailed("%s does not exist" % path)
    try:
        document = json.loads(state.data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ActionFailed("%s is not JSON: %s" % (path, error))
    if not isinstance(document, dict):
        raise ActionFailed("%s is not a JSON object" % path)
    return document


def find_switch(declared, name):
    """The switch of that name. ActionFailed unless it is declared once and soundly."""
    document = document_of(read_state(declared), declared)
    if (document.get("apiVersion"), document.get("kind")) != ("osremed/v1", "ServiceSwitches"):
        raise ActionFailed("%s is not of osremed/v1, ServiceSwitches" % declared)
    rows = document.get("switches")
    found = [row for row in rows if isinstance(row, dict) and row.get("name") == name] if isinstance(rows, list) else []
    if len(found) != 1:
        raise ActionFailed("%s declares the switch %s %d times, not once" % (declared, name, len(found)))
    switch = found[0]
    for key in ("file", "key"):
        if not isinstance(switch.get(key), str) or not switch[key]:
            raise ActionFailed("%s: the switch %s has no %s" % (declared, name, key))
    if not os.path.isabs(switch["file"]):
        raise ActionFailed("%s: the file of %s is not an absolute path" % (declared, name))
    values = [switch.get("on"), switch.get("off")]
    if not all(isinstance(value, (bool, int, float, str)) for value in values) or same(*values):
        raise ActionFailed("%s: on and off of %s are not two different numbers, texts or truths" % (declared, name))
    return switch


def same(one, other):
    """As JSON has it: 1 is not true."""
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def turned(before, switch, state):
    """The bytes with the switch in that state, other keys and their order as they are."""
    path = switch["file"]
    document = document_of(before, path)
    key, value = switch["key"], switch[state]
    if key not in document:
        raise ActionFailed("%s has no key %s" % (path, key))
    present = document[key]
    if same(present, value):
        return before.data
    if not same(present, switch["on"]) and not same(present, switch["off"]):
        raise ActionFailed("%s of %s is %r, neither on nor off: somebody else set it" % (key, path, present))
    document[key] = value
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def wanted(options, switch, before):
    if options["restore"] is None:
        return before._replace(data=turned(before, switch, options["state"]))
    try:
        return previous_of({"previous": options["restore"]})
    except (KeyError, ValueError, TypeError) as error:
        raise ActionFailed("restore is not what this module returned as previous: %r" % error)


def plan_file(options, switch):
    path = switch["file"]
    before = read_state(path)
    after = wanted(options, switch, before)
    expected = options["expect_sha256"]
    if expected is not None and before.sha256 != expected and not before.same_content(after):
        raise ActionFailed("%s was changed by someone else since: it was left alone" % path, conflict=True)
    return _values.Plan([], None, _values.FilePlan(path, before, after))


def previous_arguments(options, file):
    return {
        "name": options["name"],
        "state": options["state"],
        "declared": options["declared"],
        "restore": file_part(*file[:2], applied_sha256="")["previous"],
        "expect_sha256": file.after.sha256,
    }


def change(options, check_mode):
    switch = find_switch(options["declared"], options["name"])
    path = switch["file"]
    request = _values.request_of(options, lambda: plan_file(options, switch), {}, os.path.dirname(path))
    result, done = _values.carry_out(request, check_mode)
    del result["values"]
    acted = result["changed"] or result["undo_registered"]
    return dict(result, path=path, previous=previous_arguments(options, done.file) if acted else {})


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
