# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of memory and pressure as documents. What cannot be read is a named gap, never 0."""

from __future__ import annotations

import errno

from ansible_collections.osremed.host.plugins.module_utils._onhost import gap

_REASONS = {
    errno.ENOENT: "unsupported",
    errno.EOPNOTSUPP: "unsupported",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ESRCH: "gone",
    errno.ENODEV: "gone",
}


def reading(path, parse):
    """What `parse` makes of the text of the file, or a gap."""
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as stream:
            return parse(stream.read(1 << 20))
    except OSError as error:
        return gap(_REASONS.get(error.errno, "no_data"), path, error.strerror)
    except (ValueError, KeyError, IndexError) as error:
        return gap("malformed", path, repr(error))


def parse_meminfo(text):
    """Bytes by name; what has no unit is a number of pages and keeps it."""
    figures = {}
    for line in text.splitlines():
        name, _colon, rest = line.partition(":")
        words = rest.split()
        figures[name.strip()] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    if "MemTotal" not in figures:
        raise ValueError("no MemTotal")
    return figures


def parse_pressure(text):
    """{"some": {"avg10", "avg60", "avg300" in percent, "total_us"}, "full": ...}"""
    lines = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        figures = dict(pair.split("=") for pair in pairs)
        lines[kind] = {name: float(figures[name]) for name in ("avg10", "avg60", "avg300")}
        lines[kind]["total_us"] = int(figures["total"])
    if "some" not in lines:
        raise ValueError("no line begins with some")
    return lines
