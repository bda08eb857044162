# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has before a role touches it, as one line of JSON. Reads only. Any Python from 2.7 on can run it, so that an
old one can be told from none.

Asked with one JSON object: root and version (a component's directory, the release that is wanted), files (kept with their
content and owner, as the module files takes them, for the way back), kept_below (directories whose files are kept so),
directories, units, runs (a unit: the paths that its process must be younger than; those that are not are said as stale), below
(directories whose whole content is listed), present (is it there?). Left out is not asked."""

import base64
import calendar
import hashlib
import json
import os
import re
import subprocess
import sys
import time


def content(path):
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (IOError, OSError):
        return None


def mode(path):
    return "%04o" % (os.stat(path).st_mode & 0o7777) if os.path.exists(path) else ""


def kept(path):
    data = content(path)
    if data is None:
        return None
    info = os.stat(path)
    facts = {"path": path, "mode": mode(path), "owner": str(info.st_uid), "group": str(info.st_gid)}
    return dict(facts, content_b64=base64.b64encode(data).decode("ascii"))


def ancestor(path):
    """The nearest directory above that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def told(argv):
    try:
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return None
    return child.communicate()[0].decode("utf-8", "replace")


def releases(root):
    """Names, the one that was installed last first."""
    top = os.path.join(root, "releases")
    names = os.listdir(top) if os.path.isdir(top) else []
    return sorted(names, key=lambda name: (os.stat(os.path.join(top, name)).st_mtime, name), reverse=True)


def unit_facts(names):
    """What systemd says of each unit, times in UTC."""
    os.environ["TZ"] = "UTC"
    asked = "--property=Id,ActiveState,UnitFileState,NeedDaemonReload,ExecMainStartTimestamp"
    found = {}
    for block in (told(["systemctl", "show", asked] + names) or "").split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in facts:
            found[facts["Id"]] = facts
    return found


def changed_s(path):
    """When it was written, a link itself and not what it leads to; whole seconds, as systemd has them."""
    try:
        return int(os.lstat(path).st_mtime)
    except OSError:
        return 0


def stale(facts, paths):
    """Does its process run what was there before? A play that broke off, or did one phase alone, leaves it so. What was written
    in the future, on a clock that was set back since, says nothing: a start would not cure it."""
    if facts.get("ActiveState") != "active":
        return False
    began = re.match(r"\w+ (\d+-\d+-\d+ \d+:\d+:\d+)", facts.get("ExecMainStartTimestamp", ""))
    if not began:
        return False
    began_s = calendar.timegm(time.strptime(began.group(1), "%Y-%m-%d %H:%M:%S"))
    written = any(began_s < changed_s(path) <= time.time() for path in paths)
    return written or facts.get("NeedDaemonReload") == "yes"


def main():
    asked = json.loads(sys.argv[1])
    version = re.match(r"systemd (\d+)", told(["systemctl", "--version"]) or "")
    units = unit_facts(asked["units"]) if asked.get("units") else {}
    enforce = content(asked.get("enforce", "/sys/fs/selinux/enforce"))
    answer = {
        "python": "%d.%d" % sys.version_info[:2],
        "machine": os.uname()[4],
        "uid": os.geteuid(),
        "epoch_s": int(time.time()),
        "systemd": os.path.isdir("/run/systemd/system"),
        "systemd_version": int(version.group(1)) if version else 0,
        "selinux": {None: "absent", b"1": "enforcing"}.get(enforce if enforce is None else enforce.strip(), "permissive"),
        "restorecon": told(["restorecon", "-V"]) is not None,
        "files": dict((path, kept(path)) for path in asked.get("files", [])),
        "directories": dict((path, mode(path)) for path in asked.get("directories", [])),
        "present": dict((path, os.path.exists(path)) for path in asked.get("present", [])),
        "units": dict((name, [each.get("ActiveState", ""), each.get("UnitFileState", "")]) for name, each in units.items()),
        "stale": sorted(name for name, paths in asked.get("runs", {}).items() if stale(units.get(name, {}), paths)),
    }
    if "root" in asked:
        root = asked["root"]
        link, there = os.path.join(root, "current"), os.statvfs(ancestor(root))
        release = os.path.join(root, "releases", asked.get("version") or "-")
        program, mark = content(os.path.join(release, "osremed")), content(os.path.join(release, ".osremed-release"))
        answer["current"] = os.path.basename(os.readlink(link)) if os.path.islink(link) else ""
        answer["releases"] = releases(root)
        answer["sha256"] = hashlib.sha256(program).hexdigest() if program else json.loads(mark)["sha256"] if mark else ""
        answer["notifies"] = b"NOTIFY_SOCKET" in (program or b"")
        answer["free_bytes"] = there.f_bavail * there.f_frsize
    places = asked.get("directories", []) + [os.path.dirname(path) for path in asked.get("files", [])]
    places += [asked["root"]] if "root" in asked else []
    answer["not_writable"] = sorted(set(ancestor(path) for path in places if not os.access(ancestor(path), os.W_OK)))
    for top in asked.get("kept_below", []):
        for directory, _names, files in os.walk(top):
            answer["files"].update((path, kept(path)) for path in (os.path.join(directory, name) for name in files))
    below = [top for top in asked.get("below", []) if os.path.isdir(top)]
    for top in list(below):
        for directory, names, files in os.walk(top):
            below += [os.path.join(directory, name) for name in names + files]
    answer["below"] = sorted(set(below))
    print(json.dumps(answer))


main()
