"""What a sampler needs to know of a CPython process (3.11 to 3.13): where its threads keep their frames, and the names
behind code objects. Offsets are of the stable part of each release; free-threaded builds are not read."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import elf
from osremed.sensors.address_space import AddressSpace, Mapping
from osremed.sensors.cpython import python_images

_MOST_THREADS = 4096
_MOST_INTERPRETERS = 64
_CODE_BYTES = 208
_TEXT_HEAD_BYTES = 56 + 16
_MOST_TEXT_BYTES = 1024
_MOST_TABLE_BYTES = 1 << 16


@record
class Layout:
    """Offsets in bytes. `inner`: where the current frame lies behind the pointer at `frame`, if not there."""

    version: tuple[int, int]
    interpreters: int
    next_interpreter: int
    threads: int
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

    def walk(self) -> bytes:
        """The value the BPF programs keep of a process (struct python)."""
        has_inner, inner = int(self.inner is not None), self.inner or 0
        return struct.pack(
            "=8I", self.frame, has_inner, inner, self.code, self.instruction, self.previous, self.owner, 0
        )


LAYOUTS = {
    layout.version: layout
    for layout in (
        Layout((3, 11), 40, 0, 16, 160, 56, 8, 32, 56, 48, 69, 72, 184, 48, 72),
        Layout((3, 12), 40, 0, 72, 144, 56, 0, 0, 56, 8, 70, 68, 192, 40, 56),
        Layout((3, 13), 632, 7264, 7344, 160, 72, None, 0, 56, 8, 70, 68, 200, 40, 56),
    )
}
_NEXT_THREAD = 8
_CODE_FILE, _CODE_NAME, _CODE_QUALIFIED, _CODE_TABLE = 112, 120, 128, 136


@record
class Interpreter:
    """`runtime` is the address of _PyRuntime in the process, `runtime_bytes` its size."""

    layout: Layout
    runtime: int
    runtime_bytes: int


@record
class CodeName:
    name: str
    file: str
    first_line: int
    table: bytes


def find_interpreter(space: AddressSpace, symbols: dict[str, dict[str, tuple[int, int]]]) -> Reading[Interpreter]:
    """NO_DATA when it is no CPython, UNSUPPORTED for a release without a layout here. `symbols` keeps what was found in
    files by build id: the tables of an interpreter are megabytes."""
    for image in python_images(space.maps):
        found = _symbols(space, image, symbols)
        if "_PyRuntime" not in found:
            continue
        raw = space.read(found["Py_Version"][0], 4) if "Py_Version" in found else None
        if raw is None:
            return Missing(Reason.UNSUPPORTED, image.path, "no Py_Version: a release before 3.11")
        version = struct.unpack("<I", raw)[0]
        layout = LAYOUTS.get((version >> 24, version >> 16 & 0xFF))
        if layout is None:
            what = f"CPython {version >> 24}.{version >> 16 & 0xFF}"
            return Missing(Reason.UNSUPPORTED, image.path, f"{what}: frames of 3.11 to 3.13 are read")
        return Value(Interpreter(layout, *found["_PyRuntime"]))
    return Missing(Reason.NO_DATA, f"/proc/{space.pid}/maps", "no CPython found")


def _symbols(
    space: AddressSpace, image: Mapping, cache: dict[str, dict[str, tuple[int, int]]]
) -> dict[str, tuple[int, int]]:
    """Addresses in the process, and sizes."""
    opened = elf.open_mapped(space.pid, image, space.root)
    if isinstance(opened, Missing):
        return {}
    with open(opened.value, "rb", buffering=0) as stream:
        parsed = elf.read_elf(stream.fileno(), image.path)
        if isinstance(parsed, Missing):
            return {}
        bias = elf.load_bias(parsed.value, image)
        build_id = parsed.value.build_id
        key = build_id.value if isinstance(build_id, Value) else f"{image.device}:{image.inode}"
        if key not in cache:
            found = elf.find_symbols(stream.fileno(), parsed.value, ("_PyRuntime", "Py_Version"))
            table = {} if isinstance(found, Missing) else found.value
            cache[key] = {name: (symbol.address, symbol.bytes) for name, symbol in table.items()}
    return {} if bias is None else {name: (address + bias, size) for name, (address, size) in cache[key].items()}


def threads_where(interpreter: Interpreter) -> bytes:
    """Where a BPF program finds the threads of a process (struct threads of gpu_calls.bpf.c)."""
    layout = interpreter.layout
    offsets = (layout.interpreters, layout.next_interpreter, layout.threads, _NEXT_THREAD, layout.native_id, 0)
    return struct.pack("=Q6I", interpreter.runtime, *offsets)


def thread_states(space: AddressSpace, interpreter: Interpreter) -> dict[int, int]:
    """Native thread id, as the process itself knows it -> address of its PyThreadState. Bounded; what is torn ends the
    list early."""
    layout, found = interpreter.layout, {}
    state = _pointer(space, interpreter.runtime + layout.interpreters)
    for _ in range(_MOST_INTERPRETERS):
        if not state:
            break
        thread = _pointer(space, state + layout.threads)
        for _ in range(_MOST_THREADS):
            body = space.read(thread, layout.native_id + 8) if thread else None
            if body is None:
                break
            found[struct.unpack_from("<Q", body, layout.native_id)[0]] = thread
            thread = struct.unpack_from("<Q", body, _NEXT_THREAD)[0]
        state = _pointer(space, state + layout.next_interpreter)
    return found


def _pointer(space: AddressSpace, address: int) -> int:
    raw = space.read(address, 8)
    return struct.unpack("<Q", raw)[0] if raw else 0


def code_names(space: AddressSpace, layout: Layout, addresses: Sequence[int]) -> dict[int, CodeName]:
    """Those of the code objects that can still be read, in three batches. What looks torn is left out."""
    bodies = dict(zip(addresses, space.read_many([(address, _CODE_BYTES) for address in addresses])))
    wanted: list[int] = []
    for body in bodies.values():
        if body is not None:
            wanted += [_word(body, offset) for offset in (_CODE_FILE, _CODE_QUALIFIED, _CODE_TABLE)]
    heads = dict(zip(wanted, space.read_many([(each, _TEXT_HEAD_BYTES) for each in wanted])))
    spans = {each: _span(layout, each, head) for each, head in heads.items() if head is not None}
    tables = {_word(body, _CODE_TABLE) for body in bodies.values() if body is not None}
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
        file, name, table = (data.get(_word(body, at)) for at in (_CODE_FILE, _CODE_QUALIFIED, _CODE_TABLE))
        if file is None or name is None or table is None:
            continue
        (first_line,) = struct.unpack_from("<i", body, layout.first_line)
        found[address] = CodeName(_text(*name), _text(*file), max(0, first_line), table[0])
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


def _text(data: bytes, width: int) -> str:
    encoding = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width]
    return data.decode(encoding, "backslashreplace")


def instruction_lines(layout: Layout, code: int, known: CodeName, instructions: Iterable[int]) -> dict[int, int]:
    """Line by the address of an instruction of the code object at `code`; 0 where its table does not say."""
    indices = {each: (each - code - layout.bytecode) // 2 for each in instructions}
    found = lines_of(known.table, known.first_line, indices.values())
    return {each: found[index] for each, index in indices.items()}


_LINE_DELTAS = {10: 0, 11: 1, 12: 2}


def lines_of(table: bytes, first_line: int, indices: Iterable[int]) -> dict[int, int]:
    """Line by index of the instruction, by co_linetable (3.11 and later), in one walk; 0 where it does not say."""
    wanted = sorted(set(indices), reverse=True)
    found = dict.fromkeys(wanted, 0)
    at, line, unit = 0, first_line, 0
    while at < len(table) and wanted and table[at] & 0x80:
        kind, length = table[at] >> 3 & 15, (table[at] & 7) + 1
        delta, at = _delta(table, at + 1, kind)
        line += delta
        unit += length
        while wanted and wanted[-1] < unit:
            found[wanted.pop()] = line if kind != 15 and line > 0 else 0
    return found


def _delta(table: bytes, at: int, kind: int) -> tuple[int, int]:
    """Line delta of an entry, and where the next one begins."""
    if kind == 15:
        return 0, at
    if kind in _LINE_DELTAS:
        return _LINE_DELTAS[kind], at + 2
    if kind < 10:
        return 0, at + 1
    value, at = _varint(table, at)
    delta = -(value >> 1) if value & 1 else value >> 1
    for _ in range(3 if kind == 14 else 0):
        _skipped, at = _varint(table, at)
    return delta, at


def _varint(table: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(table):
        byte = table[at]
        value |= (byte & 63) << shift
        shift, at = shift + 6, at + 1
        if not byte & 64:
            break
    return value, at
