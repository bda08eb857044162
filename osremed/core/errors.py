"""Errors that say what, where, why and what to do; and the one table of exit codes."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every osremed command; documented in docs/reference/exit-codes.md, generated from here."""

    OK = 0  #: done, or nothing to do
    FAILED = 1  #: it was tried and failed
    BAD_INPUT = 2  #: a file, argument or expression is wrong; nothing was started
    NOT_FOUND = 3  #: the named run, runbook, host or file does not exist
    UNDONE = 4  #: the change was applied, did not verify, and was taken back
    REFUSED = 5  #: a guard or an approver said no; nothing was changed
    AWAITING = 6  #: an approval is outstanding
    UNAVAILABLE = 7  #: a needed service, privilege or kernel feature is missing
    UNDO_INCOMPLETE = 8  #: a change could not be taken back completely; a human is needed
    INTERRUPTED = 130  #: SIGINT or SIGTERM


class OsremedError(Exception):
    """What went wrong, in one line; `where` is a file:line:column, path or host; `hint` says what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class BadInput(OsremedError):
    exit_code = ExitCode.BAD_INPUT


class NotFound(OsremedError):
    exit_code = ExitCode.NOT_FOUND


class Unavailable(OsremedError):
    """A service, privilege or kernel feature is missing here."""

    exit_code = ExitCode.UNAVAILABLE
