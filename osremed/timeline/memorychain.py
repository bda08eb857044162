"""Growth of device memory, explained: slope -> allocations -> calling library -> Python line -> whose sizes -> cause ->
what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.timeline.growth import signature
from osremed.timeline.ledger import Line, Place, Share, place_json, total_bytes

_MOST_PLACES, _MOST_MARKS = 3, 10
CACHING, NCCL, BLAS, DNN, OTHER = "caching allocator", "NCCL", "cuBLAS", "cuDNN", "another library"
#: What a library's file name, or the function in it that called, says of the allocator. First match.
_FAMILIES = (
    (re.compile(r"CUDACachingAllocator|libc10_cuda"), CACHING),
    (re.compile(r"libnccl"), NCCL),
    (re.compile(r"libcublas"), BLAS),
    (re.compile(r"libcudnn"), DNN),
)
#: Python code of frameworks: the line of the program is the innermost that is none of these.
_FRAMEWORK = re.compile(r"/(?:torch|torchvision|transformers|deepspeed|triton|vllm/_custom_ops)(?:/|\.py$)|^<frozen ")
_INFERENCE = re.compile(r"(?:^|\.)decorate_context$")
_NOT_EXPANDABLE = (
    "not expandable_segments where the memory is shared between processes (CUDA IPC) or handled by a pool of its own"
    " (sleep mode of an inference server)"
)


@record
class Cause:
    """`advice` in the order in which to try it."""

    name: str
    summary: str
    advice: tuple[str, ...]


_CAUSES: Mapping[str, Cause] = {
    "expandable-reserve": Cause(
        "expandable-reserve",
        "PyTorch's caching allocator maps more into its expandable segments: more is alive at once than ever before",
        ("lower the server's GPU memory utilization", "make the largest batch or context smaller"),
    ),
    "inference-reserve": Cause(
        "inference-reserve",
        "a request needed more at once than any before it, and PyTorch's caching allocator keeps what it took",
        (
            "lower the server's GPU memory utilization by what has grown and some reserve",
            "make the largest batch or context smaller",
            "PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8, or expandable_segments:True",
            _NOT_EXPANDABLE,
        ),
    ),
    "reserve": Cause(
        "reserve",
        "PyTorch's caching allocator takes more from the driver at this line and keeps it",
        (
            "look for tensors that this line keeps alive",
            "PYTORCH_ALLOC_CONF=expandable_segments:True when sizes vary, garbage_collection_threshold:0.8",
            _NOT_EXPANDABLE,
        ),
    ),
    "communicator-buffers": Cause(
        "communicator-buffers",
        "NCCL allocates buffers: of new communicators, or of channels on their first use",
        ("reuse process groups instead of making new ones", "NCCL_BUFFSIZE, NCCL_MAX_NCHANNELS", "lower the server's "
         "GPU memory utilization: these buffers lie outside of the caching allocator"),
    ),
    "library-workspace": Cause(
        "library-workspace",
        "a library of CUDA allocates workspaces: one for each handle and stream",
        ("CUBLAS_WORKSPACE_CONFIG limits those of cuBLAS", "use fewer streams and threads that compute"),
    ),
    "direct": Cause(
        "direct",
        "device memory is asked for around PyTorch's caching allocator, and is not given back",
        ("look whether this line frees what it allocates",),
    ),
}  # fmt: skip


def family(place: Place, symbol: str = "") -> str:
    for pattern, name in _FAMILIES:
        if pattern.search(symbol) or pattern.search(place.library.rpartition("/")[2]):
            return name
    return OTHER


def cause(place: Place, of: str) -> Cause:
    """What the place says; `of` is its family."""
    if of == NCCL:
        return _CAUSES["communicator-buffers"]
    if of in (BLAS, DNN):
        return _CAUSES["library-workspace"]
    if of != CACHING:
        return _CAUSES["direct"]
    if place.function == "cuMemCreate":
        return _CAUSES["expandable-reserve"]
    inference = any(_INFERENCE.search(line.function) for line in place.lines)
    return _CAUSES["inference-reserve" if inference else "reserve"]


def own_line(lines: Sequence[Line]) -> Line | None:
    """The innermost line of the program itself; of a framework where there is none."""
    return next((line for line in lines if not _FRAMEWORK.search(line.file)), lines[0] if lines else None)


def chain(
    found: Sequence[Share],
    grown_bytes: int,
    symbols: Mapping[Place, str],
    gaps: Sequence[str],
    boot_wall_ns: int = 0,
) -> dict[str, Any]:
    """Of one process: `found` is what it has allocated since the growth began and holds. `explained` is the part of
    the growth that was seen, at most 1; a part below says that something was not. `boot_wall_ns` is the wall clock
    when the monotonic one was 0: `marks` of a place are the wall clock and the bytes of its latest allocations."""
    seen = total_bytes(found)
    document: dict[str, Any] = {
        "seen_bytes": seen,
        "grown_bytes": grown_bytes,
        "explained": round(min(1.0, seen / grown_bytes), 3) if grown_bytes > 0 else 0.0,
        "places": [_place(share, symbols.get(share.place, ""), boot_wall_ns) for share in found[:_MOST_PLACES]],
        "gaps": list(gaps),
    }
    if found:
        top = document["places"][0]
        document.update({key: top[key] for key in ("line", "family", "signature", "cause")})
        why = _CAUSES[top["cause"]]
        document.update(summary=why.summary, advice=list(why.advice), runbook="gpu-vram-growth")
    return document


def _place(share: Share, symbol: str, boot_wall_ns: int) -> dict[str, Any]:
    of = family(share.place, symbol)
    line, innermost = own_line(share.place.lines), share.place.lines[:1]
    return {
        **place_json(share.place),
        "symbol": symbol,
        "family": of,
        "bytes": share.bytes,
        "count": len(share.sizes),
        "sizes": list(share.sizes[-_MOST_MARKS:]),
        "marks": [
            [boot_wall_ns + at_ns, size]
            for at_ns, size in zip(share.times_ns[-_MOST_MARKS:], share.sizes[-_MOST_MARKS:])
        ],
        "released": share.released,
        "signature": signature(share.sizes),
        "cause": cause(share.place, of).name,
        "line": "" if line is None else f"{line.file}:{line.line}",
        "innermost": "" if not innermost else f"{innermost[0].file}:{innermost[0].line}",
    }


def sentence(told: Mapping[str, Any]) -> str:
    """A chain in one line, for people."""
    if "line" not in told:
        return f"none of the {format_bytes(told['grown_bytes'])} was seen being allocated"
    top = told["places"][0]
    where = told["line"] or "a thread without Python"
    device = "" if isinstance(top["device"], dict) else f" on its device {top['device']}"
    return (
        f"{format_bytes(top['bytes'])} in {top['count']} allocations by {top['function']}{device}, called by "
        f"{top['library'].rpartition('/')[2] or 'unknown code'}, at {where}: {told['summary']}"
    )
