"""Answer: what a verb returns. Faces print it; verbs do not print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from osremed.core.errors import ExitCode
from osremed.core.record import record


@record
class Answer:
    """`document` is JSON for machines; `text` is for people (no trailing newline); `html` makes a page of its
    own, where the verb has one."""

    document: Any
    text: str
    exit_code: int = ExitCode.OK
    html: Callable[[], str] | None = None
