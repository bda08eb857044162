"""Fixes written into files of runbooks and parts: only where the file has fewer faults afterwards, and by nothing but
the fixes. What stands in a part is mended there."""

from __future__ import annotations

import os
from collections.abc import Sequence

from osremed.core.errors import BadInput
from osremed.core.files import write_atomic
from osremed.core.textdiff import unified
from osremed.runbook.faults import mended
from osremed.runbook.parts import check, is_part, lies_in_parts, lint_part
from osremed.runbook.rulefile import read_rule
from osremed.runbook.text import parse_text

_MAX_PASSES = 10  #: faults of the document show only once its shape is sound


def faults_of(content: bytes, path: str) -> Sequence[BadInput]:
    """Every fault of a runbook's text, with the parts beside it, or of a part's."""
    try:
        if lies_in_parts(path) or is_part(parse_text(content, path)):
            return lint_part(content, path)
        return check(content, path).faults
    except BadInput as error:
        return (error,)


def _own(content: bytes, path: str) -> Sequence[BadInput]:
    """Its faults that stand in the file itself: those of a part are mended in the part."""
    return [fault for fault in faults_of(content, path) if fault.where.startswith(f"{path}:")]


def mend_text(content: bytes, path: str) -> tuple[bytes, int]:
    """(the text after every safe fix, how many there were)."""
    total = 0
    for _pass in range(_MAX_PASSES):
        faults = _own(content, path)
        try:
            text, count = mended(content.decode("utf-8"), faults)
        except UnicodeDecodeError:
            break
        if not count or not _is_better(text.encode("utf-8"), path, faults, count):
            break
        content, total = text.encode("utf-8"), total + count
    return content, total


def _is_better(content: bytes, path: str, before: Sequence[BadInput], count: int) -> bool:
    """Every fixed fault is gone. What was hidden behind a shape that did not hold may show now, elsewhere."""
    places = {(fault.where, fault.what) for fault in before}
    after = {(fault.where, fault.what) for fault in _own(content, path)}
    return len(places & after) <= len(places) - count and not any(what.startswith("duplicate key") for _, what in after)


def mend_file(path: str) -> int:
    """How many fixes were written into the file; its mode stays. BadInput if it cannot be read or written."""
    content, count = mend_text(read_rule(path), path)
    if count:
        try:
            write_atomic(path, content, mode=os.stat(path).st_mode & 0o777)
        except OSError as error:
            raise BadInput(f"cannot be mended: {error.strerror}", where=path) from error
    return count


def mend_diff(path: str) -> list[str]:
    """What `mend_file` would write, as lines of a unified diff. Writes nothing. BadInput if it cannot be read."""
    before = read_rule(path)
    after, _count = mend_text(before, path)
    return unified(before.decode("utf-8", "replace"), after.decode("utf-8", "replace"), path.lstrip("/"))
