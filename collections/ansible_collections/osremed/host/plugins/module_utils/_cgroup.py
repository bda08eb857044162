# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups of version 1 and 2: where they are, and what their limits are called. Pure but for `hierarchies`, `group`."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import read_value

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: What version 1 shows for no limit: the largest whole number of pages in a signed 64-bit number.
V1_MAX = str((2**63 - 1) // PAGE_BYTES * PAGE_BYTES)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MEMORY_V2 = {
    "memory_max": "memory.max",
    "memory_high": "memory.high",
    "memory_low": "memory.low",
    "memory_min": "memory.min",
    "swap_max": "memory.swap.max",
}
CONTROLLER = dict({name: "memory" for name in _MEMORY_V2}, cpu_weight="cpu", cpu_max="cpu", pids_max="pids")
KNOBS = tuple(CONTROLLER)
#: The files that `exact` may name.
FILES = frozenset(_MEMORY_V2.values()) | {
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "cpu.weight",
    "cpu.max",
    "cpu.shares",
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "pids.max",
}
_CONTROLLER_OF_FILE = re.compile(r"(memory|cpu|pids)\.")


class Hierarchy(NamedTuple):
    version: int
    mount: str


def parse_mounts(text):
    """{controller: Hierarchy} of /proc/self/mountinfo; the one of version 2 is under "unified"."""
    found = {}
    for line in text.splitlines():
        left, _dash, right = line.partition(" - ")
        kind, options = (right.split() + [""])[0], right.split()[-1] if right.split() else ""
        mount = left.split()[4].replace("\\040", " ") if len(left.split()) > 4 else ""
        if kind == "cgroup2":
            found.setdefault("unified", Hierarchy(2, mount))
        elif kind == "cgroup":
            for controller in options.split(","):
                found.setdefault(controller, Hierarchy(1, mount))
    return found


def hierarchies(proc="/proc"):
    with open("%s/self/mountinfo" % proc, encoding="utf-8", errors="backslashreplace") as stream:
        return parse_mounts(stream.read())


def check_path(path):
    """The path below the hierarchy, if it names a group other than the root."""
    parts = path.split("/")
    if not path.startswith("/") or path == "/" or any(part in ("", ".", "..") for part in parts[1:]) or "\0" in path:
        raise ActionFailed(
            "cgroup %r is not a path below the hierarchy. Hint: write it as /system.slice/x.service; the root has no limits"
            % path
        )
    return path


def group(mounts, path, controller):
    """(version, directory) of the group for this controller. ActionFailed if there is no such group, or if the controller
    is not there or not enabled for it."""
    hierarchy = mounts.get(controller) or mounts.get("unified")
    if hierarchy is None:
        raise ActionFailed("UNSUPPORTED: no cgroup hierarchy with the controller %s is mounted" % controller)
    directory = hierarchy.mount.rstrip("/") + check_path(path)
    if not os.path.isdir(directory):
        raise ActionFailed("cgroup %s does not exist (looked for %s)" % (path, directory))
    if hierarchy.version == 2 and controller not in read_value(directory + "/cgroup.controllers").split():
        raise ActionFailed(
            "UNSUPPORTED: the controller %s is not enabled for cgroup %s. Hint: enable it in the cgroup.subtree_control of "
            "its parent, or let systemd do it" % (controller, path)
        )
    return hierarchy.version, directory


def bytes_of(text, option):
    """A number of bytes, rounded down to whole pages as the kernel does, or "max"."""
    if str(text).strip() == "max":
        return "max"
    match = re.fullmatch(r"([0-9]{1,18})\s?([KMGT]?)(?:iB|B)?", str(text).strip())
    if not match or int(match.group(1)) * _UNITS[match.group(2)] >= 1 << 62:
        raise ActionFailed("%s %r is not a size. Hint: a number of bytes, 512MiB, or max" % (option, text))
    return int(match.group(1)) * _UNITS[match.group(2)] // PAGE_BYTES * PAGE_BYTES


def whole(text, option, low, high):
    if not re.fullmatch("[0-9]{1,10}", str(text)) or not low <= int(text) <= high:
        raise ActionFailed("%s %r is not a whole number from %d to %d" % (option, text, low, high))
    return int(text)


def cpu_quota(text):
    """(quota or "max", period) in microseconds."""
    words = str(text).split()
    if not 1 <= len(words) <= 2:
        raise ActionFailed("cpu_max %r is not QUOTA or QUOTA PERIOD in microseconds. Hint: 50000 100000, or max" % text)
    period = whole(words[1], "cpu_max period", 1000, 1000000) if len(words) == 2 else 100000
    return ("max" if words[0] == "max" else whole(words[0], "cpu_max quota", 1000, 10**9)), period


def lines_for(name, value, version, memory_max):
    """[(file, text)] in the order of writing for one knob. `memory_max` (bytes or "max") is what version 1 adds to swap."""
    if name in _MEMORY_V2:
        size = bytes_of(value, name)
        return [(_MEMORY_V2[name], str(size))] if version == 2 else _memory_v1(name, size, memory_max)
    if name == "pids_max":
        return [("pids.max", "max" if str(value) == "max" else str(whole(value, name, 1, 4194304)))]
    if name == "cpu_weight":
        weight = whole(value, name, 1, 10000)
        # 100 is the default of version 2, 1024 that of version 1; systemd converts in the same proportion.
        return [("cpu.weight", str(weight))] if version == 2 else [("cpu.shares", str(max(2, weight * 1024 // 100)))]
    quota, period = cpu_quota(value)
    if version == 2:
        return [("cpu.max", "%s %d" % (quota, period))]
    return [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", "-1" if quota == "max" else str(quota))]


def _memory_v1(name, size, memory_max):
    if name == "memory_max":
        return [("memory.limit_in_bytes", V1_MAX if size == "max" else str(size))]
    if name == "swap_max":
        total = V1_MAX if "max" in (size, memory_max) else str(size + memory_max)
        return [("memory.memsw.limit_in_bytes", total)]
    raise ActionFailed(
        "UNSUPPORTED: %s does not exist in version 1 of control groups. Hint: use memory_max, or a host with version 2"
        % name
    )


def controller_of_file(name):
    if name not in FILES:
        raise ActionFailed("exact: %r is not a limit that this module sets" % name)
    return _CONTROLLER_OF_FILE.match(name).group(1)


def in_bytes(text):
    """The limit in a file as bytes, or "max" for none."""
    return "max" if text == "max" or int(text) >= int(V1_MAX) else int(text)
