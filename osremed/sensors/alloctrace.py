"""Which kernel code keeps the pages it allocates: a trace of page allocations for some seconds, by kernel stack.

Costs every allocation and free of a page about 1 us while it runs: 1 to 5 % of a busy CPU. For a request, never always
on."""

from __future__ import annotations

import struct
import time

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import kallsyms
from osremed.sensors.bpf.loader import Objects, load
from osremed.sensors.kallsyms import KernelSymbols
from osremed.sensors.procfs import PAGE_BYTES, text

_LIVE = struct.Struct("=iIII16s")  # struct allocation of alloc_trace.bpf.c
_FRAMES = struct.Struct("=48Q")
_SEEN, _DROPPED = 0, 1
#: Functions that say which counter the pages are in already.
_COUNTED = {
    "slab": ("allocate_slab", "new_slab", "___slab_alloc", "alloc_slab_page", "___kmalloc_large_node"),
    "vmalloc": ("__vmalloc_node_range_noprof", "__vmalloc_node_range", "vm_area_alloc_pages"),
    "page tables": ("pte_alloc_one", "__pte_alloc", "__pmd_alloc", "__pud_alloc", "pgd_alloc", "__p4d_alloc"),
    "per-CPU data": ("pcpu_populate_chunk", "pcpu_alloc_pages"),
}  # fmt: skip
#: Frames of the tracer itself and of every allocation; what is above the last of them is not told.
_PLUMBING = (
    "bpf_trace_run", "__traceiter_", "__alloc_pages", "alloc_pages", "__alloc_frozen_pages", "alloc_frozen_pages",
    "get_page_from_freelist", "__get_free_pages", "get_free_pages",
)  # fmt: skip
_PLUMBING_FRAMES = 10


@record
class Keeper:
    """Pages that one kernel stack allocated in the time and did not free. `counted_as`: the counter that has them,
    empty for none. `functions`: innermost first, none when the stack was lost. `comm` and `pid`: who ran it once."""

    bytes: int
    allocations: int
    counted_as: str
    functions: tuple[str, ...]
    comm: str
    pid: int


@record
class AllocationTrace:
    """`dropped`: allocations that had no room in the table, so that more may be kept than is told."""

    seconds: float
    seen: int
    dropped: int
    keepers: tuple[Keeper, ...]


def trace_allocations(seconds: float) -> Reading[AllocationTrace]:
    """Traces for `seconds`; the stacks that keep the most first. Missing as for bpf.loader.load, and where the kernel's
    symbols are hidden."""
    loaded = load("alloc_trace")
    if isinstance(loaded, Missing):
        return loaded
    with loaded.value as objects:
        for name in ("on_free", "on_alloc"):
            linked = objects.program(name).attach()
            if isinstance(linked, Missing):
                return linked
        began_s = time.monotonic()
        time.sleep(seconds)
        objects.program("on_alloc").detach()
        elapsed_s = time.monotonic() - began_s
        objects.program("on_free").detach()
        symbols = _symbols()
        if isinstance(symbols, Missing):
            return symbols
        keepers = _keepers(objects, symbols.value)
        return Value(AllocationTrace(elapsed_s, _counter(objects, _SEEN), _counter(objects, _DROPPED), keepers))


def _symbols() -> Reading[KernelSymbols]:
    raw = kallsyms.read_raw()
    if isinstance(raw, Missing):
        return raw
    try:
        return Value(kallsyms.parse(raw.value))
    except ValueError as error:
        return Missing(Reason.DENIED, "/proc/kallsyms", str(error))


def _counter(objects: Objects, which: int) -> int:
    values = objects.map("counters").lookup(struct.pack("=I", which)) or b""
    return sum(struct.unpack(f"={len(values) // 8}Q", values))


def _keepers(objects: Objects, symbols: KernelSymbols) -> tuple[Keeper, ...]:
    by_stack: dict[int, tuple[int, int, str, int]] = {}
    _, values = objects.map("live").read(take=False)
    for stack, order, pid, _, comm in _LIVE.iter_unpack(values):
        size, count, _, _ = by_stack.get(stack, (0, 0, "", 0))
        by_stack[stack] = (size + (PAGE_BYTES << order), count + 1, text(comm.split(b"\0", 1)[0]), pid)
    keepers = []
    for stack, (size, count, comm, pid) in by_stack.items():
        frames = objects.map("stacks").lookup(struct.pack("=I", stack)) if stack >= 0 else None
        names = [symbols.name(address) for address in _FRAMES.unpack(frames) if address] if frames else []
        keepers.append(Keeper(size, count, counted_as(names), _without_plumbing(names), comm, pid))
    return tuple(sorted(keepers, key=lambda keeper: (-keeper.bytes, keeper.functions)))


def counted_as(functions: list[str]) -> str:
    """The line of the balance that has these pages, by the functions on the stack; empty for none. Pure."""
    for name, marks in _COUNTED.items():
        if any(function in marks for function in functions):
            return name
    return ""


def _without_plumbing(functions: list[str]) -> tuple[str, ...]:
    plumbing = [at for at, name in enumerate(functions[:_PLUMBING_FRAMES]) if name.startswith(_PLUMBING)]
    return tuple(functions[plumbing[-1] + 1 :] if plumbing else functions)
