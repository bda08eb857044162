#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: page_cache
short_description: Drop the cached pages of named files
version_added: 0.1.0
description:
  - Tells the kernel that files are not needed in memory any more, and measures before and after.
  - Never loses data. The kernel drops clean pages only, and a file with pages that are not on disk yet is refused unless
    O(sync) is set. Pages that a process has mapped stay.
  - This cannot be undone and needs no undo. What is read again is cached again.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
    details:
      - How much would be dropped is told from what is cached. Mapped pages are only found out by doing it.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - A file with less than O(min_resident) in memory is left alone. One that is in use may be cached again at once.
options:
  paths:
    description: Regular files. Symbolic links are not followed. At most 1000.
    type: list
    elements: path
    required: true
  min_resident:
    description: Bytes that must be in memory for a file to be worth it.
    type: int
    default: 1048576
  max_bytes:
    description: Bytes to drop in all, file by file in the given order. A file that does not fit any more is skipped.
    type: int
  sync:
    description: Whether pages that are not on disk yet are written first. This can take long on a slow disk.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Forget yesterday's logs
  osremed.host.page_cache:
    paths: [/var/log/import/yesterday.log]
    max_bytes: 10737418240
"""

RETURN = r"""
files:
  description: What became of each file.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
    result:
      description: V(dropped), V(kept) as nothing of it went away, V(skipped), or V(refused).
      type: str
    why:
      description: Why it was skipped or refused. An empty string else.
      type: str
    before_bytes:
      description: Bytes in memory before. None if they could not be told.
      type: int
    after_bytes:
      description: Bytes in memory after. In check mode what is expected.
      type: int
    method:
      description: V(cachestat) or V(mincore).
      type: str
dropped_bytes:
  description: Bytes that went away, or would, in all.
  returned: success
  type: int
previous:
  description: Always empty, since there is nothing to undo.
  returned: success
  type: dict
evidence:
  description: What was seen and done, one sentence each.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._residency import open_regular, residency

MAX_PATHS = 1000


def argument_spec():
    return dict(
        paths=dict(type="list", elements="path", required=True),
        min_resident=dict(type="int", default=1 << 20),
        max_bytes=dict(type="int"),
        sync=dict(type="bool", default=False),
    )


def entry(path, result, why="", before=None, after=None, method=""):
    return {"path": path, "result": result, "why": why, "before_bytes": before, "after_bytes": after, "method": method}


def why_not(found, options, left_bytes):
    """(result, why) when the file is not dropped, else None. Pure."""
    if found.cached_bytes < options["min_resident"] or found.cached_bytes == 0:
        return "skipped", "less than min_resident is in memory"
    if left_bytes is not None and found.cached_bytes > left_bytes:
        return "skipped", "max_bytes is used up"
    if options["sync"] or found.dirty_bytes == 0:
        return None
    if found.dirty_bytes is None:
        return "refused", "this file system does not tell whether pages are on disk already. Hint: set sync"
    return "refused", "%d bytes are not on disk yet. Hint: set sync" % found.dirty_bytes


def treat(path, options, left_bytes, check_mode):
    if not os.path.isabs(path):
        return entry(path, "refused", "not an absolute path")
    try:
        fd = open_regular(path)
        try:
            return drop(fd, path, options, left_bytes, check_mode)
        finally:
            os.close(fd)
    except ActionFailed as error:
        return entry(path, "refused", str(error))
    except OSError as error:
        return entry(path, "refused", error.strerror)


def drop(fd, path, options, left_bytes, check_mode):
    found = residency(fd)
    reason = why_not(found, options, left_bytes)
    if reason:
        return entry(path, reason[0], reason[1], found.cached_bytes, found.cached_bytes, found.method)
    if check_mode:
        return entry(path, "dropped", "", found.cached_bytes, 0, found.method)
    if options["sync"]:
        os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    left = residency(fd).cached_bytes
    result = "dropped" if left < found.cached_bytes else "kept"
    why = "" if result == "dropped" else "its pages are mapped by a process or were read again"
    return entry(path, result, why, found.cached_bytes, left, found.method)


def act(options, check_mode):
    if not 1 <= len(options["paths"]) <= MAX_PATHS:
        raise ActionFailed("paths holds %d files, not 1 to %d" % (len(options["paths"]), MAX_PATHS))
    if options["min_resident"] < 0 or (options["max_bytes"] is not None and options["max_bytes"] <= 0):
        raise ActionFailed("min_resident must not be negative, and max_bytes must be more than 0")
    files, left_bytes, dropped = [], options["max_bytes"], 0
    for path in dict.fromkeys(options["paths"]):
        one = treat(path, options, left_bytes, check_mode)
        files.append(one)
        if one["result"] == "dropped":
            dropped += one["before_bytes"] - one["after_bytes"]
            left_bytes = None if left_bytes is None else left_bytes - one["before_bytes"]
    refused = [one for one in files if one["result"] == "refused"]
    if len(refused) == len(files):
        raise ActionFailed(
            "no file could be dropped: %s" % "; ".join("%s: %s" % (one["path"], one["why"]) for one in refused[:10]),
            files=files,
        )
    evidence = ["%s: %s %s" % (one["path"], one["result"], one["why"]) for one in files]
    diff = {
        key: "".join("%s: %s bytes cached\n" % (one["path"], one[key + "_bytes"]) for one in files if one["method"])
        for key in ("before", "after")
    }
    changed = any(one["result"] == "dropped" for one in files)
    return {
        "changed": changed,
        "files": files,
        "dropped_bytes": dropped,
        "previous": {},
        "evidence": evidence,
        "diff": diff,
    }


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
