"""A Debian root tree from packages: made once per recipe, cached by the recipe's hash, never in git."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.state import cache_directory

_TIMEOUT_S = 900
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
#: Nothing a test host needs; each costs boot time, writes to the disk, or waits for a network that is not there.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service",
    "systemd-hwdb-update.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-random-seed.service", "ldconfig.service", "getty.target", "console-getty.service",
)  # fmt: skip
_FILES = {
    "/etc/resolv.conf": "",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "/etc/ssh/sshd_config": (
        "HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nUseDNS no\nPrintMotd no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nPidFile none\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
    ),
    "/etc/systemd/journald.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
}


@dataclass(frozen=True)
class Recipe:
    """What goes into a tree. Equal recipes share one tree."""

    packages: Sequence[str]
    masked: Sequence[str] = MASKED
    files: Mapping[str, str] = field(default_factory=lambda: dict(_FILES))  #: absolute path in the tree -> text
    removed: Sequence[str] = ("/etc/machine-id", "/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog")
    suite: str = "bookworm"

    def digest(self) -> str:
        """Pure: 16 hexadecimal digits over everything that decides what is in the tree."""
        facts = [2, self.suite, sorted(self.packages), sorted(self.masked), sorted(self.files.items()),
                 sorted(self.removed)]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def root_tree(recipe: Recipe) -> Path:
    """The tree's directory; made first if missing (1-2 minutes, needs root and a Debian mirror). Never write to it.

    Two callers at once make it once. `$OSREMED_TESTBED_MIRROR` takes the place of mmdebstrap's default mirrors.
    RuntimeError with the output when it cannot be made.
    """
    trees = cache_directory() / "trees"
    trees.mkdir(exist_ok=True)
    done = trees / recipe.digest()
    with open(trees / f"{recipe.digest()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        partial = trees / f"{recipe.digest()}.partial"
        if partial.exists():
            shutil.rmtree(partial)
        _bootstrap(recipe, partial)
        _finish(recipe, partial)
        os.replace(partial, done)
    return done


def _bootstrap(recipe: Recipe, target: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("mmdebstrap is not installed\n  hint: apt-get install mmdebstrap debian-archive-keyring")
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--aptopt=Acquire::Languages \"none\"",
            "--dpkgopt=force-unsafe-io", *[f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT],
            f"--include={','.join(recipe.packages)}", recipe.suite, str(target)]  # fmt: skip
    if mirror := os.environ.get("OSREMED_TESTBED_MIRROR"):
        argv.append(mirror)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"mmdebstrap ended with {ended.returncode}:\n{ended.stderr[-4000:]}")


def _finish(recipe: Recipe, target: Path) -> None:
    for name in recipe.masked:
        link = target / "etc/systemd/system" / name
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for name in recipe.removed:
        (target / name.lstrip("/")).unlink(missing_ok=True)
    for key in (target / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for name, text in recipe.files.items():
        path = target / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
