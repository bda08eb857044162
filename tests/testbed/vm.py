"""A host with a kernel, a systemd and a control group tree of its own, under QEMU. Started by restoring the state of
one that has already booted, saved once for each memory size."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.testbed import vmimage, vmqemu
from tests.testbed.state import Session
from tests.testbed.vmqemu import Machine
from tests.testbed.vmqmp import Qmp, QmpError

_BOOT_S, _RESTORE_S = 180, 90  # 10 and 3 s on an idle machine; four times that and more under load
_BEAT_S = 120
_USUAL = Machine()
_BEAT = re.compile(rb"^beat (\d+)\r?$", re.MULTILINE)


class VmError(Exception):
    """The host did not do in time what it had to; with the end of its console."""


class Vm:
    """One running host. `close` leaves nothing of it, and if that never comes, the next session does (state.py)."""

    def __init__(self, session: Session, image: vmimage.Image, machine: Machine, accel: str) -> None:
        self.session, self.image, self.machine, self.accel = session, image, machine, accel
        # Short, and not below the checkout: the path of a socket has 108 bytes.
        name = f"osremed-vm-{session.id}-{secrets.token_hex(2)}"
        self.directory = Path(session.directory_outside(os.path.join(tempfile.gettempdir(), name)))
        self.start_s = 0.0
        self.port = 0
        self.qmp: Qmp | None = None
        self._qemu: subprocess.Popen[bytes] | None = None
        self._login: subprocess.Popen[bytes] | None = None

    # --- life ---

    def start(self, below: Path, below_format: str, state: Path | None) -> None:
        """Returns when ssh works. VmError."""
        began = time.monotonic()
        vmqemu.make_disks(self.directory, below, below_format)
        argv = vmqemu.command(self.accel, self.machine, self.image, self.directory, state)
        self._qemu = self.session.spawn(argv, self.directory / "qemu.log", grace_s=0.5)
        try:
            self.qmp = Qmp(self.directory / "qmp", timeout_s=60)
            self.port = self.qmp.forwarded_port()
        except (QmpError, OSError) as error:
            raise self.error(f"QEMU does not answer: {error}") from error
        limit_s = _BOOT_S if state is None else _RESTORE_S
        self.until(self._log_in, "ssh answers", limit_s)
        self.start_s = time.monotonic() - began

    def _log_in(self) -> bool:
        """Opens the connection that the following commands share. False while the guest is not there yet."""
        self._log_out()
        argv = [*self._ssh(), "-M", "-N", "-S", str(self.directory / "ssh"), "root@127.0.0.1"]
        self._login = self.session.spawn(argv, self.directory / "ssh.log")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._login.poll() is None:
            if (self.directory / "ssh").exists():
                return True
            time.sleep(0.02)
        return False

    def _log_out(self) -> None:
        if self._login is not None:
            self._end(self._login)
            self._login = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for resource in self.session.resources:
            if resource.get("pid") == process.pid:
                self.session.release(resource)
        process.wait(timeout=20)

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "HostKeyAlias": "osremed-vm",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.image.login_key),
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.image.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-p", str(self.port), *flags]

    def close(self) -> None:
        """Ends ssh and QEMU by their pids and removes their files."""
        if self.qmp is not None:
            self.qmp.close()
        self._log_out()
        if self._qemu is not None:
            self._end(self._qemu)
        for resource in self.session.resources:
            if resource.get("path") == str(self.directory):
                self.session.release(resource)

    def save(self, target: Path) -> None:
        """State and root disk into a directory that is there whole or not at all; the host is over afterwards."""
        self._log_out()
        part = target.with_name(f"{target.name}.making")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        time.sleep(1)  # for the guest to see the end of the connection: a state must not hold half of one
        assert self.qmp is not None
        assert self._qemu is not None
        self.qmp.save_state(part / "state")
        self.qmp.execute("quit")
        self._qemu.wait(timeout=60)
        shutil.move(self.directory / "root.qcow2", part / "root.qcow2")
        part.rename(target)

    # --- use ---

    def run(self, argv: Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"") -> tuple[int, str]:
        """(exit code, stdout and stderr together). VmError when it takes longer or the connection breaks."""
        command = [*self.login_command(), "--", shlex.join(argv)]
        return self._finish(command, argv, timeout_s, stdin)

    def log_in_again(self, *, timeout_s: float = 60) -> float:
        """Seconds that a login from the start takes: a new connection, a new session, a program."""
        began = time.monotonic()
        code, out = self._finish([*self._ssh(), "root@127.0.0.1", "--", "true"], ["true"], timeout_s, b"")
        if code:
            raise self.error(f"a new login failed: {out}")
        return time.monotonic() - began

    def try_login(self) -> bool:
        """Whether a new shared connection could be opened, in place of one that broke."""
        return self._log_in()

    def login_command(self) -> list[str]:
        """ssh to this host over the connection that is there; with words after it, a command."""
        return [*self._ssh(), "-S", str(self.directory / "ssh"), "root@127.0.0.1"]

    def _finish(self, command: list[str], argv: Sequence[str], timeout_s: float, stdin: bytes) -> tuple[int, str]:
        try:
            done = subprocess.run(
                command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise self.error(f"not done within {timeout_s:.0f} s: {shlex.join(argv)}") from None
        out = done.stdout.decode("utf-8", "replace")
        if done.returncode == 255:
            raise self.error(f"the connection broke: {out}")
        return done.returncode, out

    def check(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        """`run` that must succeed; its output."""
        code, out = self.run(argv, timeout_s=timeout_s)
        if code:
            raise self.error(f"{shlex.join(argv)} ended with {code}: {out}")
        return out

    def write(self, path: str, content: bytes, *, mode: str = "644") -> None:
        """A file in the guest, with its directories."""
        code, out = self.run(["install", "-D", "-m", mode, "/dev/stdin", path], stdin=content)
        if code:
            raise self.error(f"{path} was not written: {out}")

    def copy(self, src: Path, dst: str) -> None:
        """A file of ours into the guest, with its mode."""
        self.write(dst, src.read_bytes(), mode=f"{src.stat().st_mode & 0o777:o}")

    def forward_to_here(self, port_there: int, port_here: int) -> None:
        """What connects to that loopback port in the guest reaches this one of ours, as long as the host lives."""
        rule = f"127.0.0.1:{port_there}:127.0.0.1:{port_here}"
        argv = [*self.login_command()[:-1], "-O", "forward", "-R", rule, "root@127.0.0.1"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise self.error(f"no forward of port {port_there}: {done.stderr}")

    def inventory(self) -> dict[str, Any]:
        """An Ansible inventory with this host in the group `osremed`."""
        return {"osremed": {"hosts": {self.directory.name: self.variables()}}}

    def variables(self) -> dict[str, Any]:
        """How Ansible reaches this host; it shares our connection."""
        options = [word for word in self._ssh()[5:] if word]
        return {
            "ansible_host": "127.0.0.1", "ansible_port": self.port, "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3", "ansible_pipelining": True,
            "ansible_control_path": str(self.directory / "ssh"),
            "ansible_ssh_args": "-F none -o ControlMaster=auto -o ControlPersist=60s",
            "ansible_ssh_common_args": shlex.join(options),
        }  # fmt: skip

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
        """The first true answer. VmError when none comes in time, or QEMU ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = condition()
            if answer:
                return answer
            if self._qemu is not None and self.has_ended():
                raise self.error(f"QEMU ended with {self._qemu.returncode}")
            if time.monotonic() > deadline:
                raise self.error(f"not within {timeout_s:.0f} s: {what}")
            time.sleep(0.1)

    # --- heartbeat ---

    def beats_ms(self) -> list[int]:
        """When, by the guest's clock, each beat since the start was done."""
        return [int(word) for word in _BEAT.findall((self.directory / "heartbeat.log").read_bytes())]

    def heartbeat_gaps(self, since: int = 0) -> list[float]:
        """Seconds between the beats from number `since` on (`len(beats_ms())` of an earlier moment), up to one that
        was done after this call: a host that hangs now is waited for. VmError when it does not come back."""
        seen = len(self.beats_ms())
        self.until(lambda: len(self.beats_ms()) > seen, "another heartbeat", _BEAT_S)
        beats = self.beats_ms()[since:]
        return [(later - earlier) / 1000 for earlier, later in zip(beats, beats[1:])]

    def since_last_beat_s(self) -> float:
        """By this machine's clock: for a host that answers no more."""
        return time.time() - (self.directory / "heartbeat.log").stat().st_mtime

    def has_ended(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is not None

    # --- what went wrong ---

    def console(self, *, last_bytes: int = 4000) -> str:
        """The end of what kernel, systemd and QEMU said."""
        texts = []
        for name in ("console.log", "qemu.log"):
            with contextlib.suppress(FileNotFoundError):
                texts.append((self.directory / name).read_bytes()[-last_bytes:].decode("utf-8", "replace"))
        return "\n".join(texts)

    def error(self, what: str) -> VmError:
        return VmError(f"{what}\n--- console ---\n{self.console()}")


def open_vm(session: Session, machine: Machine = _USUAL, *, name: str = "vm") -> Vm:
    """A host that answers on ssh, its clock set and its name given; from a saved state, which is made first if there is
    none. The caller closes it. TestbedUnavailable, VmError."""
    image = vmimage.image()
    accel = vmqemu.accelerator(image)
    saved = saved_state(session, image, machine, accel)
    vm = Vm(session, image, machine, accel)
    try:
        vm.start(saved / "root.qcow2", "qcow2", saved / "state")
        swap = "mkswap -q /dev/vdb && swapon /dev/vdb && " if machine.swap else ""
        clock = f"date -s @{time.time():.0f} > /dev/null"
        vm.check(["sh", "-c", f"{swap}{clock} && echo {shlex.quote(name)} > /proc/sys/kernel/hostname"])
    except BaseException:
        vm.close()
        raise
    return vm


def saved_state(session: Session, image: vmimage.Image, machine: Machine, accel: str) -> Path:
    """A directory with `state` and `root.qcow2` of a host that has booted; made if it is not there."""
    label = re.sub(r"[^A-Za-z0-9.]+", "-", f"{accel}-{vmqemu.version()}")
    target = image.directory / f"state-{machine.memory_mib}-{machine.cpus}-{label}"
    with vmimage.locked(image.directory / "state.lock"):
        if not target.is_dir():
            _boot_and_save(session, image, Machine(memory_mib=machine.memory_mib, cpus=machine.cpus), accel, target)
    return target


def _boot_and_save(session: Session, image: vmimage.Image, machine: Machine, accel: str, target: Path) -> None:
    vm = Vm(session, image, machine, accel)
    try:
        vm.start(image.root_disk, "raw", None)
        state = ["systemctl", "is-system-running"]
        vm.until(lambda: vm.run(state)[1].strip() == "running", "a host without failures", 90)
        vm.heartbeat_gaps()
        vm.check(["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])
        vm.save(target)
    finally:
        vm.close()
