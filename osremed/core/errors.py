"""Errors that say what, where, why and what to do, and the exit codes."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every osremed command. What they mean is in core.codes.EXITS."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    UNDONE = 4
    REFUSED = 5
    AWAITING = 6
    UNAVAILABLE = 7
    UNDO_INCOMPLETE = 8
    TIMED_OUT = 9
    INTERRUPTED = 130


class OsremedError(Exception):
    """What went wrong, in one line; `where` is a file:line:column, path or host; `hint` says what to do; `code` is a
    key of core.codes, of the class unless one is given."""

    exit_code = ExitCode.FAILED
    code = "failed"

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint
        self.code = code or type(self).code

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class BadInput(OsremedError):
    exit_code = ExitCode.BAD_INPUT
    code = "input"


class NotFound(OsremedError):
    exit_code = ExitCode.NOT_FOUND
    code = "not-found"


class Unavailable(OsremedError):
    """A service, privilege or kernel feature is missing here."""

    exit_code = ExitCode.UNAVAILABLE
    code = "unavailable"
