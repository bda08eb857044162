# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a rule of the FastOOM policy means. What it asks for and cannot be read is unknown, which is neither yes nor no."""

from __future__ import annotations

import fnmatch
import os
import re

from ansible_collections.osremed.host.plugins.module_utils._cgroup import hierarchies
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

KEYS = ("name", "cmdline", "argv", "exe", "cgroup", "user")


def check_rule(rule, where):
    """ActionFailed unless it is a rule this module understands as a whole."""
    good = isinstance(rule, dict) and rule and set(rule) <= set(KEYS)
    if not good or not all(_is_good(key, value) for key, value in rule.items()):
        raise ActionFailed("%s: %r is not a rule. Nobody was signalled" % (where, rule))
    try:
        re.compile(rule.get("cmdline", ""))
    except re.error as error:
        raise ActionFailed("%s: cmdline %r is not a regular expression: %s" % (where, rule["cmdline"], error))


def _is_good(key, value):
    if key == "argv":
        return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word for word in value)
    if key == "user":
        return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""
    return isinstance(value, str) and bool(value)


def verdict(rule, process, proc="/proc"):
    """True: it means the process. False: it does not. None: it may, but what it asks for cannot be read."""
    answers = [_ASK[key](value, process, proc) for key, value in sorted(rule.items())]
    if False in answers:
        return False
    return None if None in answers else True


def _name(glob, process, proc):
    names = [process.name] + [os.path.basename(word) for word in process.argv[:1]]
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


def _cmdline(pattern, process, proc):
    return re.search(pattern, process.cmdline) is not None


def _argv(globs, process, proc):
    return all(any(fnmatch.fnmatchcase(word, glob) for word in process.argv) for glob in globs)


def _exe(glob, process, proc):
    try:
        path = os.fsencode(os.readlink("%s/%d/exe" % (proc, process.pid)))
    except OSError:
        return None
    return fnmatch.fnmatchcase(path.decode("utf-8", "backslashreplace"), glob)


def _cgroup(glob, process, proc):
    """The group in the hierarchy with the memory controller, or one above it."""
    path = cgroup_of(process.pid, proc)
    top = glob.rstrip("/")
    return None if path is None else fnmatch.fnmatchcase(path, top or "/") or fnmatch.fnmatchcase(path, top + "/*")


def cgroup_of(pid, proc="/proc"):
    """None if that cannot be told."""
    try:
        memory = hierarchies(proc).get("memory")
        wanted = "memory" if memory is not None and memory.version == 1 else ""
        with open("%s/%d/cgroup" % (proc, pid), "rb") as stream:
            lines = stream.read().decode("utf-8", "backslashreplace").splitlines()
    except OSError:
        return None
    for fields in (line.split(":", 2) for line in lines):
        if len(fields) == 3 and wanted in fields[1].split(","):
            return fields[2]
    return None


def _user(user, process, proc):
    """The real uid; the name is looked up in /etc/passwd alone, as the guard does."""
    uid = user if isinstance(user, int) else _uid_of(user)
    try:
        with open("%s/%d/status" % (proc, process.pid), "rb") as stream:
            found = re.search(rb"^Uid:\s+(\d+)", stream.read(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None or uid is None else int(found.group(1)) == uid


def _uid_of(name):
    try:
        with open("/etc/passwd", "rb") as stream:
            lines = stream.read().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    for fields in (line.split(":") for line in lines):
        if len(fields) > 2 and fields[0] == name and fields[2].isdigit():
            return int(fields[2])
    return None


_ASK = {"name": _name, "cmdline": _cmdline, "argv": _argv, "exe": _exe, "cgroup": _cgroup, "user": _user}
