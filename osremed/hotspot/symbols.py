"""Addresses -> frames: kernel, native, Python and run-time made code. Nothing is guessed: what has no name keeps its
object and offset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from osremed.core.record import record
from osremed.hotspot.model import Frame
from osremed.hotspot.records import NAMED, PYTHON_CUT, PYTHON_ERROR, Raw, Text
from osremed.sensors.kallsyms import KernelSymbols
from osremed.sensors.perfmap import PerfMap

_SAMPLER = ("bpf_prog_", "bpf_trace_run", "__bpf_trace", "bpf_get_stack")
Kernel = tuple[str, str]  #: boot, and which modules were loaded ("": not known, or not the same all the time)
DEEPER = Frame("note", "[deeper]")  #: stands for the callers that are not known
Key = tuple[int, int, int]  #: pid, its start, which of the programs it became (exec)
_EVALS = frozenset({"_PyEval_EvalFrameDefault", "_PyEval_Vector", "PyEval_EvalCode"})


class Mapped(NamedTuple):
    """An executable mapping."""

    start: int
    end: int
    offset: int
    path: str
    build_id: str


@record
class ProcessFacts:
    """What was captured of one program of a process. `maps` are sorted by start; `runtime` is where CPython keeps its
    own state."""

    pid: int
    name: str
    container: str
    maps: tuple[Mapped, ...]
    language: str = ""
    runtime: tuple[int, int] = (0, 0)
    start_ticks: int = 0
    program: int = 0


class ObjectSymbols(Protocol):
    """Functions of one ELF file."""

    def name(self, file_offset: int) -> str:
        """The function that holds the byte at `file_offset`; "" when it has no name."""
        ...


class Symbols:
    """Names addresses with what is told; caches per object and per address, since stacks repeat."""

    def __init__(
        self,
        open_kernel: Callable[[Kernel], KernelSymbols | None],
        open_object: Callable[[int, str, str], ObjectSymbols | None],
        open_perf_map: Callable[[ProcessFacts], PerfMap | None],
    ) -> None:
        """`open_object` gets pid, path and build id."""
        self._open_kernel, self._open_object, self._open_perf_map = open_kernel, open_object, open_perf_map
        self._kernels: dict[Kernel, KernelSymbols | None] = {}
        self._objects: dict[tuple[str, str], ObjectSymbols | None] = {}
        self._perf_maps: dict[Key, PerfMap | None] = {}
        #: Of a program: a process that becomes another, or gets the number of one, has other code at the same place.
        self._native: dict[Key, dict[tuple[int, bool], Frame]] = {}
        self._kernel_frames: dict[tuple[Kernel, int], Frame] = {}

    def stack(
        self, raw: Raw, process: ProcessFacts, texts: Mapping[int, Text], kernel: Kernel = ("", "")
    ) -> tuple[Frame, ...]:
        """The whole stack, root first: Python over the interpreter's own frames, then native, then kernel."""
        named = self._native.setdefault((raw.tgid, raw.start_ns, raw.program), {})
        native = [self._native_frame(address, process, at > 0, named) for at, address in enumerate(raw.user)][::-1]
        words = raw.python
        python = [name_python(words[at], words[at + 1], texts) for at in range(len(words) - 2, -1, -2)]
        if python and raw.flags & (PYTHON_CUT | PYTHON_ERROR):
            python.insert(0, DEEPER)
        inside = _without_sampler([self._kernel_frame(address, kernel) for address in raw.kernel])[::-1]
        return (*merge(python, native), *inside)

    def _kernel_frame(self, address: int, kernel: Kernel) -> Frame:
        frame = self._kernel_frames.get((kernel, address))
        if frame is None:
            if kernel not in self._kernels:
                self._kernels[kernel] = self._open_kernel(kernel)
            symbols = self._kernels[kernel]
            name = symbols.name(address) if symbols is not None else ""
            frame = self._kernel_frames[kernel, address] = Frame("kernel", name or f"[kernel+{address:#x}]")
        return frame

    def _native_frame(
        self, address: int, process: ProcessFacts, caller: bool, named: dict[tuple[int, bool], Frame]
    ) -> Frame:
        frame = named.get((address, caller))
        if frame is None:
            # A return address may be the first byte of the next function: look one byte back for callers.
            frame = named[address, caller] = self._name_native(address - caller, process)
        return frame

    def _name_native(self, address: int, process: ProcessFacts) -> Frame:
        at = _find(process.maps, address)
        mapping = process.maps[at] if at >= 0 else None
        if mapping is None or not (mapping.path.startswith("/") or mapping.build_id):
            made = self._perf_map(process)
            name = made.name(address) if made is not None else ""
            if name:
                return Frame(process.language or "jit", name)
            return Frame("native", f"[{mapping.path or 'anonymous'}]" if mapping else "[unknown]")
        offset = address - mapping.start + mapping.offset
        symbols = self._object(process.pid, mapping)
        name = symbols.name(offset) if symbols is not None else ""
        base = mapping.path.rpartition("/")[2].strip("[]")
        return Frame("native", name or f"[{base}+{offset:#x}]", mapping.path)

    def _object(self, pid: int, mapping: Mapped) -> ObjectSymbols | None:
        key = (mapping.path, mapping.build_id)
        if key not in self._objects:
            self._objects[key] = self._open_object(pid, *key)
        return self._objects[key]

    def _perf_map(self, process: ProcessFacts) -> PerfMap | None:
        key = process.pid, process.start_ticks, process.program
        if key not in self._perf_maps:
            self._perf_maps[key] = self._open_perf_map(process)
        return self._perf_maps[key]


def _without_sampler(frames: list[Frame]) -> list[Frame]:
    """Leaf first, without our own programs, which stand at the leaf of a stack that is taken at a context switch."""
    last = max((at for at, frame in enumerate(frames[:6]) if frame.name.startswith(_SAMPLER)), default=-1)
    return frames[last + 1 :]


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


def name_python(word: int, instruction: int, texts: Mapping[int, Text]) -> Frame:
    text = texts.get(word & ~NAMED) if word & NAMED else None
    if text is None:
        return Frame("python", f"[code {word & ~NAMED:#x}]")
    frame = text.frames.get(instruction)
    if frame is None:
        frame = text.frames[instruction] = Frame("python", text.name, text.file, text.line(instruction))
    return frame
