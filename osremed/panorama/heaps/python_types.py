"""The types of a CPython process, found by the one property every type object has: its own type is a metatype."""

from __future__ import annotations

import time
from itertools import islice

from osremed.core.record import record
from osremed.panorama.heaps.regions import Heap, find_words, spread
from osremed.sensors import cpython
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.cpython import Runtime, TypeInfo

_MOST_CANDIDATES = 500_000
_NO_POOLS = 1 << 62


@record
class TypeTable:
    """Every type that was found, by address."""

    by_address: dict[int, TypeInfo]

    def named(self, name: str) -> int:
        """The address of a built-in type; 0 when it was not found."""
        return next((at for at, info in self.by_address.items() if info.name == name and not info.heap_type), 0)


def find_types(space: AddressSpace, runtime: Runtime, heap: Heap, deadline_s: float) -> TypeTable:
    """All types, one generation of metatypes after the other. Incomplete when the deadline cuts the search off."""
    found: dict[int, TypeInfo] = {}
    searched: set[int] = set()
    pending = [runtime.type_address]
    while pending:
        searched.update(pending)
        words = find_words(space, spread(heap.pieces, deadline_s), pending, runtime.layout.pool_bytes)
        candidates = {at - 8 for _word, at in islice(words, _MOST_CANDIDATES)}
        for info in cpython.read_types(space, sorted(candidates - set(found))):
            if info.metatype in searched:
                found[info.address] = info
        pending = [at for at, info in found.items() if info.flags & cpython.TYPE and at not in searched]
    return TypeTable(found)


def find_modules(space: AddressSpace, types: TypeTable, heap: Heap, deadline_s: float) -> tuple[int, ...]:
    """What may be module objects, in all of the heap; quicker than a scan, which finds them too when it is whole."""
    wanted = [types.named("module")]
    words = find_words(space, iter(heap.pieces), wanted, _NO_POOLS) if wanted[0] else iter(())
    found = []
    for _word, at in islice(words, _MOST_CANDIDATES):
        if time.monotonic() > deadline_s:
            break
        found.append(at - 8)
    return tuple(found)


def display_name(space: AddressSpace, runtime: Runtime, info: TypeInfo) -> str:
    """`module.Class`, as far as the class tells its module."""
    if not info.heap_type or "." in info.name:
        return info.name
    return f"{module_of(space, runtime, info)}.{info.name}".lstrip(".")


def module_of(space: AddressSpace, runtime: Runtime, info: TypeInfo) -> str:
    """`__module__` of a class written in Python; `` where it has none."""
    items = cpython.dict_items(space, runtime.layout, info.dict_address, 64)
    names = cpython.read_strings(space, runtime.layout, [key for key, _value in items])
    value = next((value for key, value in items if names.get(key) == "__module__"), 0)
    return cpython.read_strings(space, runtime.layout, [value]).get(value, "") if value else ""
