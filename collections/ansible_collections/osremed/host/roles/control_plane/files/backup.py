# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One archive with what the control plane has recorded, whole or not there: python backup.py STATE INTO KEEP.

Prefect's SQLite is copied by SQLite itself, while it is written to. The youngest KEEP archives stay. Not in it: the
environment with its secrets, which the playbook has; a PostgreSQL, which has tools of its own."""

import os
import sqlite3
import sys
import tarfile
import tempfile
import time

DATABASE = "prefect/prefect.db"
#: Logs of SQLite belong to the file that is copied; sockets and locks to the processes; pages are made anew by each start.
LEFT_OUT = (DATABASE, DATABASE + "-wal", DATABASE + "-shm", "prefect/ui")


def copy_database(source, target):
    with sqlite3.connect("file:%s?mode=ro" % source, uri=True) as there, sqlite3.connect(target) as here:
        there.backup(here)
    here.close()
    there.close()


def is_kept(state, into):
    def choose(entry):
        path = os.path.join(state, os.path.relpath(entry.name, "control"))
        left_out = os.path.relpath(path, state) in LEFT_OUT or os.path.abspath(path) == os.path.abspath(into)
        return None if left_out or not (entry.isfile() or entry.isdir() or entry.issym()) else entry

    return choose


def archive(state, into):
    os.makedirs(into, mode=0o700, exist_ok=True)
    name = os.path.join(into, time.strftime("control-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        part, database = os.path.join(scratch, "part"), os.path.join(state, DATABASE)
        with tarfile.open(part, "w:gz") as tar:
            tar.add(state, "control", filter=is_kept(state, into))
            if os.path.exists(database):
                copy_database(database, os.path.join(scratch, "prefect.db"))
                tar.add(os.path.join(scratch, "prefect.db"), "control/" + DATABASE)
        os.chmod(part, 0o600)
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.rename(part, name)
    return name


def main():
    state, into, keep = sys.argv[1], sys.argv[2], int(sys.argv[3])
    print(archive(state, into))
    old = sorted(each for each in os.listdir(into) if each.startswith("control-") and each.endswith(".tar.gz"))
    for each in old[:-keep]:
        os.unlink(os.path.join(into, each))


main()
