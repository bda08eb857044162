#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: undo
short_description: Confirm a change or take it back, by its undo record
version_added: 0.1.0
description:
  - Modules of this collection register how to undo a change on the host before they act.
  - This module keeps such a change by deleting the record, or takes it back and then deletes the record.
  - Only what is still ours is taken back. A file or a value that someone else changed since is left alone, its record is
    renamed to end in C(.conflict), and the task fails with RV(conflict=true).
  - A value of a control group or a process that is gone needs no undo.
  - Before the record goes, systemd reads a drop-in that came back and the unit of a link is restarted. Where systemd says
    no, the task fails with RV(result=unfinished) and the record stays.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.undo
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - A second call finds no record and returns RV(result=absent). After a conflict it fails again.
options:
  id:
    description: Name of the undo record.
    type: str
    required: true
  state:
    description: V(confirmed) keeps the change, V(reverted) takes it back.
    type: str
    choices: [confirmed, reverted]
    required: true
  reload_timeout_s:
    description: How long the daemon may take to load what was restored, in seconds.
    type: float
    default: 10.0
seealso:
  - module: osremed.host.fastoom_policy
"""

EXAMPLES = r"""
- name: The change helped, keep it
  osremed.host.undo:
    id: run-42-step-1
    state: confirmed

- name: It did not, take it back
  osremed.host.undo:
    id: run-42-step-1
    state: reverted
"""

RETURN = r"""
result:
  description:
    - V(confirmed), the record is gone and the change stays.
    - V(restored), the old state is back, byte for byte.
    - V(nothing_to_do), the old state was there already.
    - V(absent), there is no such record. It was confirmed before, the host took the change back at its deadline, or it
      never was. Look at the file to know which.
    - V(unfinished), the old state is back, but systemd did not read it or did not restart its unit. The task fails, the
      record stays, and a second call does the rest.
    - V(conflict), the file is not what the change wrote. The task fails.
  returned: always
  type: str
  sample: restored
detail:
  description: The result in words, with what the daemon said.
  returned: always
  type: str
path:
  description: The file, or the first of the values, that the record is about. An empty string without a record.
  returned: when O(state=reverted)
  type: str
conflict:
  description: Whether the file was left alone because someone else changed it.
  returned: on a conflict
  type: bool
reloaded:
  description: Whether the daemon said that it has loaded what was restored.
  returned: when O(state=reverted)
  type: bool
evidence:
  description: What was seen and done, one sentence each.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _undo
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._link import restart
from ansible_collections.osremed.host.plugins.module_utils._reload import find_daemon, reload_and_wait, send_hangup
from ansible_collections.osremed.host.plugins.module_utils._systemd import daemon_reload, is_drop_in


def confirm(options, check_mode):
    outcome = _undo.confirm(options["undo_dir"], options["id"], check_mode)
    if outcome == "conflict":
        raise conflict_of(options, "")
    record = _undo.record_path(options["undo_dir"], options["id"])
    diff = {"before": "", "after": ""}
    if outcome == "confirmed":
        diff = {"before": "undo record %s\n" % record, "after": ""}
    evidence = ["record %s: %s" % (record, outcome)]
    return {
        "changed": outcome == "confirmed",
        "result": outcome,
        "detail": evidence[0],
        "evidence": evidence,
        "diff": diff,
    }


def revert(options, check_mode):
    said = {"reloaded": False, "evidence": []}

    def follow_now(record, outcome, after):
        follow(options, record, outcome, after, said)

    outcome, record, before, after = _undo.revert(options["undo_dir"], options["id"], check_mode, follow_now)
    path = _undo.about(record) if record else ""
    if outcome == "conflict":
        raise conflict_of(options, path)
    result = {
        "changed": record is not None,
        "result": outcome,
        "path": path,
        "reloaded": said["reloaded"],
        "evidence": ["%s: %s" % (path or "no record", outcome)] + said["evidence"],
        "diff": {"before": "", "after": ""},
    }
    if outcome == "restored":
        result["diff"] = {
            "before_header": path,
            "after_header": path if after.exists else "%s (absent)" % path,
            "before": before.data.decode("utf-8", "replace"),
            "after": after.data.decode("utf-8", "replace"),
        }
    result["detail"] = "; ".join(result["evidence"])
    return result


def follow(options, record, outcome, after, said):
    """Also when an earlier call, or the host itself, put the old state back and was ended here."""
    if record["reload_status"]:
        tell_daemon(record, after, options["reload_timeout_s"], said)
    part, link = _undo.file_of(record), _undo.link_of(record)
    if part and is_drop_in(part["path"]):  # or the unit would go on as the drop-in said, also after its next restart
        why = daemon_reload()
        if why:
            raise unfinished(options, record, outcome, "systemd has not read it: %s" % why)
        said["evidence"].append("systemd has read it")
    if link and link.unit:
        why = restart(link.unit)
        if why:
            raise unfinished(options, record, outcome, "%s was not restarted: %s" % (link.unit, why))
        said["evidence"].append("%s is being restarted" % link.unit)


def unfinished(options, record, outcome, why):
    path = _undo.about(record)
    hint = "mend that, then osremed agent undo revert %s" % options["id"]
    detail = "%s is as before, but %s. The record stays. Hint: %s" % (path, why, hint)
    return ActionFailed(detail, changed=outcome == "restored", result="unfinished", detail=detail, path=path)


def conflict_of(options, path):
    set_aside = os.path.join(options["undo_dir"], "%s.conflict" % options["id"])
    detail = "%s was changed by someone else since: it was left alone. The record is %s" % (
        path or "the file of undo %r" % options["id"],
        set_aside,
    )
    return ActionFailed(
        detail,
        result="conflict",
        detail=detail,
        conflict=True,
        path=path,
    )


def tell_daemon(record, after, timeout_s, said):
    """The file is back whatever the daemon says; its answer is reported, not required."""
    daemon, why_none = find_daemon(record["reload_status"], _undo.about(record))
    if daemon is None:
        said["evidence"].append("not reloaded: %s" % why_none)
    elif not after.exists and not daemon.optional:
        send_hangup(daemon)
        said["evidence"].append("pid %d was told; without a file it keeps its last policy until it ends" % daemon.pid)
    elif daemon.policy_sha256 == after.sha256 and not daemon.policy_error:
        said["evidence"].append("not reloaded: pid %d has this policy already" % daemon.pid)
    else:
        answer = reload_and_wait(daemon, record["reload_status"], after.sha256, timeout_s)
        said["reloaded"] = answer.kind == "loaded"
        said["evidence"].append("reload: %s after %.3f s: %s" % (answer.kind, answer.waited_s, answer.detail))


def main():
    module = AnsibleModule(
        argument_spec=dict(
            id=dict(type="str", required=True),
            undo_dir=dict(type="path", default="/var/lib/osremed/undo"),
            state=dict(type="str", choices=["confirmed", "reverted"], required=True),
            reload_timeout_s=dict(type="float", default=10.0),
        ),
        supports_check_mode=True,
    )
    act = confirm if module.params["state"] == "confirmed" else revert
    try:
        result = act(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
