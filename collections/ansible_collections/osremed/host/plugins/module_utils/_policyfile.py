# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy of a daemon as a document: parsed, merged, rendered. Pure; what the settings mean is the daemon's business."""

from __future__ import annotations

import json

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

FASTOOM = "FastoomPolicy"
_LISTS = ("scopes", "protect", "prefer", "avoid")
_MAPPINGS = ("overrides", "limits")


def parse_policy(data, where):
    """The JSON object in `data`. ActionFailed names file, line and column of what is broken."""
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ActionFailed("%s:%d:%d: %s" % (where, error.lineno, error.colno, error.msg))
    except ValueError as error:
        raise ActionFailed("%s: %s" % (where, error))
    if not isinstance(document, dict):
        raise ActionFailed("%s: a policy is a JSON object, not %s" % (where, type(document).__name__))
    return document


def _no_duplicates(pairs):
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _value in pairs]
        raise ValueError("key %r is given twice" % next(key for key in keys if keys.count(key) > 1))
    return document


def _no_constant(name):
    raise ValueError("%s is not a JSON number" % name)


def merge_policy(existing, given, how, kind=FASTOOM):
    """`existing` with the settings in `given`. replace: each given key takes the place of the old one.
    extend: rules and scopes that are not there yet are appended, overrides and limits are updated key by key."""
    merged = dict({"apiVersion": "osremed/v1", "kind": kind}, **existing)
    for key, value in given.items():
        if how == "extend" and key in _LISTS:
            old = list(merged.get(key, []))
            merged[key] = old + [item for item in value if item not in old]
        elif how == "extend" and key in _MAPPINGS:
            merged[key] = dict(merged.get(key, {}), **value)
        else:
            merged[key] = value
    return merged


def render_policy(document):
    """The stable form: two spaces, sorted keys, a newline at the end."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def without_unset(rules):
    """Rules as given: keys that the argument parser filled with None are dropped."""
    return [{key: value for key, value in rule.items() if value is not None} for rule in rules]
