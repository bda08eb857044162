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
  - A node of Slurm is given back only while it is out for a reason of osremed's and is neither down nor failing nor in
    maintenance. A node that is out already keeps the reason it has.
  - Kubernetes keeps no reason. A node that somebody else cordoned since as well looks like one that only osremed
    cordoned, and is given back. Who takes such a node out marks it with a taint of their own, which stays.
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
      - A node that is out of its scheduler already is drained, and is a change, only when something is left on it.
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
      - What is left are jobs, and pods that have not ended, but not those of a DaemonSet or those that the node itself
        starts.
    type: str
    choices: [cordoned, drained, resumed]
    default: drained
  reason:
    description:
      - Why, for those who look at the node. Slurm keeps it, after C(osremed:) unless it begins with C(osremed).
      - Without it the node is taken out with C(osremed takes a GPU out of use).
      - With O(state=resumed), give back only a node of Slurm that is out for this reason, otherwise fail with
        RV(conflict=true). Without it, one that is out for any reason that begins with C(osremed).
    type: str
  delete_emptydir_data:
    description: Whether pods of Kubernetes that keep data on the node are evicted too. Their data is lost.
    type: bool
    default: false
  expect_schedulable:
    description:
      - Act only if the node does take work, or does not, or is already as O(state) wants it in that.
      - Otherwise fail with RV(conflict=true).
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

- name: Give it back, unless somebody else took it out since
  osremed.host.gpu_drain:
    scheduler: slurm
    node: gpu-17
    state: resumed
    reason: Xid 79
  delegate_to: slurm-controller
"""

RETURN = r"""
before:
  description:
    - Whether the node took work, and what its scheduler called its state.
    - Whether something was left on it. Of a node of Kubernetes this is known only with O(state=drained).
    - The reason that Slurm keeps.
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
DRAINED = ("DRAIN", "DRAINED", "DRAINING")
#: Those that say that it is out for more than a drain, which State=RESUME would end as well.
WORSE = ("DOWN", "FAIL", "FAILING", "MAINT", "MAINTENANCE")
#: What a reason of ours begins with, and the one without any.
OURS = "osremed"
WHY = "osremed takes a GPU out of use"
#: Slurm writes who gave the reason, and when, after it.
STAMPED = re.compile(r"(?:^|\s)Reason=(.*?)\s+\[[^\s\[\]@]*@[^\[\]]*\](?=\s|$)")
UNSTAMPED = re.compile(r"(?:^|\s)Reason=(.*?)(?=\s+[A-Z]\w*=|\s*$)")


def argument_spec():
    return dict(
        scheduler=dict(type="str", choices=["kubernetes", "slurm"], required=True),
        node=dict(type="str", required=True),
        state=dict(type="str", choices=["cordoned", "drained", "resumed"], default="drained"),
        reason=dict(type="str"),
        delete_emptydir_data=dict(type="bool", default=False),
        expect_schedulable=dict(type="bool"),
        timeout_s=dict(type="float", default=600.0),
    )


def check_options(options):
    if not NODE.fullmatch(options["node"]):
        raise ActionFailed("%r is not the name of a node" % options["node"])
    if not 0 < options["timeout_s"] <= MAX_TIMEOUT_S:
        raise ActionFailed("timeout_s %g is not above 0 and at most %g seconds" % (options["timeout_s"], MAX_TIMEOUT_S))
    reason = options["reason"]
    if reason is not None and not (reason.strip() and len(reason) <= 200 and reason.isprintable()):
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


