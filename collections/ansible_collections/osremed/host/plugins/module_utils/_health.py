# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether something works again: asked until it does without a break, or until its time is over."""

from __future__ import annotations

import http.client
import socket
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

POLL_S = 0.25
#: What one question may take. Even the last one gets the least: else it would tell of the clock and not of the service.
LEAST_ASK_S, ASK_S = 2.0, 5.0


class Verdict(NamedTuple):
    """`why` tells what was missing last, an empty string if all is well."""

    healthy: bool
    why: str
    waited_s: float


def wait_for(asks, timeout_s, hold_s):
    """The Verdict on `asks`, functions that get the seconds left and answer with why not, or an empty string. All must be
    content for `hold_s` without a break. May take LEAST_ASK_S longer for each."""
    began = time.monotonic()
    content_since = None
    while True:
        left_s = began + timeout_s - time.monotonic()
        why = next((answer for answer in (ask(max(LEAST_ASK_S, min(left_s, ASK_S))) for ask in asks) if answer), "")
        now = time.monotonic()
        content_since = None if why else (content_since or now)
        if content_since is not None and now - content_since >= hold_s:
            return Verdict(True, "", round(now - began, 3))
        if now - began >= timeout_s:
            return Verdict(False, why or "it was not well for %g s without a break" % hold_s, round(now - began, 3))
        time.sleep(POLL_S)


def check_url(url):
    """ActionFailed unless it is plain http or https to a host, without a password in it."""
    parts = urlsplit(url)
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ActionFailed("url %r is not http://host[:port]/path or https://" % url)
    if parts.username or parts.password:
        raise ActionFailed("url: a name or password in it would be shown. Hint: use a path that needs none")
    return url


def ask_url(url):
    """Content with any answer from 200 to 399. No proxy is used and no redirection followed."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    path = (parts.path or "/") + ("?" + parts.query if parts.query else "")

    def ask(left_s):
        connection = kind(parts.hostname, parts.port, timeout=left_s)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
            return "" if 200 <= status < 400 else "%s answers %d" % (url, status)
        except (OSError, http.client.HTTPException) as error:
            return "%s: %s" % (url, error or type(error).__name__)
        finally:
            connection.close()

    return ask


def ask_port(port):
    """Content when something listens on the loopback."""

    def ask(left_s):
        try:
            socket.create_connection(("127.0.0.1", port), left_s).close()
            return ""
        except OSError as error:
            return "port %d: %s" % (port, error)

    return ask


def ask_command(words):
    """Content with exit code 0."""

    def ask(left_s):
        ended = run_bounded(words, left_s, 1 << 20)
        if ended.code == 0:
            return ""
        said = (ended.stderr_text() or ended.stdout_text()).strip()[-300:]
        return "%s: %s" % (words[0], ended.why_no_code or "exit code %d: %s" % (ended.code, said or "no message"))

    return ask
