"""Which names hold the large containers of a CPython process: from every module down a few levels of references."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from osremed.core.record import record
from osremed.panorama.heaps.python_graph import Graph, Node
from osremed.panorama.heaps.python_scan import LARGE_ITEMS, Scan
from osremed.panorama.heaps.python_sizes import Sizer
from osremed.sensors import cpython

_DEPTH = 5
_MOST_NODES = 200_000
_MODULE_NAMES = 20_000
_NESTED_ITEMS, _LISTED_ITEMS = 256, 64
_SAMPLED_ELEMENTS, _WINDOW = 64, 8
_DEEP_NODES, _DEEP_LEVELS, _DEEP_CHILDREN = 40, 3, 32
_MEASURED = 12
_NAMELESS = 5
_NOT_OWNED = frozenset(("module", "function", "code", "builtin_function_or_method", "frame", "NoneType", "bool"))


@record
class Holder:
    """A container of more than 1,000 items. `path` is an expression that reaches it, `` when it hangs on no module (a
    local variable, a closure, C code). `bytes` is it with what its items hold: a sample's mean times `items`."""

    path: str
    kind: str
    items: int
    bytes: int
    element: str
    address: int


def find_holders(graph: Graph, sizer: Sizer, scan: Scan, deadline_s: float) -> tuple[Holder, ...]:
    """The largest by bytes first. What the deadline or the depth limit cut off is missing from it."""
    reached = _walk(graph, scan, deadline_s)
    named = sorted(reached.values(), key=lambda one: -graph.items(one[1]))[:_MEASURED]
    nameless = graph.look([one.address for one in scan.large if one.address not in reached][:_NAMELESS])
    chosen = named + [("", node) for node in nameless if node is not None and graph.items(node) > LARGE_ITEMS]
    found = [_measure(graph, sizer, path, node) for path, node in chosen if time.monotonic() < deadline_s]
    return tuple(sorted(found, key=lambda one: -one.bytes))


def _walk(graph: Graph, scan: Scan, deadline_s: float) -> dict[int, tuple[str, Node]]:
    """Large containers by address, with the shortest path that leads there: breadth first, `__main__` first."""
    roots = sorted(graph.modules(scan.modules), key=lambda one: (one[0] != "__main__", one[0]))
    seen = {at for _name, at in roots} | set(scan.modules)
    level: list[tuple[str, int]] = []
    for (name, _at), node in zip(roots, graph.look([at for _name, at in roots])):
        if node is not None:
            held = graph.children(node, _MODULE_NAMES)
            level.extend((_global_name(name, child), at) for child, at in held)
    found: dict[int, tuple[str, Node]] = {}
    for _depth in range(_DEPTH):
        level = _fresh(level, seen)
        following: list[tuple[str, int]] = []
        for (path, at), node in zip(level, graph.look([at for _path, at in level])):
            if node is None or time.monotonic() > deadline_s or len(seen) > _MOST_NODES:
                continue
            if graph.items(node) > LARGE_ITEMS:
                found[at] = (path, node)
            following.extend((path + name, child) for name, child in _followed(graph, node))
        level = following
    return found


def _fresh(level: list[tuple[str, int]], seen: set[int]) -> list[tuple[str, int]]:
    """The first path to each object not seen before; all are seen from now on."""
    fresh = []
    for path, at in level:
        if at not in seen:
            seen.add(at)
            fresh.append((path, at))
    return fresh


def _global_name(module: str, child: str) -> str:
    return f"{module}.{child[2:-2]}" if child[:2] in ("['", '["') else f"{module}{child}"


def _followed(graph: Graph, node: Node) -> list[tuple[str, int]]:
    """What a walk goes on to: not into large containers, whose items are data."""
    limit = {"dict": _NESTED_ITEMS, "list": _LISTED_ITEMS, "tuple": _LISTED_ITEMS, "set": 0, "deque": 0}
    most = limit.get(graph.kind(node.info), _NESTED_ITEMS)
    return graph.children(node, most) if graph.items(node) <= most else []


def _measure(graph: Graph, sizer: Sizer, path: str, node: Node) -> Holder:
    items = graph.items(node)
    elements = _elements(graph, node)
    counted: Counter[str] = Counter()
    seen: set[int] = {node.address}
    total = 0
    for group in elements:
        heads = [head for head in graph.look(group) if head is not None]
        if heads:
            counted[heads[-1].info.name] += 1
        total += _deep_bytes(graph, sizer, heads, seen)
    element = counted.most_common(1)[0][0] if counted else ""
    mean = total / len(elements) if elements else 0.0
    own = sizer.sizes([(node.info.address, *node.words)])[0]
    return Holder(path, node.info.name, items, own + round(mean * items), element, node.address)


def _deep_bytes(graph: Graph, sizer: Sizer, heads: list[Node], seen: set[int]) -> int:
    """Bytes of these objects and what they hold, three levels down; what was met before, and code, is not theirs."""
    total, level, left = 0, heads, _DEEP_NODES
    for _depth in range(_DEEP_LEVELS):
        fresh = [one for one in level if one.address not in seen and _owned(one)][:left]
        seen.update(one.address for one in fresh)
        left -= len(fresh)
        total += sum(sizer.sizes([(one.info.address, *one.words) for one in fresh]))
        addresses = [at for one in fresh for _name, at in graph.children(one, _DEEP_CHILDREN) if at not in seen]
        level = [one for one in graph.look(addresses) if one is not None]
    return total


def _owned(node: Node) -> bool:
    return not node.info.flags & cpython.TYPE and node.info.name not in _NOT_OWNED


def _elements(graph: Graph, node: Node) -> list[list[int]]:
    """Up to 64 elements from evenly spread places; a dict's element is its key and value."""
    kind, items = graph.kind(node.info), graph.items(node)
    if kind == "dict":
        windows = [graph.entries(node.address, first, _WINDOW) for first in _places(items)]
        return [[key, value] for window in windows for key, value in window if value]
    if kind == "deque":
        return [[at] for at in _deque_elements(graph, node)]
    if kind == "set":
        slots = [graph.pointers(node.words[3] + 16 * first, 2 * _WINDOW)[::2] for first in _places(node.words[2] + 1)]
    else:
        start = node.words[1] if kind == "list" else node.address + 24
        slots = [graph.pointers(start + 8 * first, min(_WINDOW, items - first)) for first in _places(items)]
    return [[at] for window in slots for at in window if at]


def _places(count: int) -> Iterator[int]:
    windows = max(1, _SAMPLED_ELEMENTS // _WINDOW)
    last = max(0, count - _WINDOW)
    return iter(sorted({last * step // max(1, windows - 1) for step in range(windows)}))


def _deque_elements(graph: Graph, node: Node) -> list[int]:
    """The first full block behind the leftmost one: 64 items between two links."""
    left = graph.pointers(node.words[1], 66)
    following = graph.pointers(left[65], 66) if left else []
    return [at for at in following[1:65] if at]
