"""What a sampler needs to know of a CPython process (3.9 to 3.13): where its threads keep their frames, and the names
behind code objects. Offsets are of the stable part of each release; free-threaded builds are not read."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import elf
from osremed.sensors.address_space import AddressSpace, Mapping
from osremed.sensors.cpython import python_images

_CODE_BYTES = 208
_TEXT_HEAD_BYTES = 56 + 16
_MOST_TEXT_BYTES = 1024
_MOST_TABLE_BYTES = 1 << 16
_RELEASE = re.compile(r"python3\.([0-9]{1,2})(?:[^0-9]|$)")


@record
class Layout:
    """Offsets in bytes. `inner`: where the current frame lies behind the pointer at `frame`, if not there; `bytecode`:
    where the instructions of a code object begin, -1 and -2 where a frame counts them (3.9 in bytes, 3.10 in pairs);
    `native_id` 0: the release does not keep it."""

    version: tuple[int, int]
    interpreters: int
    next_interpreter: int
    threads: int
    thread_id: int
    native_id: int
    frame: int
    inner: int | None
    code: int
    instruction: int
    previous: int
    owner: int
    first_line: int
    bytecode: int
    ascii_data: int
    text_data: int
    file: int
    name: int
    table: int

    def walk(self, runtime: int) -> bytes:
        """The value the BPF programs keep of a process (struct python)."""
        has_inner, inner = int(self.inner is not None), self.inner or 0
        return struct.pack(
            "=19IiQ", self.frame, has_inner, inner, self.code, self.instruction, self.previous, self.owner,
            self.interpreters, self.next_interpreter, self.threads, self.thread_id, self.native_id,
            self.version[0] << 8 | self.version[1], self.file, self.name, self.table, self.first_line,
            self.ascii_data, self.text_data, self.bytecode, runtime,
        )  # fmt: skip

    def index(self, code: int, instruction: int) -> int:
        """Which instruction of a code object a frame is at, from the word the walk has read of it."""
        word = instruction & 0x7FFFFFFF if self.bytecode < 0 else instruction - code - self.bytecode
        return index_of(self.version, word)


def index_of(version: tuple[int, int], word: int) -> int:
    """As Layout.index, of how far behind the first instruction a frame is: in bytes, 3.10 counts instructions."""
    return word if version == (3, 10) else word // 2


#: Up to 3.10 a frame is an object without an owner: the highest byte of a pointer stands for it, which is 0.
LAYOUTS = {
    layout.version: layout
    for layout in (
        Layout((3, 9), 32, 0, 8, 176, 0, 24, None, 32, 104, 24, 39, 40, -1, 48, 72, 104, 112, 120),
        Layout((3, 10), 32, 0, 8, 176, 0, 24, None, 32, 96, 24, 39, 40, -2, 48, 72, 104, 112, 120),
        Layout((3, 11), 40, 0, 16, 152, 160, 56, 8, 32, 56, 48, 69, 72, 184, 48, 72, 112, 128, 136),
        Layout((3, 12), 40, 0, 72, 136, 144, 56, 0, 0, 56, 8, 70, 68, 192, 40, 56, 112, 128, 136),
        Layout((3, 13), 632, 7264, 7344, 152, 160, 72, None, 0, 56, 8, 70, 68, 200, 40, 56, 112, 128, 136),
    )
}


@record
class Interpreter:
    """`runtime` is the address of _PyRuntime in the process, `runtime_bytes` its size."""

    layout: Layout
    runtime: int
    runtime_bytes: int


@record
class KnownImage:
    """An interpreter's file: where its parts are linked to, the addresses and sizes of what is looked for, its release
    (0, 0: not told)."""

    elf: elf.Elf
    symbols: dict[str, tuple[int, int]]
    version: tuple[int, int]


Known = dict[tuple[str, int], KnownImage]  #: by device and inode


@record
class CodeName:
    name: str
    file: str
    first_line: int
    table: bytes


def find_interpreter(space: AddressSpace, known: Known) -> Reading[Interpreter]:
    """NO_DATA when it is no CPython, UNSUPPORTED for a release without a layout here. `known` keeps what was found in
    files: the tables of an interpreter are megabytes. Of the mappings those of its files will do."""
    for image in python_images(space.maps):
        found = known.get((image.device, image.inode)) or _look_into(space, image, known)
        bias = elf.load_bias(found.elf, image) if found is not None else None
        if found is None or bias is None or "_PyRuntime" not in found.symbols:
            continue
        layout = LAYOUTS.get(found.version)
        if layout is None:
            what = f"CPython {found.version[0]}.{found.version[1]}: frames of 3.9 to 3.13 are read"
            return Missing(Reason.UNSUPPORTED, image.path, what)
        address, size = found.symbols["_PyRuntime"]
        return Value(Interpreter(layout, address + bias, size))
    return Missing(Reason.NO_DATA, f"/proc/{space.pid}/maps", "no CPython found")


def _look_into(space: AddressSpace, image: Mapping, known: Known) -> KnownImage | None:
    """What the file of a mapping is; kept unless it cannot be read."""
    opened = elf.open_mapped(space.pid, image, space.root)
    if isinstance(opened, Missing):
        return None
    with open(opened.value, "rb", buffering=0) as stream:
        parsed = elf.read_elf(stream.fileno(), image.path)
        if isinstance(parsed, Missing):
            return None
        found = elf.find_symbols(stream.fileno(), parsed.value, ("_PyRuntime", "Py_Version"))
    bias = elf.load_bias(parsed.value, image)
    if bias is None:
        return None
    table = {} if isinstance(found, Missing) else found.value
    symbols = {name: (symbol.address, symbol.bytes) for name, symbol in table.items()}
    version = _version(space, image, symbols["Py_Version"][0] + bias if "Py_Version" in symbols else None)
    image_of = known[image.device, image.inode] = KnownImage(parsed.value, symbols, version)
    return image_of


def _version(space: AddressSpace, image: Mapping, constant: int | None) -> tuple[int, int]:
    """By the constant of 3.11 and later, else by the name of the file; (0, 0) when neither tells."""
    raw = space.read(constant, 4) if constant is not None else None
    if raw is not None:
        number = struct.unpack("<I", raw)[0]
        return number >> 24, number >> 16 & 0xFF
    named = _RELEASE.search(image.path.rpartition("/")[2])
    return (3, int(named[1])) if named else (0, 0)


def code_names(space: AddressSpace, layout: Layout, addresses: Sequence[int]) -> dict[int, CodeName]:
    """Those of the code objects that can still be read, in three batches. What looks torn is left out."""
    bodies = dict(zip(addresses, space.read_many([(address, _CODE_BYTES) for address in addresses])))
    wanted: list[int] = []
    for body in bodies.values():
        if body is not None:
            wanted += [_word(body, offset) for offset in (layout.file, layout.name, layout.table)]
    heads = dict(zip(wanted, space.read_many([(each, _TEXT_HEAD_BYTES) for each in wanted])))
    spans = {each: _span(layout, each, head) for each, head in heads.items() if head is not None}
    tables = {_word(body, layout.table) for body in bodies.values() if body is not None}
    for each in tables & set(heads):
        head = heads[each]
        if head is not None:  # bytes: size at 16, data at 32
            spans[each] = (each + 32, min(_word(head, 16), _MOST_TABLE_BYTES), 1)
    parts = list(spans.items())
    bodies_of = space.read_many([(span[0], max(span[1], 1)) for _, span in parts])
    data = {each: (part[: span[1]], span[2]) for (each, span), part in zip(parts, bodies_of) if part is not None}
    found = {}
    for address, body in bodies.items():
        if body is None:
            continue
        file, name, table = (data.get(_word(body, at)) for at in (layout.file, layout.name, layout.table))
        if file is None or name is None or table is None:
            continue
        (first_line,) = struct.unpack_from("<i", body, layout.first_line)
        found[address] = CodeName(text_of(*name), text_of(*file), max(0, first_line), table[0])
    return found


def _word(body: bytes, offset: int) -> int:
    word: int = struct.unpack_from("<Q", body, offset)[0]
    return word


def _span(layout: Layout, address: int, head: bytes) -> tuple[int, int, int]:
    """Where the characters of a str lie: address, bytes, and bytes a character."""
    length, (state,) = _word(head, 16), struct.unpack_from("<I", head, 32)
    kind, ascii_only = state >> 2 & 7, bool(state >> 6 & 1)
    width = kind if kind in (1, 2, 4) else 1
    start = address + (layout.ascii_data if ascii_only else layout.text_data)
    return start, min(length * width, _MOST_TEXT_BYTES), width


def text_of(data: bytes, width: int) -> str:
    """The characters of a str, of 1, 2 or 4 bytes each."""
    encoding = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width]
    return data.decode(encoding, "backslashreplace")


def line_of(version: tuple[int, int], table: bytes, first_line: int, index: int) -> int:
    """The line of an instruction of a code object, 0: it has none. 10 us. A table of 3.11 or later may be without its
    columns, as the sampler keeps them (sensors/bpf/python_text.h)."""
    if index < 0:
        return 0
    if version >= (3, 11):
        return _by_locations(table, first_line, index)
    pairs = _signed_pairs(table, first_line) if version == (3, 10) else _increments(table, first_line)
    return max(0, next((line for end, line in pairs if index < end), 0))


def _increments(table: bytes, line: int) -> Iterator[tuple[int, int]]:
    """co_lnotab up to 3.9: (bytes of code, lines) pairs; a line holds from its address on."""
    at = 0
    for size, delta in zip(table[::2], table[1::2]):
        if size:
            at += size
            yield at // 2, line
        line += delta - 256 if delta > 127 else delta
    yield 1 << 30, line


def _signed_pairs(table: bytes, line: int) -> Iterator[tuple[int, int]]:
    """co_linetable of 3.10: (bytes of code, lines); -128: these have no line."""
    at = 0
    for size, delta in zip(table[::2], table[1::2]):
        at += size
        if delta == 128:
            yield at // 2, 0
            continue
        line += delta - 256 if delta > 127 else delta
        if size:
            yield at // 2, line


# co_linetable of 3.11 and later: an entry begins with the one byte in it that has its highest bit set. Its kind is in
# bits 3 to 6, how many instructions it is for in the lowest three. Kinds 11 and 12 are one and two lines further, 13
# and 14 are followed by the difference as a number of 6 bits a byte, 15 has no line; the others stay on the line.
_FOLLOWING = bytes(range(128))
_UNITS = bytes((byte & 7) + 1 for byte in range(256))
_LINES = bytes({11: 1, 12: 2}.get(byte >> 3 & 15, 0) if byte & 128 else 0 for byte in range(256))
_SHORT = bytes(byte for byte in range(256) if not 0xE8 <= byte <= 0xF7)
_LONG = re.compile(rb"[\xe8-\xf7][\x00-\x7f]*")


def _by_locations(table: bytes, first_line: int, index: int) -> int:
    firsts = table.translate(None, _FOLLOWING)
    at = bisect_right(list(accumulate(firsts.translate(_UNITS))), index)
    if at >= len(firsts) or firsts[at] >> 3 == 31:
        return 0
    passed = firsts[: at + 1]
    long = len(passed.translate(None, _SHORT))
    line = (
        first_line
        + sum(passed.translate(_LINES))
        + sum(_difference(each[0]) for each in islice(_LONG.finditer(table), long))
    )
    return line if 0 < line < 1 << 30 else 0


def _difference(entry: bytes) -> int:
    value, shift = 0, 0
    for byte in entry[1:]:
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64:
            break
    return -(value >> 1) if value & 1 else value >> 1
