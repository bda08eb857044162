#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Collect what a host knows about its trouble
version_added: 0.1.0
description:
  - Runs collectors of the on-host C(osremed) one after the other, each within bounds on time and size.
  - A collector that gave nothing becomes a gap with its reason. Gaps do not fail the task, they are part of the evidence.
  - Secrets in command lines, environments and settings are hidden before anything leaves the host. They are found by the
    names of keys, options and variables and by their shape. What is secret and looks like nothing else is not found.
  - Changes nothing, so it does the same in check mode.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.onhost
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
  max_total_bytes:
    description: Bytes of all documents together. A document that does not fit any more becomes a gap.
    type: int
    default: 33554432
  redact:
    description: Regular expressions. What they match is hidden too.
    type: list
    elements: str
    default: []
  collectors:
    description: Names of collectors, each with its arguments as a dictionary.
    type: dict
    required: true
  timeout_s:
    description: Seconds that each collector may take.
    type: float
    default: 30.0
  max_bytes:
    description: Bytes that each collector may print.
    type: int
    default: 8388608
"""

EXAMPLES = r"""
- name: Who holds the memory
  osremed.host.evidence:
    collectors:
      panorama: {files: 30, processes: 50}
      fastoom: {}
    timeout_s: 20
  register: evidence
"""

RETURN = r"""
items:
  description: The JSON document of each collector that gave one, by its name.
  returned: success
  type: dict
gaps:
  description: The reason for each collector that gave none, by its name.
  returned: success
  type: dict
  contains:
    missing:
      description: One of V(timed_out), V(unsupported), V(no_data), V(malformed), or what the collector itself said.
      type: str
    source:
      description: What was asked.
      type: str
    detail:
      description: What came back.
      type: str
manifest:
  description:
    - What is in RV(items), one entry for each document, in the order of collecting.
    - The SHA-256 is that of the JSON with sorted keys, without spaces, in UTF-8, as it left the host.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The collector.
      type: str
    sha256:
      description: SHA-256 of its document.
      type: str
    bytes:
      description: Size of its document.
      type: int
    redacted:
      description: How many secrets were hidden in it.
      type: int
durations:
  description: Seconds that each collector took, by its name.
  returned: success
  type: dict
"""

import hashlib
import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._onhost import (
    COMMAND,
    check_command,
    check_name,
    gap,
    read_document,
)
from ansible_collections.osremed.host.plugins.module_utils._redact import patterns_of, redacted


def argument_spec():
    return dict(
        command=dict(type="list", elements="str", default=COMMAND),
        collectors=dict(type="dict", required=True),
        timeout_s=dict(type="float", default=30.0),
        max_bytes=dict(type="int", default=8 << 20),
        max_total_bytes=dict(type="int", default=32 << 20),
        redact=dict(type="list", elements="str", default=[]),
    )


def collect(options):
    command = check_command(options["command"])
    if not all(options[name] > 0 for name in ("timeout_s", "max_bytes", "max_total_bytes")):
        raise ActionFailed("timeout_s, max_bytes and max_total_bytes must be more than 0")
    patterns = patterns_of(options["redact"])
    for name, args in options["collectors"].items():
        check_name(name)
        if args is not None and not isinstance(args, dict):
            raise ActionFailed("the arguments of collector %s must be a dictionary" % name)
    items, gaps, durations, manifest = {}, {}, {}, []
    left_bytes = options["max_total_bytes"]
    for name, args in options["collectors"].items():
        argv = command + ["collect", name, "--args", json.dumps(args or {}, sort_keys=True), "-o", "json"]
        ended = run_bounded(argv, options["timeout_s"], options["max_bytes"])
        document, missing = read_document(ended, "collect %s" % name)
        durations[name] = round(ended.duration_s, 4)
        document, hidden = redacted(missing or document, patterns)
        data = canonical(document)
        if missing is None and data is None:
            gaps[name] = gap("malformed", "collect %s" % name, "holds a number that JSON does not know")
        elif missing is not None:
            gaps[name] = document
        elif len(data) > left_bytes:
            gaps[name] = gap(
                "unsupported",
                "collect %s" % name,
                "%d bytes, only %d are left of max_total_bytes" % (len(data), left_bytes),
            )
        else:
            items[name] = document
            manifest.append(
                {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "redacted": hidden}
            )
            left_bytes -= len(data)
    return {"items": items, "gaps": gaps, "durations": durations, "manifest": manifest}


def canonical(document):
    """The bytes that are counted and named, None for what JSON does not know, such as NaN."""
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        return None
    return text.encode("utf-8", "surrogatepass")


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = collect(module.params)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
