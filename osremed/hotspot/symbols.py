"""Addresses -> frames: kernel, native, Python and run-time made code. Nothing is guessed: what has no name keeps its
object and offset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from osremed.core.record import record
from osremed.hotspot.model import Frame
from osremed.hotspot.records import Raw
from osremed.sensors.kallsyms import KernelSymbols
from osremed.sensors.perfmap import PerfMap

_EVALS = frozenset({"_PyEval_EvalFrameDefault", "_PyEval_Vector", "PyEval_EvalCode"})
_LINE_UNITS = {10: 0, 11: 1, 12: 2}


class Mapped(NamedTuple):
    """An executable mapping."""

    start: int
    end: int
    offset: int
    path: str
    build_id: str


class Code(NamedTuple):
    """A code object of CPython, copied while its process was alive. `table` is co_linetable; `bytecode` is where the
    instructions begin, from the start of the object."""

    name: str
    file: str
    first_line: int
    table: bytes
    bytecode: int


@record
class ProcessFacts:
    """What was captured of one process. `maps` are sorted by start; `codes` by address."""

    pid: int
    name: str
    container: str
    maps: tuple[Mapped, ...]
    codes: Mapping[int, Code]
    language: str = ""


class ObjectSymbols(Protocol):
    """Functions of one ELF file."""

    def name(self, file_offset: int) -> str:
        """The function that holds the byte at `file_offset`; "" when it has no name."""
        ...


class Symbols:
    """Names addresses with what is told; caches per object and per address, since stacks repeat."""

    def __init__(
        self,
        kernel: KernelSymbols | None,
        open_object: Callable[[int, str, str], ObjectSymbols | None],
        open_perf_map: Callable[[int], PerfMap | None],
    ) -> None:
        """`open_object` gets pid, path and build id; `open_perf_map` a pid."""
        self._kernel, self._open_object, self._open_perf_map = kernel, open_object, open_perf_map
        self._objects: dict[tuple[str, str], ObjectSymbols | None] = {}
        self._perf_maps: dict[int, PerfMap | None] = {}
        self._native: dict[tuple[int, int], Frame] = {}
        self._python: dict[tuple[int, int, int], Frame] = {}
        self._kernel_frames: dict[int, Frame] = {}

    def stack(self, raw: Raw, process: ProcessFacts) -> tuple[Frame, ...]:
        """The whole stack, root first: Python over the interpreter's own frames, then native, then kernel."""
        native = [self._native_frame(address, process, at > 0) for at, address in enumerate(raw.user)][::-1]
        python = self._python_frames(raw.python, process)
        kernel = [self._kernel_frame(address) for address in raw.kernel][::-1]
        return (*merge(python, native), *kernel)

    def _kernel_frame(self, address: int) -> Frame:
        frame = self._kernel_frames.get(address)
        if frame is None:
            name = self._kernel.name(address) if self._kernel is not None else ""
            frame = self._kernel_frames[address] = Frame("kernel", name or f"[kernel+{address:#x}]")
        return frame

    def _native_frame(self, address: int, process: ProcessFacts, caller: bool) -> Frame:
        key = (process.pid, address)
        frame = self._native.get(key)
        if frame is None:
            # A return address may be the first byte of the next function: look one byte back for callers.
            frame = self._native[key] = self._name_native(address - caller, process)
        return frame

    def _name_native(self, address: int, process: ProcessFacts) -> Frame:
        at = _find(process.maps, address)
        mapping = process.maps[at] if at >= 0 else None
        if mapping is None or not mapping.path.startswith("/"):
            made = self._perf_map(process.pid)
            name = made.name(address) if made is not None else ""
            if name:
                return Frame(process.language or "jit", name)
            return Frame("native", f"[{mapping.path or 'anonymous'}]" if mapping else "[unknown]")
        offset = address - mapping.start + mapping.offset
        symbols = self._object(process.pid, mapping)
        name = symbols.name(offset) if symbols is not None else ""
        base = mapping.path.rpartition("/")[2]
        return Frame("native", name or f"[{base}+{offset:#x}]", mapping.path)

    def _object(self, pid: int, mapping: Mapped) -> ObjectSymbols | None:
        key = (mapping.path, mapping.build_id)
        if key not in self._objects:
            self._objects[key] = self._open_object(pid, *key)
        return self._objects[key]

    def _perf_map(self, pid: int) -> PerfMap | None:
        if pid not in self._perf_maps:
            self._perf_maps[pid] = self._open_perf_map(pid)
        return self._perf_maps[pid]

    def _python_frames(self, words: Sequence[int], process: ProcessFacts) -> list[Frame]:
        frames = []
        for at in range(0, len(words), 2):
            address, instruction = words[at], words[at + 1]
            key = (process.pid, address, instruction)
            frame = self._python.get(key)
            if frame is None:
                frame = self._python[key] = name_python(process.codes.get(address), address, instruction)
            frames.append(frame)
        return frames[::-1]


def _find(maps: Sequence[Mapped], address: int) -> int:
    """Index of the mapping that holds `address`, or -1."""
    low, high = 0, len(maps)
    while low < high:
        middle = (low + high) // 2
        if maps[middle].end <= address:
            low = middle + 1
        else:
            high = middle
    return low if low < len(maps) and maps[low].start <= address else -1


def merge(python: Sequence[Frame], native: Sequence[Frame]) -> tuple[Frame, ...]:
    """Root first. Python frames stand for the interpreter that runs them: what native code was called from the last
    evaluation frame stays. Without such a frame (no unwind tables) only a leaf outside of the interpreter does."""
    if not python:
        return tuple(native)
    evals = [at for at, frame in enumerate(native) if frame.name in _EVALS]
    if evals:
        return (*python, *native[evals[-1] + 1 :])
    leaf = native[-1:]
    if leaf and "python" not in leaf[0].file.rpartition("/")[2]:
        return (*python, *leaf)
    return tuple(python)


def name_python(code: Code | None, address: int, instruction: int) -> Frame:
    if code is None:
        return Frame("python", f"[code {address:#x}]")
    index = (instruction - address - code.bytecode) // 2
    return Frame("python", code.name, code.file, line_of(code.table, code.first_line, index))


def line_of(table: bytes, first_line: int, index: int) -> int:
    """The line of instruction `index` by co_linetable (3.11 and later); 0 when the table does not say."""
    at, line, unit = 0, first_line, 0
    while at < len(table):
        head = table[at]
        if not head & 0x80:
            return 0
        kind, length = head >> 3 & 15, (head & 7) + 1
        delta, at = _delta(table, at + 1, kind)
        line += delta
        unit += length
        if index < unit:
            return line if kind != 15 and line > 0 else 0
    return 0


def _delta(table: bytes, at: int, kind: int) -> tuple[int, int]:
    """Line delta of an entry, and where the next one begins."""
    if kind == 15:
        return 0, at
    if kind in _LINE_UNITS:
        return _LINE_UNITS[kind], at + 2
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
