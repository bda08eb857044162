"""Namespace hosts for tests, and what a host has changed since it was made."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from tests.testbed import nspawn
from tests.testbed.state import open_session
from tests.testbed.tree import root_tree

#: Not of the system's state: emptied at start, or written by every login.
VOLATILE = ("run", "tmp", "var/tmp", "var/log", "dev")


@pytest.fixture(scope="session")
def bed():
    """A controller namespace with a bridge; what hosts it has ends with the session."""
    if why := nspawn.missing_here():
        pytest.skip(why)
    session = open_session()
    try:
        yield nspawn.NspawnBed(session)
    finally:
        session.close()


@pytest.fixture(scope="module")
def nspawn_hosts(bed):
    """`nspawn_hosts(n)`: n fresh hosts (`nspawn_hosts(n, recipe)`); they stop when the module's tests are done."""
    started = []

    def start(count, recipe=nspawn.RECIPE):
        started.extend(bed.start(count, recipe))
        return started[-count:]

    yield start
    for host in started:
        host.stop()


def changes(host):
    """What differs from the root tree the host was made of: path -> kind, mode, owner and content."""
    lower, found = root_tree(host.recipe), {}
    for directory, directories, files in os.walk(host.upper):
        inside = Path(directory).relative_to(host.upper)
        directories[:] = [name for name in directories if str(inside / name) not in VOLATILE]
        for name in (*directories, *files):
            path = str(inside / name)
            facts = _facts(host.upper / path)
            # A directory is copied up when something in it changes; that is no change of its own.
            if not (facts[0] == "d" and os.path.isdir(lower / path) and facts == _facts(lower / path)):
                found[path] = facts
    return found


def _facts(path):
    facts = os.lstat(path)
    kind = stat.filemode(facts.st_mode)[0]
    content = ""
    if kind == "-":
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif kind == "l":
        content = os.readlink(path)
    return kind, stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, content
