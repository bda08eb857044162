# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes and options that modules of this collection share."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the predicted change without making it.
  diff_mode:
    description: Returns what changed, or would change, when in C(diff) mode.
  idempotent:
    description: A second call with the same options reports no change.
  platform:
    description: Systems the module runs on.
    platforms: Linux
    support: full
  action_group:
    description: Use C(group/osremed.host.all) in C(module_defaults) to set defaults for this module.
    membership:
      - osremed.host.all
    support: full
"""

    UNDO = r"""
options:
  undo_dir:
    description: Directory of undo records. Created with mode V(0700) when a record is registered.
    type: path
    default: /var/lib/osremed/undo
"""

    CHANGE = r"""
options:
  undo_id:
    description: Name of the undo record to register before anything changes. One name stands for one change.
    type: str
  undo_dir:
    description: Directory of undo records. Created with mode V(0700) when a record is registered.
    type: path
    default: /var/lib/osremed/undo
  confirm_within:
    description:
      - Seconds after which the host takes the change back unless it was confirmed. V(0) means never. Needs O(undo_id).
      - The deadline is kept by the agent that runs on the host. Without one, or where it may not write what it would have to
        put back, the module fails before it changes anything, also in check mode.
    type: float
  agent_status:
    description: Status file of that agent.
    type: path
    default: /run/osremed/agent.json
"""

    ONHOST = r"""
options:
  command:
    description:
      - The on-host C(osremed) as a list of words. It is run without a shell.
    type: list
    elements: str
    default: [/usr/bin/python3, -I, -S, -B, /opt/osremed/host/current/osremed]
"""
