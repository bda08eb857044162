"""Where a story finds what it needs and is no Python: shipped runbooks, the collection, the host plane in one file."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace

from osremed.core.errors import BadInput, NotFound
from osremed.core.files import read_bytes, write_atomic
from osremed.core.record import record

_HERE = os.path.dirname(os.path.abspath(__file__))
_CHECKOUT = os.path.dirname(os.path.dirname(_HERE))
#: Where `ansible-galaxy collection install` puts a collection when nobody says where.
_USUAL = ("~/.ansible/collections", "/usr/share/ansible/collections")


@record
class Shipped:
    """`runbooks` and `collections` are folders. `zipapp` is in a checkout alone, once it was built: elsewhere hosts
    run the installed package."""

    runbooks: str
    collections: str
    zipapp: str = os.path.join(_CHECKOUT, "dist", "osremed-host.pyz")


def find_shipped(collections: str) -> Shipped:
    """The runbooks of this package, and the collection in `collections`, this checkout, or where Ansible keeps its own.
    BadInput if it is in none of them."""
    return Shipped(_runbooks(), _collections(collections))


_ACTS = """\
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {{name: story, title: In this story it acts by itself, owners: [demo]}}
hosts: all
runbooks: [{runbook}]
mode: auto
"""


def widened(book: str) -> str:
    """The text of a runbook with leave to change every host: a share of a story's two hosts is one."""
    return re.sub(r"blast_radius: \{hosts: \d+%", "blast_radius: {hosts: 100%", book)


def acting(shipped: Shipped, state: str, runbook: str) -> Shipped:
    """With a policy beside a copy of the runbooks, as a site would write it: shipped ones ask before they change
    anything."""
    rules = os.path.join(state, "rules")
    shutil.rmtree(rules, ignore_errors=True)
    runbooks, policies = os.path.join(rules, "runbooks"), os.path.join(rules, "policies")
    shutil.copytree(shipped.runbooks, runbooks)
    book = os.path.join(runbooks, runbook, "runbook.yaml")
    write_atomic(book, widened(read_bytes(book).decode()).encode())
    os.mkdir(policies)
    write_atomic(os.path.join(policies, "story.yaml"), _ACTS.format(runbook=runbook).encode())
    return replace(shipped, runbooks=runbooks)


def _runbooks() -> str:
    """A release's wheel carries them in this room; a checkout has them at its top."""
    for folder in (os.path.join(_HERE, "runbooks"), os.path.join(_CHECKOUT, "runbooks")):
        if os.path.isfile(os.path.join(folder, "near-oom", "runbook.yaml")):
            return folder
    hint = "install the wheel of a release, or run the demo from a checkout of osremed"
    raise NotFound("this installation of osremed has no runbooks", where=_HERE, hint=hint)


def _collections(given: str) -> str:
    for folder in (given, os.path.join(_CHECKOUT, "collections"), *map(os.path.expanduser, _USUAL)):
        if os.path.isdir(os.path.join(folder, "ansible_collections", "osremed", "host")):
            return os.path.abspath(folder)
    hint = "ansible-galaxy collection install -p collections osremed-host-VERSION.tar.gz: it is beside the wheel"
    raise BadInput("the collection osremed.host is not here", where=given, hint=hint)
