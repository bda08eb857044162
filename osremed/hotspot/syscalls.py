"""Names of system calls by number (x86-64), from syscalls_x86_64.json; numbers beyond it print as `syscall 999`,
those of 32-bit programs as `32-bit syscall 4`."""

from __future__ import annotations

import functools
import json
import pkgutil

_CALL32 = 0x20000000  #: set by the sampler for 32-bit programs, whose calls have other numbers


@functools.lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    data = pkgutil.get_data("osremed.hotspot", "syscalls_x86_64.json")
    assert data is not None
    return tuple(json.loads(data))


def syscall_name(number: int) -> str:
    """An empty text outside of a system call (-1)."""
    if number < 0:
        return ""
    if number & _CALL32:
        return f"32-bit syscall {number & ~_CALL32}"
    names = _names()
    return (names[number] if number < len(names) else "") or f"syscall {number}"
