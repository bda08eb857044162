"""CPython objects in the memory of another process: where things lie in 3.9-3.13, and how to read them.

Found without symbols of the target's own making: `type` is the one object that is its own type, and all offsets below
are of the stable part of each release (tests compile them against the installed headers). Release: `Py_Version`
(3.11+), `_Py_DebugOffsets` (3.13+), else the cache tag `cpython-39` in the interpreter's read-only data.
Not read: free-threaded builds and builds with Py_TRACE_REFS (another object header), 3.14+ until proven here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Sequence

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import elf
from osremed.sensors.address_space import AddressSpace, Mapping

OLDEST, NEWEST = (3, 9), (3, 13)
TYPE_BYTES = 408
GC_HEADER_BYTES = 16
#: tp_flags, Include/object.h
INLINE_VALUES, MANAGED_WEAKREF, MANAGED_DICT = 1 << 2, 1 << 3, 1 << 4
HEAP_TYPE, READY, HAVE_GC = 1 << 9, 1 << 12, 1 << 14
LONG, LIST, TUPLE, BYTES, UNICODE, DICT, EXCEPTION, TYPE = (1 << bit for bit in range(24, 32))
_VARIABLE = LONG | LIST | TUPLE | BYTES | UNICODE | DICT
MOST_REFERENCES = 1 << 33
_ENTRIES_LIMIT_BYTES = 8 << 20
_STRING_HEAD_BYTES = 160
_NAME_CHARACTERS = 100
_RODATA_LIMIT_BYTES = 32 << 20
_EXECUTABLE = re.compile(r"(?:lib)?python[0-9.]*(?:t|d|m)?(?:\.so[0-9.]*)?(?: \(deleted\))?")
_CACHE_TAG = re.compile(rb"\0cpython-3([0-9]{1,2})\0")
_DEBUG_COOKIE = b"xdebugpy"


@record
class Layout:
    """What differs between releases. `attributes`: how an instance without slots holds its __dict__: `pointer` (at
    tp_dictoffset), `words` (3.11: values at -32, dict at -24), `tagged` (3.12: one word at -24), `inline` (3.13: dict
    at -24, values behind the object)."""

    version: tuple[int, int]
    sized_keys: bool
    values_at: int
    attributes: str
    ascii_header: int
    compact_header: int
    cached_keys_at: int
    long_tag_shift: int
    pool_bytes: int = 1 << 14


LAYOUTS = {
    layout.version: layout
    for layout in (
        Layout((3, 9), True, 0, "pointer", 48, 72, 864, 0, 1 << 12),
        Layout((3, 10), True, 0, "pointer", 48, 72, 872, 0),
        Layout((3, 11), False, 0, "words", 48, 72, 872, 0),
        Layout((3, 12), False, 0, "tagged", 40, 56, 880, 3),
        Layout((3, 13), False, 8, "inline", 40, 56, 880, 3),
    )
}


@record
class Runtime:
    """One CPython in the target. `release` is `3.11.7` where the build tells, else `3.9`."""

    release: str
    layout: Layout
    type_address: int
    image: str


@record
class TypeInfo:
    """A type object. `name` is tp_name: bare for classes written in Python, dotted for those in C."""

    address: int
    metatype: int
    name: str
    basic_bytes: int
    item_bytes: int
    flags: int
    dict_address: int
    dict_offset: int
    base: int
    subclasses: int

    @property
    def heap_type(self) -> bool:
        return bool(self.flags & HEAP_TYPE)


# --- finding the interpreter ---------------------------------------------------------------------------------------


def python_images(maps: Sequence[Mapping]) -> list[Mapping]:
    """The first mapping of each file whose name is that of a CPython executable or library; the library first."""
    first: dict[tuple[str, int], Mapping] = {}
    for mapping in maps:
        if mapping.inode and _EXECUTABLE.fullmatch(os.path.basename(mapping.path)):
            first.setdefault((mapping.device, mapping.inode), mapping)
    return sorted(first.values(), key=lambda one: "lib" not in os.path.basename(one.path))


def find_runtime(space: AddressSpace) -> Reading[Runtime]:
    """NO_DATA where no CPython is mapped; UNSUPPORTED for releases and builds that are not read here."""
    source = f"{space.root}/{space.pid}/maps"
    verdict = Missing(Reason.NO_DATA, source, "no CPython is mapped")
    for image in python_images(space.maps):
        found = _runtime_of(space, image)
        if isinstance(found, Value):
            return found
        verdict = found
    return verdict


def _runtime_of(space: AddressSpace, image: Mapping) -> Reading[Runtime]:
    symbols = _symbols(space, image)
    address = symbols.get("PyType_Type") or _self_typed(space, image)
    if address is None:
        return Missing(Reason.NO_DATA, image.path, "the object `type` was not found")
    told = _version(space, image, symbols)
    if isinstance(told, Missing):
        return told
    release, free_threaded = told.value
    version = tuple(int(part) for part in release.split(".")[:2])
    layout = LAYOUTS.get((version[0], version[1]))
    if layout is None or free_threaded:
        what = f"CPython {release}{' free-threaded' if free_threaded else ''} is not read; 3.9 to 3.13 are"
        return Missing(Reason.UNSUPPORTED, image.path, what)
    head = space.read(address, 48)
    if head is None or struct.unpack_from("<Q", head, 8)[0] != address:
        return Missing(Reason.UNSUPPORTED, image.path, "its objects have another header (a debug build?)")
    return Value(Runtime(release, layout, address, image.path))


def _symbols(space: AddressSpace, image: Mapping) -> dict[str, int]:
    """Addresses in the process; empty where the file cannot be read or has no such symbols."""
    opened = elf.open_mapped(space.pid, image, space.root)
    if isinstance(opened, Missing):
        return {}
    try:
        parsed = elf.read_elf(opened.value, image.path)
        if isinstance(parsed, Missing):
            return {}
        found = elf.find_symbols(opened.value, parsed.value, ("PyType_Type", "Py_Version", "_PyRuntime"))
        bias = elf.load_bias(parsed.value, image)
    finally:
        os.close(opened.value)
    if isinstance(found, Missing) or bias is None:
        return {}
    return {name: symbol.address + bias for name, symbol in found.value.items()}


def _image_mappings(space: AddressSpace, image: Mapping, perms: str) -> list[Mapping]:
    """Mappings of the image with these permissions; for writable ones also the zero-filled part behind it."""
    chosen = []
    for before, mapping in zip((None, *space.maps), space.maps):
        own = mapping.inode == image.inode and mapping.device == image.device
        behind = before is not None and before.inode == image.inode and before.end == mapping.start and not mapping.path
        if (own or (behind and perms == "rw-p")) and mapping.perms == perms:
            chosen.append(mapping)
    return chosen


def _self_typed(space: AddressSpace, image: Mapping) -> int | None:
    """`type` of a stripped interpreter: the object in its data that is its own type and is called `type`."""
    for mapping in _image_mappings(space, image, "rw-p"):
        data = space.read(mapping.start, min(mapping.bytes, _RODATA_LIMIT_BYTES))
        if data is None:
            continue
        for index, word in enumerate(memoryview(data).cast("Q").tolist()):
            if word == mapping.start + 8 * index - 8:
                info = read_types(space, [word])
                if info and info[0].name == "type":
                    return int(word)
    return None


def _version(space: AddressSpace, image: Mapping, symbols: dict[str, int]) -> Reading[tuple[str, bool]]:
    """(release, free-threaded)."""
    offsets = space.read(symbols["_PyRuntime"], 24) if "_PyRuntime" in symbols else None
    if offsets is not None and offsets[:8] == _DEBUG_COOKIE:
        number, free_threaded = struct.unpack_from("<QQ", offsets, 8)
        return Value((_release(number), bool(free_threaded)))
    constant = space.read(symbols["Py_Version"], 4) if "Py_Version" in symbols else None
    if constant is not None:
        return Value((_release(int.from_bytes(constant, "little")), False))
    for mapping in _image_mappings(space, image, "r--p"):
        data = space.read(mapping.start, min(mapping.bytes, _RODATA_LIMIT_BYTES)) or b""
        tags = set(_CACHE_TAG.findall(data))
        if len(tags) == 1:
            return Value((f"3.{int(tags.pop())}", False))
    return Missing(Reason.UNSUPPORTED, image.path, "it does not tell its release")


def _release(number: int) -> str:
    """PY_VERSION_HEX."""
    return f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}"


# --- types -----------------------------------------------------------------------------------------------------------


def read_types(space: AddressSpace, addresses: Sequence[int]) -> list[TypeInfo]:
    """Those of `addresses` that are type objects in use. A freed or torn one fails a check and is left out."""
    found = []
    bodies = space.read_many([(address, TYPE_BYTES) for address in addresses])
    plausible = [(at, body) for at, body in zip(addresses, bodies) if body is not None and _plausible_type(body)]
    names = space.read_many([(struct.unpack_from("<Q", body, 24)[0], 1) for _at, body in plausible])
    readable = [pair for pair, name in zip(plausible, names) if name is not None]
    for (address, body), name in zip(readable, _c_strings(space, [_word(body, 24) for _at, body in readable])):
        if name:
            found.append(
                TypeInfo(
                    address,
                    _word(body, 8),
                    name,
                    _word(body, 32),
                    _word(body, 40),
                    _word(body, 168),
                    _word(body, 264),
                    struct.unpack_from("<q", body, 288)[0],
                    _word(body, 256),
                    _word(body, 360),
                )
            )
    return found


def _word(body: bytes, offset: int) -> int:
    return int.from_bytes(body[offset : offset + 8], "little")


def _plausible_type(body: bytes) -> bool:
    references, basic, item = _word(body, 0), _word(body, 32), _word(body, 40)
    ready = _word(body, 168) & READY
    return 0 < references < MOST_REFERENCES and bool(ready) and 16 <= basic <= 1 << 20 and item <= 1 << 16


def _c_strings(space: AddressSpace, addresses: Sequence[int]) -> list[str]:
    """Printable ASCII or UTF-8 of at most 100 characters, else ``; a string at the end of a mapping is read in part."""
    page = 4096
    spans = [(at, min(_NAME_CHARACTERS, page - at % page) or 1) for at in addresses]
    texts = []
    for (at, length), head in zip(spans, space.read_many(spans)):
        data = head or b""
        if b"\0" not in data and length < _NAME_CHARACTERS:
            data += space.read(at + length, _NAME_CHARACTERS - length) or b""
        name = data.split(b"\0", 1)[0].decode("utf-8", "replace")
        texts.append(name if name.isprintable() else "")
    return texts


# --- strings ---------------------------------------------------------------------------------------------------------


def read_strings(space: AddressSpace, layout: Layout, addresses: Iterable[int]) -> dict[int, str]:
    """Address -> the first 100 characters of each that is a compact str."""
    wanted = list(addresses)
    bodies = space.read_many([(at, _STRING_HEAD_BYTES) for at in wanted])
    found = {}
    for at, whole in zip(wanted, bodies):
        body = whole or space.read(at, layout.ascii_header + 16)
        text = decode_string(layout, body) if body else None
        if text is not None:
            found[at] = text
    return found


def decode_string(layout: Layout, body: bytes) -> str | None:
    """The text of a str whose object begins at body[0], as far as `body` reaches; None for legacy and torn ones."""
    length, state = _word(body, 16), int.from_bytes(body[32:36], "little")
    kind, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
    if not compact or kind not in (1, 2, 4) or length > 1 << 40:
        return None
    start = layout.ascii_header if ascii_only else layout.compact_header
    data = body[start : start + min(length, _NAME_CHARACTERS) * kind]
    encoding = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind]
    return data.decode(encoding, "replace")


# --- dictionaries ----------------------------------------------------------------------------------------------------


@record
class Keys:
    """A keys table: where its entries begin, how many were ever filled, how many fit, and its size."""

    entries_at: int
    count: int
    capacity: int
    entry_bytes: int
    bytes: int


def read_keys(space: AddressSpace, layout: Layout, addresses: Sequence[int]) -> list[Keys | None]:
    """None for what is no keys table."""
    heads = space.read_many([(at, 40) for at in addresses])
    decode = _sized_keys if layout.sized_keys else _log_keys
    return [decode(at, head) if head is not None else None for at, head in zip(addresses, heads)]


def _sized_keys(at: int, head: bytes) -> Keys | None:
    """3.9 and 3.10: dk_size at 8, dk_usable at 24, dk_nentries at 32, indices at 40."""
    size, usable, count = _word(head, 8), _word(head, 24), _word(head, 32)
    if size & (size - 1) or not 1 <= size <= 1 << 40 or usable > size or count > size:
        return None
    index_bytes = size * (1 if size <= 0xFF else 2 if size <= 0xFFFF else 4 if size <= 0xFFFFFFFF else 8)
    return Keys(at + 40 + index_bytes, count, usable + count, 24, 40 + index_bytes + 24 * (usable + count))


def _log_keys(at: int, head: bytes) -> Keys | None:
    """3.11 and later: logarithms at 8 and 9, kind at 10 (0 general, else str keys), usable at 16, entries at 24."""
    log_size, log_index, kind = head[8], head[9], head[10]
    usable, count = _word(head, 16), _word(head, 24)
    if log_size > 40 or log_index > 43 or kind > 2 or usable > 1 << log_size or count > 1 << log_size:
        return None
    entry = 16 if kind else 24
    entries_at, capacity = 32 + (1 << log_index), usable + count
    return Keys(at + entries_at, count, capacity, entry, entries_at + entry * capacity)


def read_entries(space: AddressSpace, keys: Keys, first: int, count: int) -> list[tuple[int, int]]:
    """(key, value) pointers of entries [first, first + count); deleted ones are left out. Values are 0 in a split
    table."""
    count = min(count, keys.count - first, _ENTRIES_LIMIT_BYTES // keys.entry_bytes)
    if count <= 0:
        return []
    data = space.read(keys.entries_at + first * keys.entry_bytes, count * keys.entry_bytes)
    if data is None:
        return []
    words = memoryview(data).cast("Q")
    step, key_at = (2, 0) if keys.entry_bytes == 16 else (3, 1)
    return [(key, value) for key, value in zip(words[key_at::step], words[key_at + 1 :: step]) if key]


def dict_items(space: AddressSpace, layout: Layout, address: int, most: int) -> list[tuple[int, int]]:
    """(key, value) pointers of a dict, at most `most` of its entries."""
    body = space.read(address, 48)
    if body is None:
        return []
    keys = read_keys(space, layout, [_word(body, 32)])[0]
    if keys is None:
        return []
    values = _word(body, 40)
    return _split_items(space, layout, keys, values, most) if values else read_entries(space, keys, 0, most)


def _split_items(space: AddressSpace, layout: Layout, keys: Keys, values: int, most: int) -> list[tuple[int, int]]:
    names = [key for key, _value in read_entries(space, keys, 0, most)]
    data = space.read(values + layout.values_at, 8 * len(names)) if names else None
    if data is None:
        return []
    return [(key, value) for key, value in zip(names, memoryview(data).cast("Q").tolist()) if value]


def attributes(space: AddressSpace, layout: Layout, info: TypeInfo, address: int, most: int) -> list[tuple[int, int]]:
    """(name, value) pointers of what an instance holds in its __dict__, wherever its release keeps that."""
    held_by, keys_address, values = _dict_or_values(space, layout, info, address)
    if held_by:
        return dict_items(space, layout, held_by, most)
    if not values:
        return []
    keys = read_keys(space, layout, [keys_address])[0]
    return _split_items(space, layout, keys, values, most) if keys else []


def attribute_values_bytes(space: AddressSpace, layout: Layout, info: TypeInfo) -> int:
    """Bytes of the attribute values of one instance (3.11+) that has no dict of its own."""
    keys = read_keys(space, layout, [_pointer(space, info.address + layout.cached_keys_at)])[0]
    if keys is None or (layout.version == (3, 13) and not info.flags & INLINE_VALUES):
        return 0
    # A byte of insertion order for each value, rounded up to words; 3.13 has a header of 4 bytes among them.
    order = keys.capacity + (4 if layout.values_at else 2)
    return 8 * keys.capacity + (order + 7 & -8)


def _dict_or_values(space: AddressSpace, layout: Layout, info: TypeInfo, address: int) -> tuple[int, int, int]:
    """(dict, 0, 0), (0, shared keys, values) or (0, 0, 0)."""
    if layout.attributes == "pointer" or not info.flags & MANAGED_DICT:
        if info.dict_offset <= 0:
            return 0, 0, 0
        return _pointer(space, address + info.dict_offset), 0, 0
    shared = _pointer(space, info.address + layout.cached_keys_at) if info.heap_type else 0
    word = _pointer(space, address - 24)
    if layout.attributes == "words":
        return (word, 0, 0) if word else (0, shared, _pointer(space, address - 32))
    if layout.attributes == "tagged":
        return (0, shared, word + 1) if word & 1 else (word, 0, 0)
    if word:
        return word, 0, 0
    return (0, shared, address + info.basic_bytes) if info.flags & INLINE_VALUES else (0, 0, 0)


def _pointer(space: AddressSpace, address: int) -> int:
    body = space.read(address, 8)
    return int.from_bytes(body, "little") if body else 0
