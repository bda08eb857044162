"""Namespace hosts: real systemd and sshd in seconds, many at once, on the machine's own kernel.

Each host is `systemd-nspawn --boot` in a network namespace and control groups of its own, with an overlay on a cached
root tree: its `upper` directory holds every change and nothing else. A controller namespace holds the bridge; what is
to reach the hosts runs there. No host reaches anything but its neighbours. Needs root. What such a host cannot show:
memory limits and negative oom_score_adj depend on the machine (a virtual machine has them).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.testbed.state import Session, end_control_group
from tests.testbed.tree import MASKED, Recipe, root_tree

RECIPE = Recipe(
    packages=("systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "procps", "sudo"),
    masked=(*MASKED, "systemd-logind.service"),
)
#: With a web server, as its package starts it, on port 80.
WITH_NGINX = replace(RECIPE, packages=(*RECIPE.packages, "nginx-light"))
PROGRAMS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "ip": "iproute2",
            "ssh": "openssh-client", "nsenter": "util-linux"}  # fmt: skip
_BOOT_S = 60.0
_CALL_S = 20.0
#: Put a process in the control groups named before the bar, then become the command after it.
_ENTER = 'while [ "$1" != "|" ]; do echo $$ > "$1/cgroup.procs" || exit 70; shift; done; shift; exec "$@"'


def missing_here() -> str:
    """Why this machine cannot run namespace hosts; empty when it can."""
    if os.geteuid() != 0:
        return "namespace hosts need root"
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    return f"not installed: apt-get install {' '.join(packages)}" if packages else ""


@dataclass(frozen=True)
class Host:
    """A started host. `upper` shows what it changed, `console` what it printed while it started."""

    name: str
    address: str
    key: Path
    upper: Path
    console: Path
    bed: NspawnBed
    resources: tuple[dict[str, object], ...]
    recipe: Recipe = RECIPE

    def run(self, command: str, *, check: bool = True, timeout_s: float = _CALL_S) -> subprocess.CompletedProcess[str]:
        """`command` in a root shell over ssh. With `check`, RuntimeError with all it said when it fails."""
        argv = ["ssh", *self.bed.ssh_options, f"root@{self.address}", command]
        ended = self.bed.controller(argv, timeout_s=timeout_s)
        if check and ended.returncode:
            raise RuntimeError(f"{self.name}: {command!r} ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
        return ended

    def stop(self) -> None:
        """Turns the host off; its upper directory stays until the session ends."""
        for resource in reversed(self.resources):
            if resource in self.bed.session.resources and resource["kind"] in ("process", "cgroup"):
                self.bed.session.release(resource)


class NspawnBed:
    """A bridge, a key, and the hosts of one session."""

    def __init__(self, session: Session) -> None:
        self.session, self.hosts = session, list[Host]()
        self._prefix = f"osr-{session.id}"
        self._calls = self._started = 0
        self.key = session.directory / "key"
        self.known_hosts = session.directory / "known_hosts"
        # A control socket's path may have 107 bytes, and the session's may be long.
        self.sockets = session.directory_outside(f"/tmp/{self._prefix}")
        for name in ("key", "host_key"):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(session.directory / name))
        self._namespace("c")
        self._groups = self._control_groups("c")
        self._in("c", "ip", "link", "set", "lo", "up")
        self._in("c", "ip", "link", "add", "br0", "type", "bridge")
        self._in("c", "ip", "address", "add", f"10.77.{session.subnet}.1/24", "dev", "br0")
        self._in("c", "ip", "link", "set", "br0", "up")

    @property
    def ssh_options(self) -> list[str]:
        return ["-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"]  # fmt: skip

    def start(self, count: int, recipe: Recipe = RECIPE) -> list[Host]:
        """`count` more hosts of this recipe, started at once; all answer over ssh and their systemd has started."""
        first = self._started + 1
        self._started += count  # a number is not used again: what its host left may still be there
        new = [self._prepare(number, recipe) for number in range(first, first + count)]
        self.hosts += new
        self.known_hosts.write_text("".join(f"{host.address} {self._host_key()}\n" for host in self.hosts))
        deadline = time.monotonic() + _BOOT_S
        for host in new:
            _wait_until_started(host, deadline)
        return new

    def within(self, name: str, *argv: str) -> list[str]:
        """A command in the network of a host, or of the controller (`c`), with the files of this machine."""
        return ["nsenter", f"--net=/run/netns/{self._prefix}-{name}", *argv]

    def controller(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 120.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command where the hosts can be reached. What it leaves behind ends with the session; on
        subprocess.TimeoutExpired, which has what was said until then, it and its children are ended at once."""
        self._calls += 1
        groups = [f"{group}/{self._calls}" for group in self._groups]
        for group in groups:
            os.mkdir(group)
        enter = ["sh", "-c", _ENTER, "sh", *groups, "|", *self.within("c", *argv)]
        # Files, not pipes: a connection master that stays must not keep us waiting for its end of a pipe.
        out, err = (self.session.directory / f"call-{self._calls}.{name}" for name in ("out", "err"))
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            child = subprocess.Popen(
                enter, stdin=subprocess.DEVNULL, stdout=out_file, stderr=err_file, env=env, cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = child.wait(timeout=timeout_s)
            except BaseException as error:
                end_control_group(groups[0])
                child.wait(timeout=_CALL_S)
                if isinstance(error, subprocess.TimeoutExpired):
                    error.output, error.stderr = out.read_bytes(), err.read_bytes()
                raise
        ended = subprocess.CompletedProcess(list(argv), code, _text(out), _text(err))
        out.unlink()
        err.unlink()
        for group in groups:
            with contextlib.suppress(OSError):  # a connection master in it stays until the session ends
                os.rmdir(group)
        return ended

    def write_inventory(self, path: Path, hosts: Sequence[Host], **variables: object) -> Path:
        """An Ansible inventory with `hosts` in the group `osremed`. The controller's ssh settings are in it."""
        options = shlex.join([*self.ssh_options, "-o", "ControlMaster=auto", "-o", "ControlPersist=60s"])
        common = {
            "ansible_user": "root", "ansible_python_interpreter": "/usr/bin/python3", "ansible_pipelining": True,
            "ansible_remote_tmp": "/tmp/.ansible", "ansible_ssh_common_args": options,
            "ansible_control_path_dir": self.sockets, **variables,
        }  # fmt: skip
        addresses = {host.name: {"ansible_host": host.address} for host in hosts}
        path.write_text(json.dumps({"osremed": {"hosts": addresses, "vars": common}}, indent=1))
        return path

    def reach_from_outside(self) -> dict[str, str]:
        """Ansible variables with which the hosts are reached from anywhere on this machine: programs that enter the
        controller namespace first."""
        variables = {}
        for name in ("ssh", "sftp", "scp"):
            program = self.session.directory / name
            enter = self.within("c", shutil.which(name) or name)
            program.write_text(f'#!/bin/sh\nexec {shlex.join(enter)} "$@"\n')
            program.chmod(0o700)
            variables[f"ansible_{name}_executable"] = str(program)
        return variables

    def close(self) -> None:
        """Takes everything away. OSError with what stayed."""
        self.session.close()

    def _host_key(self) -> str:
        return " ".join((self.session.directory / "host_key.pub").read_text().split()[:2])

    def _namespace(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        self.session.record("netns", name=full)
        _call("ip", "netns", "add", full)
        return full

    def _in(self, name: str, *argv: str) -> None:
        _call(*self.within(name, *argv))

    def _control_groups(self, name: str) -> list[str]:
        """A group of its own in the cgroup2 tree and, where there is one, in the named hierarchy of systemd."""
        groups = [f"{top}/{self._prefix}-{name}" for top in control_group_tops()]
        for group in groups:
            self.session.record("cgroup", path=group)
            os.mkdir(group)
        return groups

    def _prepare(self, number: int, recipe: Recipe) -> Host:
        name, address = f"h{number}", f"10.77.{self.session.subnet}.{10 + number}"
        before = len(self.session.resources)
        home = self.session.directory / name
        for part in ("upper", "work", "root"):
            (home / part).mkdir(parents=True)
        self._personalise(home / "upper", name, address)
        self._connect(name, address)
        root = home / "root"
        self.session.record("mount", path=str(root))
        layers = f"lowerdir={root_tree(recipe)},upperdir={home / 'upper'},workdir={home / 'work'}"
        _call("mount", "-t", "overlay", "-o", layers, f"{self._prefix}-{name}", str(root))
        groups = self._control_groups(name)
        machine = f"{self._prefix}-{name}"
        self.session.record("directory", path=f"/run/systemd/nspawn/propagate/{machine}")
        self.session.spawn(
            ["/bin/sh", "-c", _ENTER, "sh", *groups, "|", "systemd-nspawn", "--quiet", f"--directory={root}",
             f"--machine={machine}", f"--hostname={name}", "--register=no", "--keep-unit", "--settings=no",
             "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only",
             f"--network-namespace-path=/run/netns/{machine}", "--boot", "systemd.show_status=0"],
            home / "console", env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )  # fmt: skip
        resources = tuple(self.session.resources[before:])
        return Host(name, address, self.key, home / "upper", home / "console", self, resources, recipe)

    def _personalise(self, upper: Path, name: str, address: str) -> None:
        directory = self.session.directory
        files = {
            "etc/hostname": f"{name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n{address} {name}\n",
            "etc/machine-id": f"{secrets.token_hex(16)}\n",
            "etc/ssh/ssh_host_ed25519_key": (directory / "host_key").read_text(),
            "root/.ssh/authorized_keys": (directory / "key.pub").read_text(),
        }
        for path, text in files.items():
            target = upper / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for path, mode in (("etc/ssh/ssh_host_ed25519_key", 0o600), ("root", 0o700), ("root/.ssh", 0o700)):
            (upper / path).chmod(mode)

    def _connect(self, name: str, address: str) -> None:
        namespace = self._namespace(name)
        self._in("c", "ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "host0", "netns", namespace)
        self._in("c", "ip", "link", "set", f"v-{name}", "master", "br0", "up")
        for words in (("address", "add", f"{address}/24", "dev", "host0"), ("link", "set", "host0", "up"),
                      ("link", "set", "lo", "up")):  # fmt: skip
            self._in(name, "ip", *words)


def control_group_tops() -> list[str]:
    """Where the cgroup2 tree and the named hierarchy of systemd are mounted; the latter only on hybrid machines."""
    text = Path("/proc/self/mountinfo").read_text()
    unified = re.findall(r"^\S+ \S+ \S+ / (\S+) .* - cgroup2 ", text, re.MULTILINE)
    named = re.findall(r"^\S+ \S+ \S+ / (\S+) .* - cgroup \S+ \S*name=systemd", text, re.MULTILINE)
    if not unified:
        raise RuntimeError("no cgroup2 tree is mounted\n  hint: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return unified[:1] + named[:1]


def _wait_until_started(host: Host, deadline: float) -> None:
    """`degraded` counts as started: a masked unit that another wanted is no concern of a test."""
    said = "no answer over ssh"
    while time.monotonic() < deadline:
        ended = host.run("systemctl is-system-running --wait", check=False)
        said = (ended.stdout + ended.stderr).strip()
        if said in ("running", "degraded"):
            return
        time.sleep(0.05)
    console = host.console.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"{host.name} did not start within {_BOOT_S:.0f} s: {said}\n--- its console:\n{console}")


def _call(*argv: str) -> None:
    """RuntimeError with what it said unless it succeeds in time."""
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=_CALL_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{shlex.join(argv)} ended with {ended.returncode}: {ended.stderr.strip()}")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
