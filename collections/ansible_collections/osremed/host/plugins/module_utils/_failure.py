# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way in which code below a module says no."""

from __future__ import annotations


class ActionFailed(Exception):
    """Becomes fail_json in the module: the message, and `facts` as return values beside it."""

    def __init__(self, message, **facts):
        super().__init__(message)
        self.facts = facts


def fail_from(module, error, changed=False):
    """Ends the module with what `error` (ActionFailed or OSError) knows. `changed` only fills in when it does not say."""
    if isinstance(error, ActionFailed):
        facts = dict({"changed": changed}, **error.facts)
        module.fail_json(msg=str(error), **facts)
    where = "%s: " % error.filename if error.filename else ""
    module.fail_json(msg="%s%s" % (where, error.strerror or error), changed=changed, errno=error.errno or 0)
