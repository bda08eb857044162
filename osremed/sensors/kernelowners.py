"""What open descriptors make the kernel hold: queues of sockets, packet rings, pipes, perf and io_uring rings, AF_XDP
areas, DMA buffers, of all processes in all namespaces, by a BPF iterator. About 1 us a descriptor.

Not seen: what has no descriptor left, such as a closed socket that still sends, or a ring that is only mapped."""

from __future__ import annotations

import struct

from osremed.core.reading import Missing, Reading, Value
from osremed.core.record import record
from osremed.sensors.bpf.loader import load
from osremed.sensors.procfs import PAGE_BYTES, text

#: In the order of kernel_owners.bpf.c.
QUEUE, PACKET_RING, PIPE, PERF_RING, IO_URING, XDP_AREA, DMA_BUFFER = KINDS = (
    "socket queue", "packet ring", "pipe", "perf ring", "io_uring ring", "AF_XDP area", "DMA buffer",
)  # fmt: skip
_OWNER = struct.Struct("=IIQQQQII16s")
_FAMILIES = {1: "unix", 2: "IPv4", 10: "IPv6", 16: "netlink", 17: "packet", 40: "vsock", 44: "AF_XDP"}
_TYPES = {1: "stream", 2: "datagram", 3: "raw", 5: "seqpacket"}


@record
class KernelHolding:
    """One thing and who has it open. `uncounted_bytes` is the part that nothing else shows: neither slab nor vmalloc,
    page cache or a process's own memory; nor pages of a page pool, which a page scan finds. `detail`: family and type
    of a socket, exporter of a buffer."""

    kind: str
    detail: str
    inode: int
    bytes: int
    uncounted_bytes: int
    pids: tuple[int, ...]


def kernel_holdings() -> Reading[tuple[KernelHolding, ...]]:
    """The largest first. Missing as for bpf.loader.load."""
    loaded = load("kernel_owners", constants=struct.pack("=Q", PAGE_BYTES))
    if isinstance(loaded, Missing):
        return loaded
    with loaded.value as objects:
        written = objects.program("owners").read()
    return written if isinstance(written, Missing) else Value(parse_owners(written.value))


def parse_owners(data: bytes) -> tuple[KernelHolding, ...]:
    """Records of the iterator, one for each descriptor; a thing that several have open counts once, at its largest."""
    found: dict[tuple[int, int], tuple[tuple[int, ...], set[int], bytes]] = {}
    for kind, pid, thing, inode, size, uncounted, family, type_, name in _OWNER.iter_unpack(data):
        known = found.get((kind, thing))
        pids = known[1] if known else set()
        pids.add(pid)
        if known is None or size > known[0][1]:
            found[kind, thing] = ((inode, size, uncounted, family, type_), pids, name)
    rows = []
    for (kind, _), ((inode, size, uncounted, family, type_), pids, name) in found.items():
        if not 1 <= kind <= len(KINDS):
            raise ValueError(f"no such kind of owner: {kind}")
        socket = f"{_FAMILIES.get(family, f'family {family}')} {_TYPES.get(type_, f'type {type_}')}"
        detail = socket if KINDS[kind - 1] in (QUEUE, PACKET_RING, XDP_AREA) else text(name.split(b"\0", 1)[0])
        rows.append(KernelHolding(KINDS[kind - 1], detail, inode, size, min(uncounted, size), tuple(sorted(pids))))
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.kind, row.inode)))
