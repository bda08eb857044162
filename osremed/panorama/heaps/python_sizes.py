"""How many bytes a CPython object takes, itself and the table it owns; the same as sys.getsizeof where that counts it.

Types of one size: count x size, exactly. Others: each large object by itself, the rest by a sample's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from osremed.panorama.heaps.python_types import TypeTable
from osremed.sensors import cpython
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.cpython import Layout, Runtime, TypeInfo

#: (type, word at 16, at 24, at 32, at 40) of an object
Words = tuple[int, int, int, int, int]
_MOST_ITEMS = 1 << 40
_DEQUE_BLOCK_BYTES, _DEQUE_BLOCK_ITEMS = 528, 64
_SET_INLINE_MASK = 7


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _items(info: TypeInfo, words: Words, _layout: Layout) -> int:
    return info.item_bytes * min(abs(_signed(words[1])), _MOST_ITEMS)


def _list(_info: TypeInfo, words: Words, _layout: Layout) -> int:
    return 8 * words[3]


def _int(info: TypeInfo, words: Words, layout: Layout) -> int:
    digits = words[1] >> layout.long_tag_shift if layout.long_tag_shift else abs(_signed(words[1]))
    return info.item_bytes * max(1, digits) if layout.long_tag_shift else info.item_bytes * digits


def _str(info: TypeInfo, words: Words, layout: Layout) -> int:
    state = words[3] & 0xFFFFFFFF
    kind, ascii_only = state >> 2 & 7, state >> 6 & 1
    header = layout.ascii_header if ascii_only else layout.compact_header
    return header + (words[1] + 1) * kind - info.basic_bytes


def _set(_info: TypeInfo, words: Words, _layout: Layout) -> int:
    return 16 * (words[3] + 1) if words[3] > _SET_INLINE_MASK else 0


def _bytearray(_info: TypeInfo, words: Words, _layout: Layout) -> int:
    return words[2]


def _deque(_info: TypeInfo, words: Words, _layout: Layout) -> int:
    return _DEQUE_BLOCK_BYTES * (1 + words[1] // _DEQUE_BLOCK_ITEMS)


_BY_NAME: dict[str, Callable[[TypeInfo, Words, Layout], int]] = {
    "set": _set,
    "frozenset": _set,
    "bytearray": _bytearray,
    "collections.deque": _deque,
}
_BY_FLAG: tuple[tuple[int, Callable[[TypeInfo, Words, Layout], int]], ...] = (
    (cpython.LIST, _list),
    (cpython.UNICODE, _str),
    (cpython.LONG, _int),
)
CONTAINER_NAMES = ("set", "frozenset", "collections.deque")


def inherited_name(types: Mapping[int, TypeInfo], info: TypeInfo, names: Sequence[str]) -> str:
    """Which of `names` this type is or derives from; `` for none."""
    for _step in range(32):
        if (info.name in names and not info.heap_type) or info.name == "collections.deque":
            return info.name
        base = types.get(info.base)
        if base is None:
            return ""
        info = base
    return ""


def header_bytes(info: TypeInfo, layout: Layout) -> int:
    """What lies before an object: the collector's links, and since 3.11 the words for __dict__ and weak references."""
    before = cpython.GC_HEADER_BYTES if info.flags & cpython.HAVE_GC else 0
    managed = cpython.MANAGED_DICT if layout.version == (3, 11) else cpython.MANAGED_DICT | cpython.MANAGED_WEAKREF
    return before + (16 if layout.version >= (3, 11) and info.flags & managed else 0)


class Sizer:
    """Adds up sizes by type address."""

    def __init__(self, space: AddressSpace, runtime: Runtime, types: TypeTable) -> None:
        self._space, self._layout, self._types = space, runtime.layout, types.by_address
        self._rules: dict[int, Callable[[TypeInfo, Words, Layout], int]] = {}
        self._dicts: set[int] = set()
        self.containers: set[int] = set()
        for at, info in types.by_address.items():
            self._classify(at, info)
        self.variable = self._dicts | set(self._rules)
        self._fixed: dict[int, int] = {}
        self._exact: dict[int, list[int]] = {}
        self._sampled: dict[int, list[int]] = {}

    def _classify(self, at: int, info: TypeInfo) -> None:
        named = inherited_name(self._types, info, tuple(_BY_NAME))
        rule = next((rule for flag, rule in _BY_FLAG if info.flags & flag), _BY_NAME.get(named))
        if info.flags & cpython.DICT:
            self._dicts.add(at)
        elif rule is not None or info.item_bytes:
            self._rules[at] = rule or _items
        if info.flags & (cpython.DICT | cpython.LIST | cpython.TUPLE) or named in CONTAINER_NAMES:
            self.containers.add(at)

    def fixed(self, at: int) -> int:
        """Bytes of an instance without its items, with its attribute values where the release keeps them apart from
        a dict."""
        if at not in self._fixed:
            info = self._types[at]
            values = 0
            if info.heap_type and info.flags & cpython.MANAGED_DICT and self._layout.version >= (3, 11):
                values = cpython.attribute_values_bytes(self._space, self._layout, info)
            self._fixed[at] = info.basic_bytes + header_bytes(info, self._layout) + values
        return self._fixed[at]

    def sizes(self, rows: Sequence[Words]) -> list[int]:
        """Bytes of each object, as far as its words and its keys table tell; impossible ones count as without
        items."""
        tables = iter(cpython.read_keys(self._space, self._layout, [row[3] for row in rows if row[0] in self._dicts]))
        found = []
        for row in rows:
            extra = 0
            if row[0] in self._dicts:
                keys = next(tables)
                extra = 0 if keys is None else 8 * keys.capacity if row[4] else keys.bytes
            elif row[0] in self._rules:
                extra = self._rules[row[0]](self._types[row[0]], row, self._layout)
            found.append(self.fixed(row[0]) + (extra if -64 < extra < _MOST_ITEMS else 0))
        return found

    def exactly(self, rows: Sequence[Words]) -> None:
        self._add(self._exact, rows, 1)

    def sample(self, rows: Sequence[Words], weight: int) -> None:
        """Each of these stands for `weight` objects."""
        self._add(self._sampled, rows, weight)

    def _add(self, totals: dict[int, list[int]], rows: Sequence[Words], weight: int) -> None:
        for row, size in zip(rows, self.sizes(rows)):
            total = totals.setdefault(row[0], [0, 0])
            total[0] += weight
            total[1] += size * weight

    def totals(self, counts: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """(bytes, of them in objects measured one by one) by type for these counts."""
        result = {}
        for at, count in counts.items():
            exact, exact_bytes = self._exact.get(at, (0, 0))
            sampled, sampled_bytes = self._sampled.get(at, (0, 0))
            mean = sampled_bytes / sampled if sampled else self.fixed(at)
            result[at] = (exact_bytes + round(mean * max(0, count - exact)), exact_bytes)
        return result
