# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the on-host command printed, as a document or as a named gap. What could not be read is never made up."""

from __future__ import annotations

import json
import re

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

#: Isolated, without site packages and byte code files: the same words that the service unit uses.
COMMAND = ["/usr/bin/python3", "-I", "-S", "-B", "/opt/osremed/host/current/osremed"]
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:[.-][a-z0-9_]+)*")
_REASONS = ("no_data", "denied", "unsupported", "timed_out", "malformed", "gone")
_UNAVAILABLE = 7  # exit code of the on-host command: a privilege or kernel feature is missing


def check_name(name):
    """The name, if it cannot be taken for an option or a path. ActionFailed else."""
    if not _NAME.fullmatch(name):
        raise ActionFailed("%r is not a name: small letters, digits, _ and single . or - between" % name)
    return name


def check_command(command):
    if not command or not all(command):
        raise ActionFailed("command must be a list of at least one word, none of them empty")
    return command


def gap(reason, source, detail):
    return {"missing": reason, "source": source, "detail": detail}


def as_gap(document):
    """The gap that a document itself declares, or None."""
    if isinstance(document, dict) and set(document) == {"missing", "source", "detail"}:
        return document if document["missing"] in _REASONS else None
    return None


def read_document(ended, source):
    """(document, None) or (None, gap) from what run_bounded returned for `source`."""
    if ended.timed_out:
        return None, gap("timed_out", source, ended.why_no_code)
    if ended.too_large or ended.code is None:
        return None, gap("unsupported", source, ended.why_no_code)
    try:
        document = json.loads(ended.stdout.decode("utf-8"))
    except ValueError as error:
        return None, _without_document(ended, source, error)
    if ended.code != 0:
        return None, _without_document(ended, source, "exit code %d" % ended.code)
    declared = as_gap(document)
    return (None, declared) if declared else (document, None)


def _without_document(ended, source, why):
    said = ended.stderr_text().strip()[-500:]
    if ended.code == _UNAVAILABLE:
        return gap("unsupported", source, said or "exit code %d" % ended.code)
    if ended.code != 0:
        return gap("no_data", source, "exit code %d: %s" % (ended.code, said or "no message"))
    return gap("malformed", source, "not JSON: %s" % why)
