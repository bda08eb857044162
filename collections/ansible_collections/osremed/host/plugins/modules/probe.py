#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: probe
short_description: Watch a value on a host until an expectation holds or its time is over
version_added: 0.1.0
description:
  - Runs a probe of the on-host C(osremed) and returns its verdict with all samples.
  - RV(verdict=FAILS) and RV(verdict=UNKNOWN) do not fail the task. What they mean is for the caller to decide.
  - A probe that could not run is V(UNKNOWN), never V(HOLDS).
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.onhost
attributes:
  check_mode:
    support: full
    details:
      - A dry run proves nothing. In check mode nothing is run and the verdict is V(UNKNOWN).
  diff_mode:
    support: N/A
    details:
      - Nothing changes.
  idempotent:
    support: N/A
    details:
      - Nothing changes.
options:
  name:
    description: Name of the probe, such as V(memory.available_ratio).
    type: str
    required: true
  args:
    description: Arguments of the probe.
    type: dict
    default: {}
  expect:
    description: A comparison with the value, such as V(value > 0.10).
    type: str
    required: true
  within:
    description: How long the probe may watch. A number of seconds, or text with a unit such as V(2m).
    type: raw
    default: 60s
  hold:
    description: How long the expectation must hold without a break. A number of seconds, or text with a unit.
    type: raw
    default: 0s
"""

EXAMPLES = r"""
- name: Enough memory for a quarter of a minute
  osremed.host.probe:
    name: memory.available_ratio
    expect: value > 0.10
    within: 60s
    hold: 15s
  register: check
  failed_when: check.verdict != "HOLDS"
"""

RETURN = r"""
verdict:
  description: V(HOLDS), V(FAILS) or V(UNKNOWN).
  returned: success
  type: str
detail:
  description: Why the verdict is V(UNKNOWN), if it is. An empty string else.
  returned: success
  type: str
samples:
  description: Each reading with the seconds since the start. A reading that failed is an object with the key C(missing).
  returned: success
  type: list
  elements: dict
"""

import json
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import COMMAND, check_command, check_name

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
VERDICTS = ("HOLDS", "FAILS", "UNKNOWN")
GRACE_S = 15.0  # to start and to end
MAX_BYTES = 4 << 20


def seconds(value, option):
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s?(ms|s|m|h)", str(value).strip())
    if not match:
        raise ActionFailed("%s %r is not a duration with a unit, such as 60s" % (option, value))
    return float(match.group(1)) * UNIT_S[match.group(2)]


def in_ms(duration_s):
    return "%dms" % round(duration_s * 1000)


def unknown(detail, samples=()):
    return {"verdict": "UNKNOWN", "detail": detail, "samples": list(samples)}


def read_answer(ended):
    """The probe's own verdict, or UNKNOWN with the reason why there is none. A failed verdict may come with an exit code of
    its own; HOLDS counts only with exit code 0."""
    if ended.code is None:
        return unknown("the probe did not run to its end: %s" % ended.why_no_code)
    said = ended.stderr_text().strip()[-500:] or "no message"
    try:
        document = json.loads(ended.stdout.decode("utf-8"))
        verdict, samples = document["verdict"], list(document["samples"])
    except (ValueError, KeyError, TypeError):
        return unknown("the probe gave no verdict (exit code %d): %s" % (ended.code, said))
    if verdict not in VERDICTS:
        return unknown("the probe gave no known verdict: %r" % verdict, samples)
    if verdict == "HOLDS" and ended.code != 0:
        return unknown("the probe says HOLDS but ended with exit code %d: %s" % (ended.code, said), samples)
    if verdict == "UNKNOWN":
        return unknown(said_last(samples), samples)
    return {"verdict": verdict, "detail": "", "samples": samples}


def said_last(samples):
    """Why the last reading is missing, in words."""
    value = samples[-1].get("value") if samples and isinstance(samples[-1], dict) else None
    if isinstance(value, dict):
        return "%s: %s %s" % (value.get("missing", "missing"), value.get("source", ""), value.get("detail", ""))
    return "the probe does not know and does not say why"


def watch(options, check_mode):
    command = check_command(options["command"])
    within_s, hold_s = seconds(options["within"], "within"), seconds(options["hold"], "hold")
    if hold_s > within_s:
        raise ActionFailed("hold (%s) does not fit into within (%s)" % (options["hold"], options["within"]))
    if not options["expect"].lstrip().startswith("value"):
        raise ActionFailed("expect %r is not a comparison such as: value > 0.10" % options["expect"])
    name = check_name(options["name"])
    if check_mode:
        return unknown("check mode: nothing was run, and a dry run proves nothing")
    argv = command + [
        "probe",
        name,
        "--args",
        json.dumps(options["args"], sort_keys=True),
        "--expect",
        options["expect"],
        "--within",
        in_ms(within_s),
        "--for",
        in_ms(hold_s),
        "-o",
        "json",
    ]
    return read_answer(run_bounded(argv, within_s + GRACE_S, MAX_BYTES))


def main():
    module = AnsibleModule(
        argument_spec=dict(
            command=dict(type="list", elements="str", default=COMMAND),
            name=dict(type="str", required=True),
            args=dict(type="dict", default={}),
            expect=dict(type="str", required=True),
            within=dict(type="raw", default="60s"),
            hold=dict(type="raw", default="0s"),
        ),
        supports_check_mode=True,
    )
    try:
        result = watch(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
