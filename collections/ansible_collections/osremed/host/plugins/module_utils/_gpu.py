# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of a host as its own probes read them, and why one of them must not be touched."""

from __future__ import annotations

import re

from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._onhost import check_command, read_document

UUID = re.compile(r"GPU-[0-9a-fA-F-]{1,60}")
#: Field 230 of NVML: what the driver asks for, where a reset of the GPU is the answer.
RESETS = {1: "GPU reset", 4: "drain and reset", 6: "bus reset"}
_MAX_BYTES = 8 << 20


def ask(command, collector, timeout_s):
    """(document, None) or (None, gap) of a collector of the host."""
    words = check_command(command) + ["collect", collector, "-o", "json"]
    return read_document(run_bounded(words, timeout_s, _MAX_BYTES), "collect %s" % collector)


def survey(command, timeout_s):
    """The document of the collector C(gpus). ActionFailed when it cannot be had: then nothing is known of any GPU."""
    document, missing = ask(command, "gpus", timeout_s)
    if missing is not None:
        raise ActionFailed("the GPUs are not known: %s" % told(missing))
    if not isinstance(document, dict) or not isinstance(document.get("gpus"), list):
        raise ActionFailed("the GPUs are not known: the host answered with something else")
    return document


def told(gap):
    return "%s: %s (%s)" % (gap["missing"], gap["source"], gap["detail"])


def check_uuid(uuid):
    if not UUID.fullmatch(uuid):
        raise ActionFailed("%r is not the UUID of a GPU. Hint: osremed timeline gpus tells it" % uuid)
    return uuid


def find(document, uuid):
    """The GPU with this UUID, or None: an index may be another card after a restart."""
    return next((gpu for gpu in document["gpus"] if gpu.get("uuid") == uuid), None)


def why_untouchable(gpu, document, require_recovery):
    """Why this GPU must not be reset, or an empty string. What is not known counts against it."""
    if gpu is None:
        rest = len(document.get("unreadable") or {}) + len(document.get("hung") or {})
        return "it is not among the GPUs that answer (%d do not)" % rest
    processes = gpu.get("processes")
    if not isinstance(processes, list):
        return "who uses it is not known"
    if processes:
        return "it is in use by %s" % ", ".join(_name(each) for each in processes[:5])
    action = (gpu.get("metrics") or {}).get("recovery_action")
    if require_recovery and (not isinstance(action, int) or action not in RESETS):
        return "the driver does not ask for a reset (%s)" % ("nothing" if action == 0 else _plain(action))
    return ""


def _name(process):
    name = process.get("name")
    return "%s[%s]" % (name if isinstance(name, str) else "?", process.get("pid"))


def _plain(action):
    return "it asks for action %d" % action if isinstance(action, int) else "what it asks for is not known"


def short(gpu):
    """What of a GPU goes into return values."""
    metrics = gpu.get("metrics") or {}
    return {
        "uuid": gpu.get("uuid"),
        "bdf": gpu.get("bdf"),
        "index": gpu.get("index"),
        "recovery_action": metrics.get("recovery_action"),
        "processes": gpu.get("processes"),
    }
