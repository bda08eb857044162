"""Log lines for people and collectors: `time level component message key=value …` on stderr. Not the journal."""

from __future__ import annotations

import json
import os
import select
import time

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LINE_BYTES = 4096  #: PIPE_BUF: a pipe that polls writable takes this much without blocking


def _quoted(value: object) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(f"<{type(value).__name__}>")


class Log:
    """Costs nothing to import (the logging package is 2 MB resident). Never raises: a full or closed stderr is not a
    reason to stop guarding a host."""

    def __init__(self, component: str, *, level: str | None = None) -> None:
        self.component = component
        self._threshold = _LEVELS.get(level or os.environ.get("OSREMED_LOG", "info"), 20)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if _LEVELS[level] < self._threshold:
            return
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
        line = f"{stamp} {level} {self.component} {message}{pairs}".encode("utf-8", "replace")
        try:
            if self._writable():
                os.write(2, line[: _LINE_BYTES - 1] + b"\n")
        except OSError:
            return

    @staticmethod
    def _writable() -> bool:
        """False when stderr is a pipe nobody empties: a lost line is better than a guard that hangs in write(2)."""
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        return bool(poll.poll(0))

    def debug(self, message: str, **fields: object) -> None:
        self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self._write("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write("error", message, fields)
