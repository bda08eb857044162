#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_app_limits
short_description: Limit how a service uses GPU memory, by its environment, with a way back
version_added: 0.1.0
description:
  - Writes environment variables that GPU libraries obey, such as C(PYTORCH_ALLOC_CONF), to one drop-in of a unit of systemd, and has
    systemd read it.
  - The service is not restarted. It obeys from its next start on, see M(osremed.host.service_restart).
  - The drop-in belongs to this module alone. O(environment) is all that is in it.
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
  unit:
    description: The service with its ending, such as V(inference.service).
    type: str
    required: true
  environment:
    description:
      - Variables by name. Only those of GPU libraries and servers are taken, which begin with V(PYTORCH_), V(TORCH_), V(NCCL_),
        V(CUDA_), V(CUBLAS_), V(XLA_), V(TF_), V(VLLM_) or V(KINETO_).
      - An empty dictionary removes the drop-in.
    type: dict
    required: true
  root:
    description: The directory of units.
    type: path
    default: /etc/systemd/system
  daemon_reload:
    description: Whether systemd is told. Without it the change waits for the next C(systemctl daemon-reload).
    type: bool
    default: true
  restore:
    description: The drop-in as RV(previous) remembers it. Takes the place of what O(environment) would make of it.
    type: dict
  expect_sha256:
    description:
      - Act only if the drop-in has this SHA-256, or holds what is wanted already. Otherwise fail with RV(conflict=true).
      - An empty string means that there must be no file.
    type: str
notes:
  - When the host takes the change back by itself, the file is as before and systemd has read it. The service obeys from its
    next start on.
seealso:
  - module: osremed.host.service_restart
  - module: osremed.host.undo
"""

EXAMPLES = r"""
- name: Let PyTorch give memory back before it asks for more
  osremed.host.gpu_app_limits:
    unit: inference.service
    environment:
      PYTORCH_ALLOC_CONF: garbage_collection_threshold:0.8
    undo_id: run-7-step-1
    confirm_within: 600
"""

RETURN = r"""
path:
  description: The drop-in.
  returned: success
  type: str
restart_needed:
  description: Whether the service has to be restarted to obey.
  returned: success
  type: bool
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

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _values
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState, read_state
from ansible_collections.osremed.host.plugins.module_utils._link import check_unit
from ansible_collections.osremed.host.plugins.module_utils._systemd import daemon_reload
from ansible_collections.osremed.host.plugins.module_utils._undo import file_part, previous_of

FILE = "90-osremed-gpu.conf"
HEADER = "# Written by osremed.host.gpu_app_limits\n[Service]\n"
NAME = re.compile(r"(?:PYTORCH|TORCH|NCCL|CUDA|CUBLAS|XLA|TF|VLLM|KINETO)_[A-Z0-9_]{1,100}")


def argument_spec():
    return dict(
        unit=dict(type="str", required=True),
        environment=dict(type="dict", required=True),
        root=dict(type="path", default="/etc/systemd/system"),
        daemon_reload=dict(type="bool", default=True),
        restore=dict(type="dict"),
        expect_sha256=dict(type="str"),
        **_values.UNDO_OPTIONS,
    )


def drop_in(environment):
    """The bytes of the file. ActionFailed for a name or value that is not to be set like this."""
    lines = []
    for name, value in sorted(environment.items()):
        text = str(int(value)) if isinstance(value, bool) else str(value)
        if not NAME.fullmatch(name):
            raise ActionFailed("%s is not a variable of a GPU library. Hint: see the option environment" % name)
        if isinstance(value, (dict, list)) or value is None or len(text) > 1000 or not text.isprintable():
            raise ActionFailed("%s: %r is not one line of text or a number" % (name, value))
        # As systemd reads it: quoted, a percent sign begins a specifier.
        text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append('Environment="%s=%s"\n' % (name, text))
    return (HEADER + "".join(lines)).encode("utf-8")


def wanted(options, before):
    if options["restore"] is not None:
        try:
            return previous_of({"previous": options["restore"]})
        except (KeyError, ValueError, TypeError) as error:
            raise ActionFailed("restore is not what this module returned as previous: %r" % error)
    data = drop_in(options["environment"])
    if not options["environment"]:
        return ABSENT
    return before._replace(data=data) if before.exists else FileState(True, data, 0o644, os.geteuid(), os.getegid())


def plan_file(options, path):
    before = read_state(path)
    after = wanted(options, before)
    expected = options["expect_sha256"]
    if expected is not None and before.sha256 != expected and not before.same_content(after):
        raise ActionFailed("%s was changed by someone else since: it was left alone" % path, conflict=True)
    return _values.Plan([], None, _values.FilePlan(path, before, after))


def previous_arguments(options, file):
    return {
        "unit": options["unit"],
        "environment": options["environment"],
        "root": options["root"],
        "daemon_reload": options["daemon_reload"],
        "restore": file_part(*file[:2], applied_sha256="")["previous"],
        "expect_sha256": file.after.sha256,
    }


def reload_systemd(result):
    said = daemon_reload()
    if said:
        raise ActionFailed(
            "the drop-in is written and systemd has not read it: %s. Hint: systemctl daemon-reload, or undo it" % said,
            changed=result["changed"],
        )
    result["evidence"].append("systemd has read it")


def change(options, check_mode):
    if not check_unit(options["unit"]).endswith(".service"):
        raise ActionFailed("%s is not a service" % options["unit"])
    if not os.path.isabs(options["root"]) or not os.path.isdir(options["root"]):
        raise ActionFailed("root %s is not a directory. Hint: this module needs systemd" % options["root"])
    directory = os.path.join(options["root"], options["unit"] + ".d")
    path = os.path.join(directory, FILE)
    drop_in(options["environment"])
    if not check_mode:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    request = _values.request_of(options, lambda: plan_file(options, path), {}, directory)
    result, done = _values.carry_out(request, check_mode)
    del result["values"]
    acted = result["changed"] or result["undo_registered"]
    # Also when the file is so already: who wrote it, an earlier call or the host itself, may have been ended right after.
    if (acted or options["restore"] is not None) and options["daemon_reload"] and not check_mode:
        reload_systemd(result)
    previous = previous_arguments(options, done.file) if acted else {}
    return dict(result, path=path, restart_needed=result["changed"], previous=previous)


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
