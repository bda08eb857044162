# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that change a policy file have in common: their options, and the request these make."""

from __future__ import annotations

import base64
import os
import re

from ansible_collections.osremed.host.plugins.module_utils._change import Request
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import ABSENT, FileState

#: As in an argument_spec.
OPTIONS = dict(
    content_b64=dict(type="str"),
    mode=dict(type="str"),
    expect_sha256=dict(type="str"),
    validate=dict(type="list", elements="str"),
    reload=dict(type="str", choices=["auto", "never", "required"], default="auto"),
    reload_timeout_s=dict(type="float", default=10.0),
    undo_id=dict(type="str"),
    undo_dir=dict(type="path", default="/var/lib/osremed/undo"),
    confirm_within=dict(type="float"),
    agent_status=dict(type="path", default="/run/osremed/agent.json"),
)


def parse_mode(text):
    if text is None:
        return None
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise ActionFailed("mode %r is not an octal mode such as 0644" % text)
    return int(text, 8)


def decode(text):
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ActionFailed("content_b64 is not Base64: %s" % error)


def placed(before, data, mode):
    """`data` with the owner and mode of the present file, or the module's own and 0644."""
    if before.exists:
        return before._replace(data=data, mode=before.mode if mode is None else mode)
    return FileState(True, data, 0o644 if mode is None else mode, os.geteuid(), os.getegid())


def plan_of(options, settings, merged, needs):
    """The function from the present FileState to the wanted one: `merged(before)` makes the bytes of `settings`, None for
    none given. ActionFailed for options that contradict each other; `needs` says what state=present wants."""
    content, mode = options["content_b64"], parse_mode(options["mode"])
    if options["state"] == "absent":
        if settings or content is not None:
            raise ActionFailed("state=absent takes no settings and no content")
        return lambda before: ABSENT
    if content is not None:
        data = decode(content)
        return lambda before: placed(before, data, mode)
    if settings is None:
        raise ActionFailed("state=present needs %s" % needs)
    return lambda before: placed(before, merged(before), mode)


def check_options(options):
    for key in ("path", "status_file", "undo_dir", "agent_status"):
        if not os.path.isabs(options[key]):
            raise ActionFailed("%s must be an absolute path, not %r" % (key, options[key]))
    if options["validate"] and not any("%s" in word for word in options["validate"]):
        raise ActionFailed("validate must contain %s, which becomes the path of the new file")
    if (options["confirm_within"] or 0.0) < 0:
        raise ActionFailed("confirm_within must not be less than 0 seconds")
    if options["reload_timeout_s"] <= 0:
        raise ActionFailed("reload_timeout_s must be more than 0 seconds")


def make_request(options, plan, scratch_dir):
    """ActionFailed for options that make no sense."""
    check_options(options)
    return Request(
        path=options["path"],
        plan=plan,
        expect_sha256=options["expect_sha256"],
        validate=options["validate"] or [],
        undo_id=options["undo_id"] or "",
        undo_dir=options["undo_dir"],
        confirm_within_s=options["confirm_within"] or 0.0,
        status_file=options["status_file"],
        reload=options["reload"],
        reload_timeout_s=options["reload_timeout_s"],
        scratch_dir=scratch_dir,
        agent_status=options["agent_status"],
    )
