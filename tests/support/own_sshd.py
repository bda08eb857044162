"""An sshd of the tests' own on loopback, its keys and settings in a directory: a host that is reached as hosts are."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_CONFIG = """ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/key.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers {user}
MaxStartups 100
"""
_START_S = 30.0
#: What sshd wants to be there when it is started by root: Debian's unit makes it.
_SEPARATION = Path("/run/sshd")


def missing_here() -> str:
    """Why no login here would succeed; empty when one can."""
    if _program() is None or shutil.which("ssh-keygen") is None:
        return "not installed: apt-get install openssh-server openssh-client"
    if os.geteuid() == 0:
        entry = next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("root:"))
        if entry.split(":")[1].startswith("!"):
            return "root's account is locked, and an sshd without PAM lets nobody in there"
    return ""


def _program() -> str | None:
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


class Sshd:
    """`port` is the one it listens on; `directory` has key, host_key and known_hosts."""

    def __init__(self, directory: Path) -> None:
        self.directory, self._user = directory, getpass.getuser()
        for name in ("key", "host_key", "another_key"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)]
            subprocess.run(argv, check=True)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        for known, key in (("known_hosts", "host_key"), ("another_known", "another_key")):
            told = (directory / f"{key}.pub").read_text()
            (directory / known).write_text(f"[127.0.0.1]:{self.port} {told}")
        text = _CONFIG.format(port=self.port, directory=directory, user=self._user)
        (directory / "sshd_config").write_text(text)

    def variables(self, *, key: str = "key", known: str = "known_hosts") -> dict[str, object]:
        """What an inventory says of this host."""
        options = {
            "UserKnownHostsFile": self.directory / known, "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes", "IdentitiesOnly": "yes", "IdentityAgent": "none",
        }  # fmt: skip
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": self._user,
            "ansible_ssh_private_key_file": str(self.directory / key),
            "ansible_ssh_common_args": " ".join(["-F", "none", *(f"-o {name}={it}" for name, it in options.items())]),
            "ansible_python_interpreter": sys.executable,
            "ansible_remote_tmp": str(self.directory / "remote"),
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        made = os.geteuid() == 0 and not _SEPARATION.exists()
        if made:
            _SEPARATION.mkdir(mode=0o755)
        program, said = str(_program()), self.directory / "said"
        with open(said, "wb") as output:
            argv = [program, "-D", "-e", "-f", str(self.directory / "sshd_config")]
            server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=output)
        try:
            deadline = time.monotonic() + _START_S
            while not self._greets():
                assert server.poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.02)
            yield
        finally:
            server.terminate()
            server.wait(timeout=20)
            for pid in self.logged_in():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            if made:
                _SEPARATION.rmdir()

    def _greets(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as asked:
            return asked.recv(4) == b"SSH-"
        return False

    def logged_in(self) -> tuple[int, ...]:
        """Pids of what was started over its connections, whether these last or not: sshd tells each of its own."""
        found = []
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self._told_of(Path(entry.path, "environ").read_bytes()):
                    found.append(int(entry.name))
        return tuple(found)

    def _told_of(self, environ: bytes) -> bool:
        told = [each for each in environ.split(b"\0") if each.startswith(b"SSH_CONNECTION=")]
        return any(each.endswith(b" 127.0.0.1 %d" % self.port) for each in told)

    def connections(self) -> tuple[int, ...]:
        """Pids of the sshd processes that each serve one login."""
        own = {_parent(pid) for pid in self.logged_in()}
        return tuple(pid for pid in own if pid > 1 and Path(f"/proc/{pid}/comm").read_text().startswith("sshd"))


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text[text.rindex(")") + 2 :].split()[1])
    return 0