def parse_pods(text):
    """Names of the pods that C(kubectl drain) would evict and that have not ended, from C(kubectl get pods -o json)."""
    try:
        return ["%(namespace)s/%(name)s" % pod["metadata"] for pod in json.loads(text)["items"] if _is_work(pod)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ActionFailed("kubectl says nothing that is understood: %r" % error)


def _is_work(pod):
    about = pod["metadata"]
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    if "kubernetes.io/config.mirror" in (about.get("annotations") or {}):
        return False
    owners = about.get("ownerReferences") or []
    return not any(owner.get("kind") == "DaemonSet" and owner.get("controller") for owner in owners)


def plain(reason):
    """As Slurm keeps it: C(scontrol) takes a quotation mark at either end for its own."""
    return " ".join(reason.split()).strip('"').strip()


def reason_of(options):
    """The reason that the node is taken out with."""
    reason = plain(options["reason"] or WHY)
    return reason if reason.startswith(OURS) else "%s: %s" % (OURS, reason)


def words_of(state):
    return [word.rstrip("*~#!%$@^-") for word in state.split("+")]


def parse_slurm(text):
    """{schedulable, state, busy, reason} from C(scontrol show node -o)."""
    match = re.search(r"(?:^|\s)State=([A-Z0-9_+*~#!%$@^-]+)", text)
    if not match:
        raise ActionFailed("scontrol says nothing that is understood: %r" % text[:200])
    words = words_of(match.group(1))
    why = STAMPED.search(text) or UNSTAMPED.search(text)
    return {
        "schedulable": not any(word in DRAINED + WORSE for word in words),
        "state": match.group(1),
        "busy": any(word in BUSY for word in words),
        "reason": plain(why.group(1)) if why else "",
    }


def look(options):
    node = options["node"]
    if options["scheduler"] == "slurm":
        return parse_slurm(run(["scontrol", "show", "node", node, "-o"], ASK_S))
    found = parse_kubernetes(run(["kubectl", "get", "node", node, "-o", "json"], ASK_S))
    if options["state"] != "drained":
        return found
    there = ["--all-namespaces", "--field-selector", "spec.nodeName=" + node]
    return dict(found, busy=bool(parse_pods(run(["kubectl", "get", "pods"] + there + ["-o", "json"], ASK_S))))


def why_not_ours(options, found):
    """Why a node that is out is not osremed's to give back, or an empty string."""
    if options["scheduler"] != "slurm":
        return ""
    if any(word in WORSE for word in words_of(found["state"])):
        return "it is %s (%s), which is more than a drain" % (found["state"], found["reason"] or "no reason told")
    if options["reason"] is None:
        return "" if found["reason"].startswith(OURS) else "it is out for %r, which is not osremed's" % found["reason"]
    wanted = reason_of(options)
    return "" if found["reason"] == wanted else "it is out for %r, not for %r" % (found["reason"], wanted)


def commands(options, takes_work):
    """What is run, in order. A node that is out already keeps the reason it has."""
    node, state = options["node"], options["state"]
    if options["scheduler"] == "slurm":
        if state == "resumed":
            return [["scontrol", "update", "NodeName=" + node, "State=RESUME"]]
        out = ["scontrol", "update", "NodeName=" + node, "State=DRAIN", "Reason=" + reason_of(options)]
        return [out] if takes_work else []
    if state == "resumed":
        return [["kubectl", "uncordon", node]]
    words = [["kubectl", "cordon", node]] if takes_work else []
    if state == "drained":
        drain = ["kubectl", "drain", node, "--ignore-daemonsets", "--timeout=%ds" % max(1, options["timeout_s"])]
        words.append(drain + (["--delete-emptydir-data"] if options["delete_emptydir_data"] else []))
    return words


def wait_for_jobs(options, changed):
    """Slurm lets jobs end by themselves. `changed`: whether the node was taken out for it."""
    deadline = time.monotonic() + options["timeout_s"]
    while True:
        found = look(options)
        if not found["busy"]:
            return found
        if time.monotonic() >= deadline:
            raise ActionFailed(
                "%s takes no new work, and jobs still run on it after %g s" % (options["node"], options["timeout_s"]),
                changed=changed,
            )
        time.sleep(1.0)


def previous_of(options):
    """Options that take the call back. A node that somebody gave back since takes work: nothing is left to do then."""
    if options["state"] != "cordoned":
        return {}
    back = {"scheduler": options["scheduler"], "node": options["node"], "state": "resumed"}
    return dict(back, reason=reason_of(options)) if options["scheduler"] == "slurm" else back


def check_expected(options, before, wanted):
    """ActionFailed when the node is neither as expected nor as wanted, or is not ours to give back."""
    if before["schedulable"] is wanted:
        return
    if options["expect_schedulable"] not in (None, before["schedulable"]):
        raise ActionFailed(
            "%s is %s, which is not as expected. It was left alone" % (options["node"], before["state"]), conflict=True
        )
    why = why_not_ours(options, before) if wanted else ""
    if why:
        raise ActionFailed(
            "%s is not given back: %s. It was left alone. Hint: who took it out gives it back, "
            "with scontrol update NodeName=%s State=RESUME" % (options["node"], why, options["node"]),
            conflict=True,
        )


def act(options, check_mode):
    check_options(options)
    before, wanted = look(options), options["state"] == "resumed"
    check_expected(options, before, wanted)
    flips = before["schedulable"] is not wanted
    drains = options["state"] == "drained" and before["busy"]
    result = {
        "changed": flips or drains,
        "before": before,
        "after": before,
        "previous": previous_of(options) if flips else {},
        "as_seen": {"expect_schedulable": before["schedulable"]},
        "evidence": ["%s is %s" % (options["node"], before["state"])],
        "diff": diff_of(options, before, wanted),
    }
    if check_mode or not result["changed"]:
        return result
    done = False
    for words in commands(options, before["schedulable"]):
        # A drain that fails has evicted some.
        run(words, options["timeout_s"] + ASK_S, changed=done or words[1] == "drain")
        done = True
        result["evidence"].append(" ".join(words[:3]))
    waits = options["scheduler"] == "slurm" and options["state"] == "drained"
    after = wait_for_jobs(options, flips) if waits else look(options)
    if after["schedulable"] is not wanted:
        raise ActionFailed("%s is %s after all" % (options["node"], after["state"]), changed=True)
    return dict(result, after=after)


def diff_of(options, before, wanted):
    """What is left on the node is told where it is to be drained."""

    def told(takes_work, busy):
        left = "%s: something is left on it: %s\n" % (options["node"], busy) if options["state"] == "drained" else ""
        return "%s: takes work: %s\n" % (options["node"], takes_work) + left

    return {"before": told(before["schedulable"], before["busy"]), "after": told(wanted, False)}


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
