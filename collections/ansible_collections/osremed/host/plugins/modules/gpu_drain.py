#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_drain
short_description: Take a node out of its scheduler, or give it back
version_added: 0.1.0
description:
  - Cordons, drains or resumes a node of Kubernetes or Slurm by C(kubectl) or C(scontrol), before a GPU of it is reset or replaced.
  - It runs where these commands are, so it is often delegated to a host that manages the cluster.
  - Jobs that are evicted cannot be brought back. The node comes back with O(state=resumed).
  - Nobody is evicted by O(state=cordoned), so that one can be taken back whole.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - A node that is out of its scheduler already is drained once more, which does nothing when nothing is left on it.
options:
  scheduler:
    description: Whose node it is.
    type: str
    choices: [kubernetes, slurm]
    required: true
  node:
    description: The name of the node as the scheduler knows it.
    type: str
    required: true
  state:
    description:
      - With V(cordoned) nothing new is put on the node. With V(drained) also nothing is left on it when the task is done.
      - Slurm never evicts. There V(drained) waits for the jobs to end.
    type: str
    choices: [cordoned, drained, resumed]
    default: drained
  reason:
    description: Why, for those who look at the node. Slurm keeps it.
    type: str
    default: osremed takes a GPU out of use
  delete_emptydir_data:
    description: Whether pods of Kubernetes that keep data on the node are evicted too. Their data is lost.
    type: bool
    default: false
  expect_schedulable:
    description: Act only if the node does take work, or does not. Otherwise fail with RV(conflict=true).
    type: bool
  timeout_s:
    description: Seconds until nothing may be left on the node.
    type: float
    default: 600.0
seealso:
  - module: osremed.host.gpu_reset
"""

EXAMPLES = r"""
- name: No new work, and nothing left, before the GPU is reset
  osremed.host.gpu_drain:
    scheduler: slurm
    node: gpu-17
    reason: Xid 79
  delegate_to: slurm-controller
"""

RETURN = r"""
before:
  description: Whether the node took work, and what its scheduler called its state.
  returned: success
  type: dict
after:
  description: The same after. In check mode as before.
  returned: success
  type: dict
previous:
  description:
    - After O(state=cordoned), options that give the node back. The same call in check mode says them too.
    - Otherwise empty, since evicted work does not come back.
  returned: success
  type: dict
as_seen:
  description: Options with which the same call refuses when the node is no longer as it was before this one.
  returned: success
  type: dict
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
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from

NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,250}[A-Za-z0-9])?")
ASK_S = 30.0
MAX_TIMEOUT_S = 86400.0
#: Words of Slurm's State that say that something runs still.
BUSY = ("ALLOCATED", "MIXED", "COMPLETING")


def argument_spec():
    return dict(
        scheduler=dict(type="str", choices=["kubernetes", "slurm"], required=True),
        node=dict(type="str", required=True),
        state=dict(type="str", choices=["cordoned", "drained", "resumed"], default="drained"),
        reason=dict(type="str", default="osremed takes a GPU out of use"),
        delete_emptydir_data=dict(type="bool", default=False),
        expect_schedulable=dict(type="bool"),
        timeout_s=dict(type="float", default=600.0),
    )


def check_options(options):
    if not NODE.fullmatch(options["node"]):
        raise ActionFailed("%r is not the name of a node" % options["node"])
    if not 0 < options["timeout_s"] <= MAX_TIMEOUT_S:
        raise ActionFailed("timeout_s %g is not above 0 and at most %g seconds" % (options["timeout_s"], MAX_TIMEOUT_S))
    if not options["reason"] or len(options["reason"]) > 200 or not options["reason"].isprintable():
        raise ActionFailed("reason must be one line of 1 to 200 characters")


def run(words, timeout_s, changed=False):
    """Standard output. ActionFailed with what was said when it did not end well in time."""
    ended = run_bounded(words, timeout_s, 8 << 20)
    if ended.code != 0:
        said = ended.why_no_code or (ended.stderr_text().strip() or ended.stdout_text().strip())[-500:]
        raise ActionFailed("%s %s failed: %s" % (words[0], words[1], said or ended.code), changed=changed)
    return ended.stdout_text()


