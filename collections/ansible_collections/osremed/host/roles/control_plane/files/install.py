# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a release of the control plane beside the others, from one archive, without a package index.

Run as: python install.py ARCHIVE SHA256 RELEASE_DIRECTORY. Every file is checked against the archive's manifest and every
wheel by pip once more. The release is whole when its mark is there, which is written last: it is that of module wheel_release.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile


#: Pythons before 3.11.4 know no filter; what is unpacked was checked by its SHA-256.
FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


MARK = ".osremed-release"

#: What no service imports: pip, Ansible's own tests, tests of packages.
NOT_COMPILED = "/(pip|ansible_test|tests?|testing)/"


def run(argv):
    ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False)
    if ended.returncode:
        sys.exit("%s ended with %d: %s" % (argv[0], ended.returncode, ended.stdout.decode("utf-8", "replace")[-1500:]))


def unpacked(archive, expected, into):
    """The manifest; all it lists is in `into`."""
    with open(archive, "rb") as stream:
        found = hashlib.sha256(stream.read()).hexdigest()
    if found != expected:
        sys.exit("the archive arrived with SHA-256 %s, expected %s" % (found, expected))
    with tarfile.open(archive) as tar:
        tar.extractall(into, **FILTER)
    with open(os.path.join(into, "manifest.json"), encoding="utf-8") as stream:
        manifest = json.load(stream)
    for name, digest in manifest["sha256"].items():
        with open(os.path.join(into, name), "rb") as stream:
            if hashlib.sha256(stream.read()).hexdigest() != digest:
                sys.exit("%s in the archive is not what its manifest says" % name)
    return manifest


def install(manifest, scratch, release):
    wheels = os.path.join(scratch, "wheels")
    pip = next(os.path.join(wheels, name, "pip") for name in os.listdir(wheels) if name.startswith("pip-"))
    python = os.path.join(release, "bin/python")
    run([sys.executable, "-m", "venv", "--without-pip", release])
    run([python, "-I", pip, "--isolated", "install", "--quiet", "--no-index", "--no-cache-dir", "--no-input", "--no-compile",
         "--find-links", wheels, "--require-hashes", "--requirement", os.path.join(scratch, "requirements.txt")])
    place = os.path.join(release, "collections/ansible_collections/osremed/host")
    os.makedirs(place)
    with tarfile.open(next(os.path.join(scratch, name) for name in manifest["sha256"] if name.endswith(".tar.gz"))) as tar:
        tar.extractall(place, **FILTER)
    # The services cannot write here. On all cores: it is most of the work. Templates of code are no code, so it may fail on some.
    subprocess.run([python, "-I", "-m", "compileall", "-q", "-j", "0", "-x", NOT_COMPILED, os.path.join(release, "lib")],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600, check=False)
    run([python, "-I", "-m", "osremed", "--version"])


def main():
    archive, expected, release = sys.argv[1:]
    os.umask(0o022)
    shutil.rmtree(release, ignore_errors=True)
    scratch = tempfile.mkdtemp(prefix="osremed-")
    try:
        install(unpacked(archive, expected, scratch), scratch, release)
        with open(os.path.join(release, MARK), "w", encoding="ascii") as stream:
            json.dump({"sha256": expected, "version": os.path.basename(release), "made_from": "wheelhouse"}, stream)
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch)


main()
