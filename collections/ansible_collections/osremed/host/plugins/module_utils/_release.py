# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of a component below one directory: <base>/releases/<version>, whole or not there, and <base>/current.

A release never changes. What it was made from is told by the file .osremed-release in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from typing import NamedTuple

from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._files import fsync_directory

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MARK = ".osremed-release"
_LIMIT_BYTES, _LIMIT_FILES = 2 << 30, 50000
_VENV_TIMEOUT_S = 120.0


class Base(NamedTuple):
    """Where the releases of a component lie."""

    path: str

    @property
    def current(self):
        return os.path.join(self.path, "current")

    @property
    def releases(self):
        return os.path.join(self.path, "releases")

    def of(self, version):
        return os.path.join(self.releases, version)


def check_name(text, option):
    if not NAME.fullmatch(text):
        raise ActionFailed(
            "%s %r: only letters, digits and . _ + -, at most 128, beginning with one of the first" % (option, text)
        )
    return text


def target_of(version):
    """What `current` holds when it points to the version."""
    return "releases/%s" % version


def sha256_of(path):
    """Hex digest of a regular file, or None if there is none. ActionFailed for another kind of file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as stream:
        _require_regular(stream, path)
        return _copy(stream, None)


def _require_regular(stream, path):
    info = os.fstat(stream.fileno())
    if not stat.S_ISREG(info.st_mode) or info.st_size > _LIMIT_BYTES:
        raise ActionFailed("%s is not a regular file of at most %d bytes. Nothing was touched" % (path, _LIMIT_BYTES))


def _copy(stream, into):
    digest = hashlib.sha256()
    while True:
        chunk = stream.read(1 << 20)
        if not chunk:
            return digest.hexdigest()
        digest.update(chunk)
        if into is not None:
            into.write(chunk)


def installed(base, version, entry):
    """SHA-256 of what the release was made from, or None if it is not there. Without its mark the digest of `entry`
    counts: so a release that was put there by other means is known too."""
    directory = base.of(version)
    if os.path.islink(directory):
        raise ActionFailed("%s is a symbolic link: not followed, nothing changed" % directory)
    if not os.path.isdir(directory):
        return None
    try:
        with open(os.path.join(directory, MARK), encoding="utf-8") as stream:
            return str(json.load(stream)["sha256"])
    except FileNotFoundError:
        return sha256_of(os.path.join(directory, entry)) or ""
    except (ValueError, KeyError, TypeError) as error:
        raise ActionFailed("%s is not what this module writes: %r" % (os.path.join(directory, MARK), error))


def versions(base):
    """Versions that are there, the youngest first."""
    try:
        found = [
            item
            for item in os.scandir(base.releases)
            if item.is_dir(follow_symlinks=False) and NAME.fullmatch(item.name)
        ]
    except FileNotFoundError:
        return []
    return [item.name for item in sorted(found, key=lambda item: (-item.stat().st_mtime, item.name))]


def put(base, version, artifact, sha256, entry, python):
    """After return the release is there, whole. ActionFailed when the artifact is not what `sha256` names; then nothing was
    touched. The caller holds the lock of the base."""
    staged = os.path.join(base.releases, ".%s.osremed-new" % version)
    os.makedirs(base.releases, mode=0o755, exist_ok=True)
    shutil.rmtree(staged, ignore_errors=True)  # of a killed call
    os.mkdir(staged, 0o755)
    try:
        wheel = artifact.endswith(".whl")
        copied = os.path.join(staged, os.path.basename(artifact) if wheel else entry)
        copy_verified(artifact, copied, sha256)
        if wheel:
            unpack_wheel(copied, staged, python)
            os.unlink(copied)
        with open(os.path.join(staged, MARK), "w", encoding="utf-8") as stream:
            json.dump({"sha256": sha256, "version": version, "made_from": os.path.basename(artifact)}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(staged, base.of(version))
        fsync_directory(base.releases)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def copy_verified(artifact, copied, sha256):
    """The bytes that are checked are those that are kept: they are read once."""
    with open(os.open(artifact, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        _require_regular(stream, artifact)
        with open(copied, "xb") as into:
            found = _copy(stream, into)
            into.flush()
            os.fsync(into.fileno())
    if found != sha256:
        raise wrong_sum(artifact, found, sha256)
    os.chmod(copied, 0o755)


def wrong_sum(artifact, found, wanted):
    return ActionFailed(
        "%s has SHA-256 %s, expected %s. The releases were not touched" % (artifact, found, wanted),
        found_sha256=found,
        wrong_sum=True,
    )


def unpack_wheel(wheel, directory, python):
    """An environment without pip that sees the packages of the system, and the wheel in it. No index is asked."""
    made = run_bounded(
        [python, "-I", "-m", "venv", "--without-pip", "--system-site-packages", directory], _VENV_TIMEOUT_S, 1 << 20
    )
    if made.code != 0:
        raise ActionFailed(
            "%s makes no environment: %s" % (python, made.why_no_code or made.stderr_text().strip()[-500:])
        )
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    asked = run_bounded([os.path.join(directory, "bin/python"), "-I", "-c", code], _VENV_TIMEOUT_S, 1 << 16)
    if asked.code != 0:
        raise ActionFailed("%s: the environment does not start: %s" % (python, asked.stderr_text().strip()[-500:]))
    try:
        with zipfile.ZipFile(wheel) as archive:
            check_members(archive, wheel)
            archive.extractall(asked.stdout_text().strip())
    except zipfile.BadZipFile as error:
        raise ActionFailed("%s is not a wheel: %s" % (wheel, error))


def check_members(archive, wheel):
    """ActionFailed for a member that would leave its directory, for a link, for what needs an installer, for a bomb."""
    members = archive.infolist()
    if len(members) > _LIMIT_FILES or sum(item.file_size for item in members) > _LIMIT_BYTES:
        raise ActionFailed("%s unpacks to more than %d files or %d bytes" % (wheel, _LIMIT_FILES, _LIMIT_BYTES))
    for item in members:
        parts = item.filename.split("/")
        if (
            item.filename.startswith("/")
            or ".." in parts
            or "\\" in item.filename
            or stat.S_ISLNK(item.external_attr >> 16)
        ):
            raise ActionFailed("%s holds %r, which would leave the release" % (wheel, item.filename))
        if parts[0].endswith(".data"):
            raise ActionFailed("%s holds %r, which only an installer can place" % (wheel, item.filename))


def remove(base, version):
    """The release is gone, as one step to those who look, and then in fact."""
    going = os.path.join(base.releases, ".%s.osremed-old" % version)
    shutil.rmtree(going, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(base.of(version), going)
    shutil.rmtree(going)
    fsync_directory(base.releases)


def surplus(found, keep, in_use):
    """Versions to remove, of `found` with the youngest first: what is in use always stays and counts."""
    rest = [version for version in found if version not in in_use]
    return rest[max(0, keep - len(in_use)) :]
