"""C++ classes of a running program by their vtables: run-time type information survives stripping.

Itanium C++ ABI: a vtable is [offset to top = 0][type_info][functions ...] and an object's first word points at the
functions; a type_info is [its own vtable][name]. All of it lies in mappings of the program's files."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence

from osremed.sensors.address_space import AddressSpace, Mapping

_PART_BYTES = 4 << 20
_MOST_BYTES = 512 << 20
_NAME_BYTES = 512
_MANGLED = re.compile(rb"\*?([A-Za-z0-9_.$]{2,511})\0")
_PLAIN = re.compile(r"([0-9]{1,3})(.+)")


def find_vtables(space: AddressSpace, deadline_s: float) -> dict[int, str]:
    """What objects' first words point at -> the class's readable name. Abstract bases are among them."""
    files = [one for one in space.maps if one.inode and one.perms[0] == "r"]
    code = sorted((one.start, one.end) for one in files if one.perms[2] == "x")
    spans = _spans(files)
    candidates: list[tuple[int, int]] = []
    read = 0
    for mapping in files:
        if mapping.perms[2] == "x" or mapping.perms[3] != "p":
            continue
        low, high = spans[mapping.device, mapping.inode]
        for at in range(mapping.start, mapping.end, _PART_BYTES):
            if time.monotonic() > deadline_s or read > _MOST_BYTES or not code:
                break
            data = space.read_prefix(at, min(_PART_BYTES + 24, mapping.end - at))
            read += len(data)
            candidates.extend(_candidates(data, at, low, high, code))
    return _named(space, candidates, spans)


def _spans(files: Sequence[Mapping]) -> dict[tuple[str, int], tuple[int, int]]:
    spans: dict[tuple[str, int], tuple[int, int]] = {}
    for one in files:
        low, high = spans.get((one.device, one.inode), (one.start, one.end))
        spans[one.device, one.inode] = (min(low, one.start), max(high, one.end))
    return spans


def _candidates(
    data: bytes, address: int, low: int, high: int, code: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """(address of the functions, type_info) where a zero, a pointer into the same file and a pointer to code follow
    each other."""
    words = memoryview(data).cast("Q").tolist()
    first, last = code[0][0], code[-1][1]
    return [
        (address + 8 * i + 8, words[i])
        for i in range(1, len(words) - 1)
        if not words[i - 1] and low <= words[i] < high and first <= words[i + 1] < last and _in(code, words[i + 1])
    ]


def _in(spans: Sequence[tuple[int, int]], address: int) -> bool:
    return any(start <= address < end for start, end in spans)


def _named(
    space: AddressSpace, candidates: Sequence[tuple[int, int]], spans: dict[tuple[str, int], tuple[int, int]]
) -> dict[int, str]:
    found: dict[int, str] = {}
    infos = space.read_many([(info, 16) for _at, info in candidates])
    with_info = [(at, body) for (at, _info), body in zip(candidates, infos) if body is not None]
    pointers = [(int.from_bytes(body[:8], "little"), int.from_bytes(body[8:], "little")) for _at, body in with_info]
    texts = space.read_many([(name, _name_bytes(name)) for _vtable, name in pointers])
    for (at, _body), (vtable, _name), text in zip(with_info, pointers, texts):
        match = _MANGLED.match(text or b"")
        if match and _in(list(spans.values()), vtable):
            found[at] = readable(match.group(1).decode("ascii"))
    return found


def _name_bytes(address: int) -> int:
    """Up to the end of the page: a name may be the last thing in its mapping."""
    return max(64, min(_NAME_BYTES, 4096 - address % 4096)) if address else 0


def readable(mangled: str) -> str:
    """The name as programmers write it; what cannot be read stays as it is in the file."""
    if _demangle is not None:
        status = ctypes.c_int(0)
        text = _demangle(mangled.encode("ascii"), None, None, ctypes.byref(status))
        if status.value == 0 and text:
            name = ctypes.string_at(text).decode("utf-8", "replace")
            _free(text)
            return name
    return _plain_name(mangled)


def _plain_name(mangled: str) -> str:
    """`7Session` and `N3app7SessionE`; templates stay mangled."""
    nested = mangled.startswith("N") and mangled.endswith("E")
    rest, parts = mangled[1:-1] if nested else mangled, []
    while rest:
        match = _PLAIN.fullmatch(rest)
        if match is None or int(match.group(1)) > len(match.group(2)):
            return mangled
        length = int(match.group(1))
        parts.append(match.group(2)[:length])
        rest = match.group(2)[length:]
    return "::".join(parts) if len(parts) == 1 or nested else mangled


def _load_demangler() -> ctypes._NamedFuncPointer | None:
    """libstdc++ has one; most hosts have libstdc++."""
    try:
        function = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return function


_demangle = _load_demangler()
_free = ctypes.CDLL(None).free
_free.argtypes = (ctypes.c_void_p,)
_free.restype = None
