# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One archive with what the control plane has recorded, whole or not there: python backup.py STATE INTO KEEP.

It is made while the processes write, rename and remove: what is gone when its turn comes is passed over, and a file has
in the archive what was read of it. Prefect's SQLite is copied by SQLite itself. The youngest KEEP archives stay. Not in
it: the environment with its secrets, which the playbook has; a PostgreSQL, which has tools of its own."""

import errno
import fnmatch
import os
import sqlite3
import stat
import sys
import tarfile
import tempfile
import time

DATABASE = "prefect/prefect.db"
#: Logs of SQLite belong to the file that is copied; pages are made anew by each start. Sockets are the processes' own.
LEFT_OUT = (DATABASE, DATABASE + "-wal", DATABASE + "-shm", "prefect/ui")
#: Files on their way to their name, which is kept instead.
UNFINISHED = ".*.tmp"
#: Removed, or replaced by something of another kind, since its directory was read.
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
COPIED_IN_MEMORY = 1 << 24


def copy_database(source, target):
    with sqlite3.connect("file:%s?mode=ro" % source, uri=True) as there, sqlite3.connect(target) as here:
        there.backup(here)
    here.close()
    there.close()


def kept(state, into):
    """Paths below `state`, a directory before what is in it. A `state` that is not there is an error, not nothing."""

    def refuse(error):
        if error.errno not in GONE or error.filename == state:
            raise error

    def is_kept(path):
        return os.path.relpath(path, state) not in LEFT_OUT and os.path.abspath(path) != os.path.abspath(into)

    for directory, names, files in os.walk(state, onerror=refuse):
        yield directory
        names[:] = sorted(name for name in names if is_kept(os.path.join(directory, name)))
        # os.walk lists a link to a directory as a directory, and does not follow it.
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        for path in (os.path.join(directory, name) for name in sorted(files + links)):
            if is_kept(path) and not fnmatch.fnmatch(os.path.basename(path), UNFINISHED):
                yield path


def put_file(tar, path, name, scratch):
    """What the file holds now. It is copied first: the archive tells its size before its bytes, and files shrink."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as stream, tempfile.SpooledTemporaryFile(COPIED_IN_MEMORY, dir=scratch) as copy:
        entry = tar.gettarinfo(arcname=name, fileobj=stream)
        while copy.tell() < entry.size:
            data = stream.read(min(1 << 20, entry.size - copy.tell()))
            if not data:
                break
            copy.write(data)
        entry.size = copy.tell()
        copy.seek(0)
        tar.addfile(entry, copy)


def put(tar, path, name, scratch):
    """Adds a file, directory or link as it is now; nothing when it is gone or of another kind."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            put_file(tar, path, name, scratch)
        elif stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            tar.addfile(tar.gettarinfo(path, name))
    except OSError as error:
        if error.errno not in GONE:
            raise


def archive(state, into):
    os.makedirs(into, mode=0o700, exist_ok=True)
    name = os.path.join(into, time.strftime("control-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        part, database = os.path.join(scratch, "part"), os.path.join(state, DATABASE)
        with tarfile.open(part, "w:gz") as tar:
            for path in kept(state, into):
                put(tar, path, os.path.normpath(os.path.join("control", os.path.relpath(path, state))), scratch)
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
    if keep < 1:
        sys.exit("KEEP is %d: at least one archive has to stay, the one that is made" % keep)
    print(archive(state, into))
    old = sorted(each for each in os.listdir(into) if each.startswith("control-") and each.endswith(".tar.gz"))
    for each in old[:-keep]:
        os.unlink(os.path.join(into, each))


main()
