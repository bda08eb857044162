"""One step along the references of a CPython object: what it holds, with the name it holds it by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from osremed.panorama.heaps.python_sizes import CONTAINER_NAMES, inherited_name
from osremed.panorama.heaps.python_types import TypeTable
from osremed.sensors import cpython
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.cpython import Runtime, TypeInfo

HEAD_BYTES = 48
_MOST_ATTRIBUTES = 256
_MOST_BASES = 16
#: Objects of C types that hold what programs put into them: every word that points at an object is followed.
_OPEN_TYPES = frozenset(("functools._lru_cache_wrapper", "functools.partial", "cell", "method"))


class Node(NamedTuple):
    """An object seen alive: `words` are those at 16, 24, 32 and 40."""

    address: int
    info: TypeInfo
    words: tuple[int, int, int, int]


class Graph:
    """Follows references; what is torn or unknown is not followed."""

    def __init__(self, space: AddressSpace, runtime: Runtime, types: TypeTable) -> None:
        self._space, self._layout, self._types = space, runtime.layout, types.by_address
        self._slots: dict[int, tuple[tuple[str, int], ...]] = {}
        self._kinds: dict[int, str] = {}
        self._descriptor = types.named("member_descriptor")

    def look(self, addresses: Sequence[int]) -> list[Node | None]:
        """The objects at these addresses; None for what is none, or of a type not known."""
        nodes: list[Node | None] = []
        for at, body in zip(addresses, self._space.read_many([(at, HEAD_BYTES) for at in addresses])):
            words = memoryview(body).cast("Q").tolist() if body else [0] * 6
            info = self._types.get(words[1])
            alive = info is not None and 0 < words[0] < cpython.MOST_REFERENCES
            nodes.append(Node(at, info, (words[2], words[3], words[4], words[5])) if info and alive else None)
        return nodes

    def modules(self, addresses: Sequence[int]) -> list[tuple[str, int]]:
        """(name, address of its dict) of module objects, which keep the dict at 16 and the name at 48."""
        bodies = self._space.read_many([(at, 56) for at in addresses])
        read = [memoryview(body).cast("Q").tolist() for body in bodies if body]
        words = [one for one in read if 0 < one[0] < cpython.MOST_REFERENCES]
        names = cpython.read_strings(self._space, self._layout, [one[6] for one in words])
        return [(names[one[6]], one[2]) for one in words if one[6] in names and one[2]]

    def kind(self, info: TypeInfo) -> str:
        """`dict`, `list`, `tuple`, `set`, `deque` for these and what derives from them, `class`, `instance` of a class
        written in Python, `open`, or `` for what is not followed."""
        if info.address not in self._kinds:
            self._kinds[info.address] = self._classify(info)
        return self._kinds[info.address]

    def _classify(self, info: TypeInfo) -> str:
        flags = ((cpython.TYPE, "class"), (cpython.DICT, "dict"), (cpython.LIST, "list"), (cpython.TUPLE, "tuple"))
        for flag, kind in flags:
            if info.flags & flag:
                return kind
        named = inherited_name(self._types, info, CONTAINER_NAMES)
        if named:
            return "deque" if "deque" in named else "set"
        if info.name in _OPEN_TYPES:
            return "open"
        return (
            "instance" if info.heap_type and not info.flags & (cpython.LONG | cpython.BYTES | cpython.UNICODE) else ""
        )

    def items(self, node: Node) -> int:
        """How many items a container has; 0 for what is none."""
        kind = self.kind(node.info)
        count = node.words[1] if kind == "set" else node.words[0]
        return count if kind in ("dict", "list", "tuple", "set", "deque") and count < 1 << 40 else 0

    def children(self, node: Node, most: int) -> list[tuple[str, int]]:
        """(name as in an expression, address) of at most `most` things this object holds."""
        kind = self.kind(node.info)
        if kind == "dict":
            return self._named("[{!r}]", cpython.dict_items(self._space, self._layout, node.address, most))
        if kind == "instance":
            return self._attributes(node)[:most]
        if kind == "class":
            held = self._types[node.address].dict_address if node.address in self._types else 0
            return self._named(".{}", cpython.dict_items(self._space, self._layout, held, most)) if held else []
        return self._unnamed(node, kind, most)

    def _unnamed(self, node: Node, kind: str, most: int) -> list[tuple[str, int]]:
        if kind in ("list", "tuple"):
            start = node.words[1] if kind == "list" else node.address + 24
            return [(f"[{i}]", at) for i, at in enumerate(self.pointers(start, min(node.words[0], most)))]
        if kind == "open":
            body = self.pointers(node.address + 16, min(node.info.basic_bytes, 256) // 8 - 2)
            return [(f".<{node.info.name.rpartition('.')[2]}>", at) for at in body if at]
        return []

    def pointers(self, start: int, count: int) -> list[int]:
        body = self._space.read(start, 8 * count) if count > 0 else None
        return memoryview(body).cast("Q").tolist() if body else []

    def entries(self, address: int, first: int, count: int) -> list[tuple[int, int]]:
        """(key, value) pointers of the entries [first, first + count) of a dict with a table of its own."""
        keys = cpython.read_keys(self._space, self._layout, self.pointers(address + 32, 1) or [0])[0]
        return cpython.read_entries(self._space, keys, first, count) if keys else []

    def _named(self, form: str, items: Sequence[tuple[int, int]]) -> list[tuple[str, int]]:
        names = cpython.read_strings(self._space, self._layout, [key for key, _value in items])
        return [(form.format(names[key]) if key in names else "[...]", value) for key, value in items if value]

    def _attributes(self, node: Node) -> list[tuple[str, int]]:
        held = cpython.attributes(self._space, self._layout, node.info, node.address, _MOST_ATTRIBUTES)
        slots = self.slots(node.info)
        values = self._space.read_many([(node.address + offset, 8) for _name, offset in slots])
        named = [(name, int.from_bytes(value, "little")) for (name, _at), value in zip(slots, values) if value]
        return self._named(".{}", held) + [(name, value) for name, value in named if value]

    def slots(self, info: TypeInfo) -> tuple[tuple[str, int], ...]:
        """(`.name`, offset in the object) of __slots__, of the class and its bases."""
        if info.address not in self._slots:
            found: list[tuple[str, int]] = []
            one: TypeInfo | None = info
            for _step in range(_MOST_BASES):
                if one is None or not one.heap_type:
                    break
                found.extend(self._own_slots(one))
                one = self._types.get(one.base)
            self._slots[info.address] = tuple(found)
        return self._slots[info.address]

    def _own_slots(self, info: TypeInfo) -> list[tuple[str, int]]:
        """PyMemberDescrObject keeps its PyMemberDef at 40, and that its offset at 16."""
        items = self._named(".{}", cpython.dict_items(self._space, self._layout, info.dict_address, _MOST_ATTRIBUTES))
        nodes = self.look([value for _name, value in items])
        found = []
        for (name, _value), node in zip(items, nodes):
            if node is None or node.info.address != self._descriptor:
                continue
            definition = self._space.read(node.words[3], 24)
            offset = int.from_bytes(definition[16:24], "little") if definition else 0
            if 16 <= offset <= info.basic_bytes - 8:
                found.append((name, offset))
        return found
