#!/usr/bin/python
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does what the executor's tests ask: echoes, creates a file, waits, fails."""

from __future__ import annotations

import os
import time

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec=dict(
            echo=dict(type="raw"),
            create=dict(type="path"),
            wait_s=dict(type="float", default=0),
            late=dict(type="path"),
            fail=dict(type="str"),
            large=dict(type="int", default=0),
            secret=dict(type="str", no_log=True),
        ),
        supports_check_mode=True,
    )
    given = module.params
    if given["fail"]:
        module.fail_json(msg=given["fail"], hint="as asked")
    changed = bool(given["create"]) and not os.path.exists(given["create"])
    if changed and not module.check_mode:
        with open(given["create"], "w") as stream:
            stream.write("made\n")
    time.sleep(given["wait_s"])
    if given["late"]:
        with open(given["late"], "w") as stream:
            stream.write("too late\n")
    diff = {"before": "", "after": "made\n", "after_header": given["create"]} if changed else {}
    module.exit_json(changed=changed, echo=given["echo"], large="x" * given["large"], pid=os.getpid(), diff=diff)


if __name__ == "__main__":
    main()
