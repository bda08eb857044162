#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Have small files and directories as they should be, and others gone, in one call
version_added: 0.1.0
description:
  - Makes O(directories), then writes O(files), then removes O(absent), then O(emptied), each in the order given.
  - A file is replaced whole, never torn, and never through a symbolic link. One that is as it should be is not touched.
  - All options are checked before anything is touched.
  - The roles of this collection use it, since one call is what a host under pressure has time for. It registers no undo; the way
    back of a role is what it saw before.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
    details:
      - An owner that is not there yet, as an earlier task makes it, is no failure in check mode.
  diff_mode:
    support: full
    details:
      - The content of a secret is not shown.
  idempotent:
    support: full
options:
  directories:
    description: Directories. Those above are made too, owned by root and with mode V(0755).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      mode:
        description: Octal mode. For directories V(0755) and for files V(0644), or V(0600) for a secret, if not given.
        type: str
      owner:
        description: User it belongs to, its name or number.
        type: str
        default: root
      group:
        description: Group it belongs to, its name or number.
        type: str
        default: root
  files:
    description: Files of at most 4 MiB, each with one of C(content), C(content_b64) and C(secret).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path. Its directory is there or among O(directories).
        type: path
        required: true
      content:
        description: Text.
        type: str
      content_b64:
        description: Bytes, as Base64.
        type: str
      secret:
        description: Text that is shown nowhere.
        type: str
      mode:
        description: Octal mode. For directories V(0755) and for files V(0644), or V(0600) for a secret, if not given.
        type: str
      owner:
        description: User it belongs to, its name or number.
        type: str
        default: root
      group:
        description: Group it belongs to, its name or number.
        type: str
        default: root
  absent:
    description: Files, links and whole directories that are to be gone.
    type: list
    elements: path
    default: []
  emptied:
    description: Directories that are to be gone unless something is in them. They are tried in this order.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Configure a service
  osremed.host.files:
    directories:
      - {path: /etc/example, mode: "0750", group: example}
    files:
      - {path: /etc/example/config.json, content: "{}\n"}
      - {path: /etc/example/token, secret: "{{ vault_token }}\n"}
    absent: [/etc/example/config.ini]
"""

RETURN = r"""
paths:
  description: What was changed, or would be.
  returned: success
  type: list
  elements: str
kept:
  description: Directories of O(emptied) that stay, as something is in them.
  returned: success
  type: list
  elements: str
