#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_reset
short_description: Reset one GPU that nobody uses
version_added: 0.1.0
description:
  - Resets the GPU with O(uuid) by C(nvidia-smi) when the driver asks for it, and believes only what the driver says afterwards.
  - A GPU that any process holds is refused, whoever that is, and so is one of which this cannot be known. Drain the node first,
    see M(osremed.host.gpu_drain).
  - GPUs that are linked by NVLink may have to be reset together. Then C(nvidia-smi) refuses, and so does this module.
  - This cannot be undone.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.onhost
attributes:
  check_mode:
    support: full
    details:
      - All refusals are made in check mode too. Whether the GPU will be well afterwards is not known.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - With O(require_recovery) a GPU that was reset is refused, since the driver no longer asks for it.
options:
  uuid:
    description: The GPU, such as V(GPU-b2c0aa2e-8a2c-4d5b-9f3e-6a1a5c7d9e10). Indices are not taken, as they may move.
    type: str
    required: true
  bdf:
    description: Act only if the GPU has this PCI address. Otherwise fail with RV(conflict=true).
    type: str
  require_recovery:
    description: Whether the driver itself must ask for a reset.
    type: bool
    default: true
  bug_report:
    description:
      - Where to put the bug report of the driver before the reset, which loses its evidence. A file that ends in C(.log.gz).
      - Without a report nothing is reset.
    type: path
  timeout_s:
    description: Seconds for each of the bug report, the reset, and the wait for a driver that asks for nothing more.
    type: float
    default: 120.0
  expect_processes:
    description: Act only if so many processes hold the GPU. This is always V(0), and part of RV(as_seen).
    type: int
    choices: [0]
    default: 0
seealso:
  - module: osremed.host.gpu_drain
  - module: osremed.host.gpu_info
"""

EXAMPLES = r"""
- name: Reset the GPU that the driver wants to be reset
  osremed.host.gpu_reset:
    uuid: GPU-b2c0aa2e-8a2c-4d5b-9f3e-6a1a5c7d9e10
    bug_report: /var/lib/osremed/bug-report-1.log.gz
"""

RETURN = r"""
before:
  description: The GPU before.
  returned: success
  type: dict
after:
  description: The GPU after. In check mode the same as before.
  returned: success
  type: dict
healthy:
  description: Whether the driver answers for the GPU and asks for nothing more. None in check mode.
  returned: success
  type: bool
previous:
  description: Always empty, since a reset cannot be taken back.
  returned: success
  type: dict
as_seen:
  description: Options with which the same call refuses when the host is no longer as it was before this one.
  returned: success
  type: dict
evidence:
  description: What was seen and done, one sentence each.
  returned: success
  type: list
  elements: str
refused:
  description: Why the GPU must not be reset.
  returned: when it is not to be touched
  type: str
conflict:
  description: Whether it was left alone because it is not what was expected.
  returned: on a conflict
  type: bool
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _gpu
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import COMMAND

MAX_TIMEOUT_S = 1800.0
ASK_S = 30.0


def argument_spec():
    return dict(
        uuid=dict(type="str", required=True),
        bdf=dict(type="str"),
        require_recovery=dict(type="bool", default=True),
        bug_report=dict(type="path"),
        timeout_s=dict(type="float", default=120.0),
        expect_processes=dict(type="int", choices=[0], default=0),
        command=dict(type="list", elements="str", default=COMMAND),
    )


def check_options(options):
    _gpu.check_uuid(options["uuid"])
    if not 0 < options["timeout_s"] <= MAX_TIMEOUT_S:
        raise ActionFailed("timeout_s %g is not above 0 and at most %g seconds" % (options["timeout_s"], MAX_TIMEOUT_S))
    report = options["bug_report"]
    if report is not None and not (os.path.isabs(report) and report.endswith(".log.gz")):
        raise ActionFailed("bug_report %s is not an absolute path that ends in .log.gz" % report)


def look(options):
    """The GPU, if it may be reset."""
    document = _gpu.survey(options["command"], ASK_S)
    gpu = _gpu.find(document, options["uuid"])
    if gpu is not None and options["bdf"] not in (None, gpu.get("bdf")):
        raise ActionFailed(
            "%s is at %s, not at %s. It was left alone" % (options["uuid"], gpu.get("bdf"), options["bdf"]),
            conflict=True,
            refused="it is at another address",
        )
    why = _gpu.why_untouchable(gpu, document, options["require_recovery"])
    if why:
        raise ActionFailed("%s is not to be reset: %s" % (options["uuid"], why), refused=why, evidence=[])
    return gpu


def run(words, options, what):
    """Raises unless it ended well in time."""
    ended = run_bounded(words, options["timeout_s"], 4 << 20)
    if ended.code != 0:
        said = ended.why_no_code or (ended.stderr_text().strip() or ended.stdout_text().strip())[-500:]
        raise ActionFailed("%s: %s failed: %s" % (options["uuid"], what, said or "exit code %d" % ended.code))


def wait_until_well(options):
    """The GPU once the driver answers for it and asks for nothing. ActionFailed when the time is over."""
    deadline = time.monotonic() + options["timeout_s"]
    while True:
        try:
            gpu = _gpu.find(_gpu.survey(options["command"], ASK_S), options["uuid"])
            why = "it does not answer" if gpu is None else "the driver asks for more"
            if gpu is not None and (gpu.get("metrics") or {}).get("recovery_action") == 0:
                return gpu
        except ActionFailed as error:
            why = str(error)
        if time.monotonic() >= deadline:
            raise ActionFailed("%s was reset and is not well: %s" % (options["uuid"], why), changed=True, healthy=False)
        time.sleep(1.0)


def act(options, check_mode):
    check_options(options)
    gpu = look(options)
    before = _gpu.short(gpu)
    shown = "%s at %s" % (before["uuid"], before["bdf"])
    result = {
        "changed": True,
        "before": before,
        "after": before,
        "healthy": None,
        "previous": {},
        "as_seen": {"bdf": before["bdf"], "expect_processes": 0},
        "evidence": ["%s: no process holds it, the driver asks for action %s" % (shown, before["recovery_action"])],
        "diff": {"before": "%s: action %s\n" % (shown, before["recovery_action"]), "after": "%s: reset\n" % shown},
    }
    if check_mode:
        return result
    if options["bug_report"]:
        words = ["nvidia-bug-report.sh", "--output-file", options["bug_report"][: -len(".gz")]]
        run(words, options, "the bug report")
        result["evidence"].append("bug report in %s" % options["bug_report"])
        look(options)  # it took a while: whoever came meanwhile is not to be hit
    run(["nvidia-smi", "--gpu-reset", "-i", options["uuid"]], options, "nvidia-smi --gpu-reset")
    result["evidence"].append("reset by nvidia-smi")
    return dict(result, healthy=True, after=_gpu.short(wait_until_well(options)))


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
