"""What lies beside the segments of a ring: unwind tables, images of the vdso, kernel symbols. Each is kept as long as a
kept book names it: its time on disk is when one did last."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_NAME = re.compile(r"(unwind-(?P<table>.+)\.rows|vdso-(?P<image>.+)|kallsyms-.+\.z)")


class Beside:
    """What `look` has seen last."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, tuple[int, int]] = {}  #: name -> when it was named last, bytes
        self._named: set[str] = set()
        self.look()

    def bytes_since(self, oldest_ns: int = 0) -> int:
        """Of what was named since then."""
        return sum(size for named_ns, size in self._files.values() if named_ns >= oldest_ns)

    def look(self) -> None:
        """At what is there by now; what a book names is to be said again from here on."""
        self._files, self._named = {}, set()
        with os.scandir(self._directory) as listing:
            for each in listing:
                if _NAME.fullmatch(each.name):
                    with contextlib.suppress(FileNotFoundError):
                        stat = each.stat()
                        self._files[each.name] = stat.st_mtime_ns, stat.st_size

    def name_builds(self, now_ns: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Programs with these rows are in a book that is written now."""
        builds = {mapping[4] for row in rows for mapping in row["maps"]}
        self._name(now_ns, builds, lambda name: _build_of(name) in builds)

    def name_kernel(self, now_ns: int, boot: str, modules: str) -> None:
        """A segment of this boot (with these modules, if it says) is written now."""
        prefix = f"kallsyms-{boot}-{modules}" if modules else f"kallsyms-{boot}"
        self._name(now_ns, {prefix}, lambda name: name.startswith(prefix))

    def _name(self, now_ns: int, words: set[str], wanted: Callable[[str], bool]) -> None:
        if words <= self._named:
            return
        self._named |= words
        for name, (_, size) in self._files.items():
            if wanted(name):
                with contextlib.suppress(OSError):
                    os.utime(os.path.join(self._directory, name), ns=(now_ns, now_ns))
                self._files[name] = now_ns, size

    def drop_before(self, oldest_ns: int) -> Iterable[str]:
        """Removes what was named before then only; the names of the files."""
        dropped = [name for name, (named_ns, _) in self._files.items() if named_ns < oldest_ns]
        for name in dropped:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, name))
            del self._files[name]
        return dropped


def _build_of(name: str) -> str:
    match = _NAME.fullmatch(name)
    return (match["table"] or match["image"] or "") if match is not None else ""
