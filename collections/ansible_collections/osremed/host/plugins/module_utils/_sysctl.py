# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of sysctls, and the lines of a drop-in below sysctl.d. Pure but for `path_of`."""

from __future__ import annotations

import os
import re

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._kernelvalue import normalised

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:@-]*(?:[./][A-Za-z0-9_][A-Za-z0-9_:@-]*)+")
#: Writing starts something; there is no value to go back to.
_TRIGGERS = ("vm.drop_caches", "vm.compact_memory", "net.ipv4.route.flush", "net.ipv6.route.flush")
#: The kernel runs what these name, as root.
_PROGRAMS = ("kernel.core_pattern", "kernel.modprobe", "kernel.hotplug", "kernel.poweroff_cmd", "fs.binfmt_misc")
#: They can be set but not be set back before the next boot.
_ONE_WAY = ("kernel.modules_disabled", "kernel.kexec_load_disabled")
#: Setting one makes the kernel set the other to 0, and 0 is no value one may write.
_TWINS = (
    ("vm.dirty_bytes", "vm.dirty_ratio"),
    ("vm.dirty_background_bytes", "vm.dirty_background_ratio"),
    ("vm.overcommit_kbytes", "vm.overcommit_ratio"),
)
HEADER = "# Written by osremed.host.sysctl\n"


def canonical_name(name):
    """The name with dots between its parts and slashes inside them, as sysctl(8) prints it. ActionFailed for what is no
    name, or none that a value can be put back to."""
    if not _NAME.fullmatch(name):
        raise ActionFailed(
            "sysctl %r is not a name. Hint: write it as vm.swappiness or net/ipv4/conf/eth0.1/forwarding, without wildcards"
            % name
        )
    if "/" in name and name.index("/") < (name + ".").index("."):
        name = name.translate(str.maketrans("/.", "./"))
    for names, why in (
        (_TRIGGERS, "starts something and holds no value. Hint: for the page cache use osremed.host.page_cache"),
        (_PROGRAMS, "names a program that the kernel runs as root. Hint: set it in the host's own configuration"),
        (_ONE_WAY, "cannot be set back before the next boot. Hint: set it in the host's own configuration"),
    ):
        if any(name == each or name.startswith(each + ".") for each in names):
            raise ActionFailed("sysctl %s is refused: it %s" % (name, why))
    return name


def path_of(name, root):
    """The file of a canonical name."""
    return os.path.join(root, "proc/sys", name.translate(str.maketrans("/.", "./")))


def twin_of(name):
    """The name that becomes 0 when this one is set, or an empty string."""
    for pair in _TWINS:
        if name in pair:
            return pair[1 - pair.index(name)]
    return ""


def check_settings(settings):
    """{canonical name: normalised value}. ActionFailed for names given twice, twins, and values that are no value."""
    checked = {}
    for given, value in settings.items():
        name = canonical_name(given)
        text = str(int(value)) if isinstance(value, bool) else value
        if isinstance(text, (dict, list)) or text is None or len(str(text)) > 4000 or "\0" in str(text):
            raise ActionFailed("sysctl %s: %r is not a value. Hint: a number or a line of text" % (name, value))
        if name in checked:
            raise ActionFailed("sysctl %s is given twice" % name)
        checked[name] = normalised(text)
    for name in checked:
        if twin_of(name) in checked:
            raise ActionFailed("sysctl %s and %s exclude each other: set one" % (name, twin_of(name)))
    return checked


def merge_drop_in(text, settings):
    """The drop-in with one line for each setting: a line that is there is replaced, others and comments stay. Lines of
    twins go away, since the later of the two would win at boot."""
    lines, done = [], set()
    for line in text.splitlines():
        name = _name_in(line)
        if name in settings:
            if name not in done:
                same = normalised(line.partition("=")[2]) == settings[name]
                lines.append(line if same else "%s = %s" % (name, settings[name]))
                done.add(name)
        elif not (name and twin_of(name) in settings):
            lines.append(line)
    lines += ["%s = %s" % (name, settings[name]) for name in sorted(settings) if name not in done]
    return "".join(line + "\n" for line in lines)


def _name_in(line):
    name, equals, _value = line.partition("=")
    name = name.strip().lstrip("-").strip()
    if not equals or name.startswith(("#", ";")):
        return ""
    if "/" in name and name.index("/") < (name + ".").index("."):
        return name.translate(str.maketrans("/.", "./"))
    return name
