"""How far the kernel log was read in this boot: a watch that starts again goes on there, so that an Xid which was
written while nobody listened (an upgrade, a crash) is told as well."""

from __future__ import annotations

import json

from osremed.core.canonical import canonical_json
from osremed.core.files import read_bytes, write_atomic


class LogPlace:
    """Moved only after the fact: killed between the two, an Xid is told twice and never not at all."""

    def __init__(self, path: str, boot_id: str) -> None:
        self._path, self._boot_id = path, boot_id
        self._kept = -1

    def load(self) -> int | None:
        """The number of the last record that was read in this boot; None if that is not known."""
        try:
            kept = json.loads(read_bytes(self._path, limit_bytes=256))
            boot_id, seq = kept["boot_id"], kept["seq"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        known = bool(boot_id) and boot_id == self._boot_id and type(seq) is int and seq >= 0
        return seq if known else None

    def keep(self, seq: int) -> None:
        """OSError when the disk does not take it: it is kept the next time."""
        if self._boot_id and seq > self._kept:
            write_atomic(self._path, canonical_json({"boot_id": self._boot_id, "seq": seq}) + b"\n", mode=0o600)
            self._kept = seq
