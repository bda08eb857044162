"""QEMU's control socket: one command, one answer, never without a bound."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """QEMU refused a command, or did not answer in time."""


class Qmp:
    """A connection after the greeting. Events QEMU sends in between are dropped."""

    def __init__(self, path: Path, timeout_s: float = 20) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    self._socket.close()
                    raise QmpError(f"no control socket {path} within {timeout_s:.0f} s") from None
                time.sleep(0.02)
        self._socket.settimeout(timeout_s)
        self._lines = self._socket.makefile("rb")
        self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise QmpError("no answer on the control socket") from None
        if not line:
            raise QmpError("the control socket was closed")
        return dict(json.loads(line))

    def execute(self, command: str, **arguments: Any) -> Any:
        """What the command returns. QmpError."""
        message = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def forwarded_port(self) -> int:
        """The loopback port QEMU took for the guest's ssh: it chose a free one itself, so nobody can race for it."""
        text = str(self.execute("human-monitor-command", **{"command-line": "info usernet"}))
        found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", text)
        if found is None:
            raise QmpError(f"no forwarded port in:\n{text}")
        return int(found.group(1))

    def save_state(self, path: Path, timeout_s: float = 120) -> None:
        """Memory and devices into the file; the guest does not run any more afterwards. It must run before: what was
        stopped comes back stopped."""
        self.execute("migrate-set-parameters", **{"max-bandwidth": 8 << 30, "downtime-limit": 10_000})
        self.execute("migrate", uri=f"exec:cat > '{path}'")
        self._until_migrated(timeout_s)

    def _until_migrated(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        status = "none"
        while time.monotonic() < deadline:
            status = self.execute("query-migrate").get("status", "none")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                break
            time.sleep(0.05)
        raise QmpError(f"the state was not saved: {status}")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