def parse_kubernetes(text):
    """{schedulable, state} from C(kubectl get node -o json)."""
    try:
        schedulable = not json.loads(text)["spec"].get("unschedulable", False)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ActionFailed("kubectl says nothing that is understood: %r" % error)
    return {"schedulable": schedulable, "state": "Schedulable" if schedulable else "SchedulingDisabled", "busy": None}


def parse_slurm(text):
    """{schedulable, state, busy} from C(scontrol show node -o)."""
    match = re.search(r"(?:^|\s)State=([A-Z0-9_+*~#!%$@^-]+)", text)
    if not match:
        raise ActionFailed("scontrol says nothing that is understood: %r" % text[:200])
    words = [word.rstrip("*~#!%$@^-") for word in match.group(1).split("+")]
    out = any(word in ("DRAIN", "DRAINED", "DRAINING", "DOWN", "FAIL", "MAINT") for word in words)
    return {"schedulable": not out, "state": match.group(1), "busy": any(word in BUSY for word in words)}


def look(options):
    node = options["node"]
    if options["scheduler"] == "kubernetes":
        return parse_kubernetes(run(["kubectl", "get", "node", node, "-o", "json"], ASK_S))
    return parse_slurm(run(["scontrol", "show", "node", node, "-o"], ASK_S))


def commands(options):
    """What is run, in order."""
    node, state = options["node"], options["state"]
    if options["scheduler"] == "slurm":
        if state == "resumed":
            return [["scontrol", "update", "NodeName=" + node, "State=RESUME"]]
        return [["scontrol", "update", "NodeName=" + node, "State=DRAIN", "Reason=" + options["reason"]]]
    if state == "resumed":
        return [["kubectl", "uncordon", node]]
    words = [["kubectl", "cordon", node]]
    if state == "drained":
        drain = ["kubectl", "drain", node, "--ignore-daemonsets", "--timeout=%ds" % max(1, options["timeout_s"])]
        words.append(drain + (["--delete-emptydir-data"] if options["delete_emptydir_data"] else []))
    return words


def wait_for_jobs(options):
    """Slurm lets jobs end by themselves."""
    deadline = time.monotonic() + options["timeout_s"]
    while True:
        found = look(options)
        if not found["busy"]:
            return found
        if time.monotonic() >= deadline:
            raise ActionFailed(
                "%s takes no new work, and jobs still run on it after %g s" % (options["node"], options["timeout_s"]),
                changed=True,
            )
        time.sleep(1.0)


def previous_of(options):
    """Options that take the call back. A node that somebody gave back since takes work: nothing is left to do then."""
    if options["state"] != "cordoned":
        return {}
    return {"scheduler": options["scheduler"], "node": options["node"], "state": "resumed"}


def act(options, check_mode):
    check_options(options)
    before, wanted = look(options), options["state"] == "resumed"
    if options["expect_schedulable"] not in (None, before["schedulable"]):
        raise ActionFailed(
            "%s is %s, which is not as expected. It was left alone" % (options["node"], before["state"]), conflict=True
        )
    drains = options["state"] == "drained" and (options["scheduler"] == "kubernetes" or before["busy"])
    changed = before["schedulable"] is not wanted
    result = {
        "changed": changed,
        "before": before,
        "after": before,
        "previous": previous_of(options) if changed else {},
        "as_seen": {"expect_schedulable": before["schedulable"]},
        "evidence": ["%s is %s" % (options["node"], before["state"])],
        "diff": {
            "before": "%s: takes work: %s\n" % (options["node"], before["schedulable"]),
            "after": "%s: takes work: %s\n" % (options["node"], wanted),
        },
    }
    if check_mode or not (changed or drains):
        return result
    done = False
    for words in commands(options):
        run(words, options["timeout_s"] + ASK_S, changed=done)
        done = done or changed
        result["evidence"].append(" ".join(words[:3]))
    after = wait_for_jobs(options) if options["state"] == "drained" else look(options)
    if after["schedulable"] is not wanted:
        raise ActionFailed("%s is %s after all" % (options["node"], after["state"]), changed=True)
    return dict(result, after=after)


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = act(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