"""

import base64
import binascii
import grp
import os
import pwd
import shutil
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._files import LIMIT_BYTES, FileState, put_state, read_state

#: Slashes that a path to remove has at least: nobody means to remove /etc or /opt.
_LEAST_SLASHES = 2


def argument_spec():
    place = dict(
        path=dict(type="path", required=True),
        mode=dict(type="str"),
        owner=dict(type="str", default="root"),
        group=dict(type="str", default="root"),
    )
    contents = dict(content=dict(type="str"), content_b64=dict(type="str"), secret=dict(type="str", no_log=True))
    one = [tuple(contents)]
    return dict(
        directories=dict(type="list", elements="dict", default=[], options=place),
        files=dict(
            type="list",
            elements="dict",
            default=[],
            options=dict(place, **contents),
            mutually_exclusive=one,
            required_one_of=one,
        ),
        absent=dict(type="list", elements="path", default=[]),
        emptied=dict(type="list", elements="path", default=[]),
    )


def mode_of(item, default):
    text = item["mode"] or default
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise ActionFailed("mode %r of %s is not an octal mode. Nothing was touched" % (text, item["path"]))
    return mode


def owners(item, check_mode):
    """(user id, group id). In check mode -1 for one that is not there yet."""
    found = []
    for key, ask in (("owner", lambda name: pwd.getpwnam(name).pw_uid), ("group", lambda name: grp.getgrnam(name).gr_gid)):
        name = item[key]
        try:
            found.append(int(name) if name.isdigit() else ask(name))
        except KeyError:
            if not check_mode:
                raise ActionFailed("%s of %s: there is no %s %s. Nothing was touched" % (key, item["path"], key, name))
            found.append(-1)
    return tuple(found)


def bytes_of(item):
    text = item["content"] if item["secret"] is None else item["secret"]
    if text is not None:
        data = text.encode("utf-8")
    else:
        try:
            data = base64.b64decode(item["content_b64"], validate=True)
        except binascii.Error as error:
            raise ActionFailed("content_b64 of %s is not Base64: %s. Nothing was touched" % (item["path"], error))
    if len(data) > LIMIT_BYTES:
        raise ActionFailed(
            "%s would have %d bytes, more than %d. Nothing was touched" % (item["path"], len(data), LIMIT_BYTES)
        )
    return data


def check_paths(options):
    named = [item["path"] for item in options["directories"] + options["files"]] + options["absent"] + options["emptied"]
    for path in named:
        if not os.path.isabs(path) or os.path.normpath(path) != path:
            raise ActionFailed("%r is not an absolute path in its shortest form. Nothing was touched" % path)
    for path in options["absent"]:
        if path.count("/") < _LEAST_SLASHES:
            raise ActionFailed("%s is not a thing to remove. Nothing was touched" % path)


def directory_plan(item, check_mode):
    """(path, present facts or None, wanted facts); facts are mode, user id and group id."""
    wanted = (mode_of(item, "0755"), *owners(item, check_mode))
    try:
        info = os.lstat(item["path"])
    except FileNotFoundError:
        return item["path"], None, wanted
    if not stat.S_ISDIR(info.st_mode):
        raise ActionFailed("%s is there and is not a directory. Nothing was touched" % item["path"])
    return item["path"], (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid), wanted


def file_plan(item, directories, check_mode):
    """(path, present FileState, wanted FileState, whether it is a secret)."""
    secret = item["secret"] is not None
    mode = mode_of(item, "0600" if secret else "0644")
    uid, gid = owners(item, check_mode)
    parent = os.path.dirname(item["path"])
    if not check_mode and parent not in directories and not os.path.isdir(parent):
        raise ActionFailed("%s is not a directory and not among directories. Nothing was touched" % parent)
    return item["path"], read_state(item["path"]), FileState(True, bytes_of(item), mode, uid, gid), secret


def make_directory(path, before, wanted):
    mode, uid, gid = wanted
    if before is None:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    if before is None or before[1:] != (uid, gid):
        os.chown(path, uid, gid, follow_symlinks=False)
    os.chmod(path, mode)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def will_be_empty(path, going):
    return all(os.path.join(path, name) in going for name in os.listdir(path))


def line(kind, facts):
    return "%s mode %04o owner %d:%d\n" % ((kind, *facts)) if facts else "absent\n"


def file_diff(path, before, after, secret):
    states = {"before": before, "after": after}
    told = {}
    for key, state in states.items():
        told[key] = "" if secret or not state.exists else state.data.decode("utf-8", "replace")
        shown = " (mode %04o, owner %d:%d%s)" % (state.mode, state.uid, state.gid, ", secret" if secret else "")
        told[key + "_header"] = path + (shown if state.exists else " (absent)")
    return told


def carry_out(options, check_mode):
    """The module's return values. ActionFailed for what is refused: nothing was touched then."""
    check_paths(options)
    directories = [directory_plan(item, check_mode) for item in options["directories"]]
    files = [file_plan(item, [each[0] for each in directories], check_mode) for item in options["files"]]
    result = {"paths": [], "kept": [], "diff": []}
    for path, before, wanted in directories:
        if before != wanted:
            result["paths"].append(path)
            result["diff"].append(
                {"before_header": path, "after_header": path, "before": line("directory", before), "after": line("directory", wanted)}
            )
            if not check_mode:
                make_directory(path, before, wanted)
    for path, before, wanted, secret in files:
        if before != wanted:
            result["paths"].append(path)
            result["diff"].append(file_diff(path, before, wanted, secret))
            if not check_mode:
                put_state(path, wanted)
    take_away(options, check_mode, result)
    return dict(result, changed=result["paths"] != [])


def take_away(options, check_mode, result):
    going = [path for path in options["absent"] if os.path.lexists(path)]
    for path in going:
        if not check_mode and os.path.lexists(path):  # it may have gone with a directory above it
            remove(path)
    for path in options["emptied"]:
        if not os.path.isdir(path) or os.path.islink(path):
            continue
        if will_be_empty(path, going):
            going.append(path)
            if not check_mode:
                os.rmdir(path)
        else:
            result["kept"].append(path)
    result["paths"] += going
    result["diff"] += [{"before_header": path, "after_header": path, "before": "there\n", "after": "absent\n"} for path in going]


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = carry_out(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
