# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends with 0 once each URL has answered with success. Run as: python wait.py SECONDS URL... Else says which did not, and why.

Whose certificate it is, is not asked: it names the host as others call it."""

import ssl
import sys
import time
import urllib.error
import urllib.request


def why_not(url):
    try:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        urllib.request.build_opener(*handlers).open(url, timeout=5).close()
    except (OSError, urllib.error.URLError) as error:
        return str(error)
    return ""


def main():
    deadline = time.monotonic() + float(sys.argv[1])
    for url in sys.argv[2:]:
        why = why_not(url)
        while why and time.monotonic() < deadline:
            time.sleep(0.5)
            why = why_not(url)
        if why:
            sys.exit("%s: %s, within %s s" % (url, why, sys.argv[1]))


main()
