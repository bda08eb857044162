# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes secrets out of a document before it leaves the host: by the names of keys, options and variables, and by shape."""

from __future__ import annotations

import re

from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

HIDDEN = "[redacted]"
_WORD = r"(?:passw(?:or)?d|passphrase|secret|token|credentials?|api[_-]?key|access[_-]?key|private[_-]?key|auth(?:orization)?)"
_AFTER = r"(?:[_-](?:id|value|string))?"
#: A key, an option or a variable whose last words name a secret: db_password, --api-key, GITHUB_TOKEN, not token_count.
_NAME = re.compile(r"(?i)(?:^|[^a-z])%s%s$" % (_WORD, _AFTER))
_QUOTED = r"\"[^\"]*\"|'[^']*'"
#: The first group of each stays. Hosts hold hostile texts: none begins with a run of any length, so that all stay linear.
_IN_TEXT = [
    re.compile(
        r"(?i)(%s%s\"?\s{0,4}[=:]\s{0,4})(?:%s|(?:(?:bearer|basic)\s{1,4})?[^\s&;,\"']+)" % (_WORD, _AFTER, _QUOTED)
    ),
    re.compile(r"(?i)(\b(?:bearer|basic)\s{1,4})[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(://[^\s/:@]{0,128}:)[^\s/@]{1,1024}(?=@)"),
    re.compile(r"()-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"()\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})"),
    re.compile(r"()\beyJ[\w-]{8,1024}\.[\w-]{8,4096}\.[\w-]+"),
]
#: A word after an option, which has to be looked at from its end.
_AFTER_OPTION = re.compile(r"(?i)(%s\s{1,4})(?:%s|[^\s-]\S*)" % (_WORD, _QUOTED))
_NAME_CHARACTERS = 64
_DEEPEST = 100


def patterns_of(texts):
    """What else is hidden: a match, or its groups if it has some. ActionFailed for what is no regular expression."""
    patterns = []
    for text in texts:
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise ActionFailed("redact %r is not a regular expression: %s" % (text, error))
        if pattern.match(""):
            raise ActionFailed("redact %r matches everywhere" % text)
        patterns.append(pattern)
    return patterns


def redacted(document, patterns):
    """(the document without its secrets, how many were hidden)."""
    count = [0]
    return _walk(document, patterns, count, 0), count[0]


def _walk(node, patterns, count, depth):
    if depth > _DEEPEST:
        raise ActionFailed("the document is nested deeper than %d" % _DEEPEST)
    if isinstance(node, str):
        return redacted_text(node, patterns, count)
    if isinstance(node, dict):
        return {
            redacted_text(key, patterns, count): _walk_value(key, value, patterns, count, depth)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return _walk_list(node, patterns, count, depth)
    return node


def _walk_value(key, value, patterns, count, depth):
    if isinstance(value, str) and value and _NAME.search(key[-_NAME_CHARACTERS:]):
        count[0] += 1
        return HIDDEN
    return _walk(value, patterns, count, depth + 1)


def _walk_list(items, patterns, count, depth):
    """A word that follows an option which names a secret is one: as in the arguments of a process."""
    result, follows = [], False
    for item in items:
        if follows and isinstance(item, str) and not item.startswith("-"):
            count[0] += 1
            result.append(HIDDEN)
        else:
            result.append(_walk(item, patterns, count, depth + 1))
        follows = (
            isinstance(item, str)
            and item.startswith("-")
            and "=" not in item
            and bool(_NAME.search(item[-_NAME_CHARACTERS:]))
        )
    return result


def redacted_text(text, patterns, count):
    for pattern in _IN_TEXT:
        text, hits = pattern.subn(r"\1" + HIDDEN, text)
        count[0] += hits
    text = _AFTER_OPTION.sub(lambda match: _hide_after_option(match, count), text)
    for pattern in patterns:
        text, hits = pattern.subn(HIDDEN, text)
        count[0] += hits
    return text


def _hide_after_option(match, count):
    before = match.string[max(0, match.start() - _NAME_CHARACTERS) : match.start()]
    if not re.split(r"[\s\"'=]", before)[-1].startswith("-"):
        return match.group(0)
    count[0] += 1
    return match.group(1) + HIDDEN
