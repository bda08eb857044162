"""The image of a VM test host: kernel, initramfs, root disk and login key, made from Debian packages, kept by the hash
of this recipe below the testbed cache, and made again when it is not there."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.nspawn import RECIPE  # one tree for both kinds of hosts
from tests.testbed.state import cache_directory
from tests.testbed.tree import root_tree

PACKAGES = ("qemu-system-x86", "qemu-utils", "mmdebstrap", "busybox-static", "cpio", "e2fsprogs", "openssh-client")
_TOOLS = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "busybox", "cpio", "mke2fs", "ssh", "ssh-keygen", "unshare")
_DOWNLOAD_S = 300  # measured 5 s; a slow mirror may take its time, a dead one may not take for ever

#: Run in a copy of the tree: the kernel is unpacked, not installed, so that no initramfs and no boot loader is made.
_KERNEL_SCRIPT = """
cd /tmp
apt-get -qq update
apt-get -qq -o APT::Sandbox::User=root download \\
  $(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p')
apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends kmod > /dev/null
dpkg -x linux-image-*.deb kernel
mv kernel/lib/modules /lib/
mv kernel/boot/* /boot/
rm -rf linux-image-*.deb kernel /var/lib/apt/lists/*
depmod $(ls /lib/modules)
"""
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4")
_BUSYBOX = ("sh", "mount", "umount", "insmod", "ip", "switch_root", "grep", "poweroff", "echo", "mkdir")

#: What a test host does not need. Booting under emulation costs by the number of units.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "getty@tty1.service", "getty.target", "serial-getty@ttyS0.service",
    "systemd-logind.service", "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service", "systemd-modules-load.service", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount",
    "dev-mqueue.mount", "systemd-hwdb-update.service", "ldconfig.service", "systemd-random-seed.service",
    "systemd-binfmt.service", "systemd-pstore.service", "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service", "systemd-journal-flush.service", "systemd-machine-id-commit.service",
    "systemd-firstboot.service", "kmod-static-nodes.service", "systemd-networkd.service", "systemd-resolved.service",
    "systemd-journal-catalog-update.service", "systemd-sysusers.service", "systemd-tmpfiles-clean.timer",
    "systemd-network-generator.service", "systemd-pcrphase.service",
)  # fmt: skip

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
if grep -q osremed.probe /proc/cmdline; then echo osremed-probe-runs > /dev/ttyS0; poweroff -f; fi
for module in @MODULES@; do insmod /modules/$module; done
mount -t ext4 -o rw,noatime /dev/vda /root
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
umount /proc /dev
exec switch_root /root /sbin/init
"""

#: A beat is a fork and an exec of a program on the disk, as a login is: a locked loop would hardly notice a host that
#: hangs. The line says when, by the guest's own clock, it was done.
_HEARTBEAT = """
import os, time
port = os.open("/dev/ttyS1", os.O_WRONLY | os.O_NOCTTY)
due = time.monotonic()
while True:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    now = time.monotonic()
    os.write(port, b"beat %d\\n" % (now * 1000))
    due = max(due + 0.1, now)
    time.sleep(max(0.0, due - time.monotonic()))
"""

_GUEST_FILES = {
    "etc/hostname": "vm\n",
    "etc/hosts": "127.0.0.1 localhost\n10.0.2.15 vm\n",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n",
    "etc/machine-id": "6f7372656d65642d746573742d686f73\n",
    "etc/fstab": "",
    "etc/systemd/journald.conf.d/test.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n",
    "usr/local/lib/heartbeat.py": _HEARTBEAT,
    "etc/systemd/system/heartbeat.service": (
        "[Unit]\nDescription=Beats on the second serial port\n"
        "[Service]\nExecStart=/usr/bin/python3 -ISB /usr/local/lib/heartbeat.py\nOOMScoreAdjust=-900\nRestart=always\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
}


class TestbedUnavailable(Exception):
    """This machine cannot have VM test hosts; the text says what is missing and how to get it."""


@dataclass(frozen=True)
class Image:
    """Files of one finished image. They are never written to again."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        return self.directory / "initramfs.gz"

    @property
    def root_disk(self) -> Path:
        return self.directory / "root.img"

    @property
    def login_key(self) -> Path:
        return self.directory / "login"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"


def recipe_hash() -> str:
    """Of all that goes into an image by our will; what Debian releases meanwhile does not make it another one."""
    recipe = [RECIPE.digest(), _KERNEL_SCRIPT, _MODULES, _BUSYBOX, _MASKED, _INIT, _GUEST_FILES]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def require_tools() -> None:
    """TestbedUnavailable without root or a program."""
    if os.geteuid() != 0:
        raise TestbedUnavailable("VM test hosts are made from packages as root")
    if os.uname().machine != "x86_64":
        raise TestbedUnavailable(f"VM test hosts are x86_64, this machine is {os.uname().machine}")
    missing = [name for name in _TOOLS if shutil.which(name, path=_search_path()) is None]
    if missing:
        raise TestbedUnavailable(f"not installed: {' '.join(missing)}; apt-get install {' '.join(PACKAGES)}")


def image() -> Image:
    """The image of this recipe, made now if it is not there. One builds, others wait. TestbedUnavailable, or
    RuntimeError with the end of the build's output."""
    require_tools()
    cache = cache_directory()
    final = cache / f"vm-{recipe_hash()}"
    with locked(cache / "vm.lock"):
        if not final.is_dir():
            work = cache / f"{final.name}.making"
            shutil.rmtree(work, ignore_errors=True)  # of a build that was interrupted
            work.mkdir()
            try:
                _build(work)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
            work.rename(final)
    return Image(final)


@contextmanager
def locked(path: Path, timeout_s: float = 1200) -> Iterator[None]:
    """An exclusive lock that ends with its process. TimeoutError."""
    deadline = time.monotonic() + timeout_s
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} is locked by another for {timeout_s:.0f} s") from None
                time.sleep(0.2)
        yield


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _run(argv: list[str], cwd: Path, timeout_s: float = 120) -> None:
    """To its end, in namespaces of its own: what it mounts and starts ends with it, however it ends."""
    wrapped = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", *argv]
    environment = {**os.environ, "PATH": _search_path(), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        wrapped,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=timeout_s,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _build(work: Path) -> None:
    tree = work / "tree"
    _run(["cp", "-a", "--reflink=auto", str(root_tree(RECIPE)), str(tree)], work)
    for name in ("etc/resolv.conf", "etc/nsswitch.conf", "etc/hosts"):  # for apt-get; the guest's own come after
        shutil.copy(Path("/", name), tree / name)
    _run(["chroot", str(tree), "sh", "-ec", _KERNEL_SCRIPT], work, _DOWNLOAD_S)
    made = Image(work)
    shutil.copy(next((tree / "boot").glob("vmlinuz-*")), made.kernel)
    _make_initramfs(tree, work, made.initramfs)
    _furnish(tree, made)
    shutil.rmtree(tree / "boot")
    disk = ["-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-d", str(tree), str(made.root_disk), "1500M"]
    _run(["mke2fs", "-q", *disk], work)
    shutil.rmtree(tree)


def _make_initramfs(tree: Path, work: Path, target: Path) -> None:
    """busybox, the modules that lead to the root disk and the network, and a script. No udev."""
    top = work / "initramfs"
    for name in ("bin", "dev", "proc", "root", "modules"):
        (top / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox", path=_search_path()) or "/bin/busybox", top / "bin/busybox")
    for name in _BUSYBOX:
        (top / "bin" / name).symlink_to("busybox")
    modules = module_order(next((tree / "lib/modules").iterdir()), _MODULES)
    for path in modules:
        shutil.copy(path, top / "modules")
    init = top / "init"
    init.write_text(_INIT.replace("@MODULES@", " ".join(path.name for path in modules)))
    init.chmod(0o755)
    packed = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"],
        cwd=top,
        input="\n".join(str(path.relative_to(top)) for path in sorted(top.rglob("*"))).encode(),
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    target.write_bytes(gzip.compress(packed.stdout, 1))
    shutil.rmtree(top)


def module_order(directory: Path, wanted: tuple[str, ...]) -> list[Path]:
    """Files of the wanted modules and of all they need, each after its needs; those built in are left out."""
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []
    for name in wanted:
        if name in by_name:
            order += [path for path in [*reversed(needs[by_name[name]]), by_name[name]] if path not in order]
    return [directory / path for path in order]


def _furnish(tree: Path, made: Image) -> None:
    """Configuration, masks, keys."""
    for name, content in _GUEST_FILES.items():
        path = tree / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    units = tree / "etc/systemd/system"
    for name in _MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "heartbeat.service").symlink_to("/etc/systemd/system/heartbeat.service")
    for old in (tree / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    host_key = tree / "etc/ssh/ssh_host_ed25519_key"
    for path in (host_key, made.login_key):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "osremed test host", "-f", str(path)]
        subprocess.run(command, timeout=60, check=True)
    authorized = tree / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(made.login_key.with_suffix(".pub"), authorized)
    made.known_hosts.write_text(f"osremed-vm {host_key.with_suffix('.pub').read_text()}")
