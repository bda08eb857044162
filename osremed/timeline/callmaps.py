"""Which files of a process are CUDA's and NCCL's, by what it has mapped."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from osremed.core.reading import Missing
from osremed.sensors import procfs
from osremed.sensors.address_space import Mapping, mappings

_LIBRARY = re.compile(r"lib(?:cudart|cuda|nccl)(?:[-.][0-9A-Za-z_.+-]*)?\.so[0-9.]*(?: \(deleted\))?")
_DRIVER = re.compile(r"libcuda\.so[0-9.]*(?: \(deleted\))?")


def mapping_at(maps: Sequence[Mapping], address: int) -> Mapping | None:
    return next((each for each in maps if each.start <= address < each.end and each.inode), None)


def call_libraries(pid: int, root: str = procfs.PROC) -> tuple[list[Mapping], tuple[Mapping, ...]]:
    """The first mapping of each file of CUDA and NCCL, and all mappings. Where the driver's library is mapped and the
    runtime's is not, the program itself may have the runtime in it."""
    path = f"{root}/{pid}/maps"
    try:
        data = procfs.read_file(path, limit_bytes=64 << 20)
    except (OSError, ValueError):
        return [], ()
    if b"/libcuda" not in data and b"/libnccl" not in data:
        return [], ()
    found = mappings(pid, root)
    if isinstance(found, Missing):
        return [], ()
    first: dict[tuple[str, int], Mapping] = {}
    for mapping in found.value:
        if mapping.inode and _LIBRARY.fullmatch(os.path.basename(mapping.path)):
            first.setdefault((mapping.device, mapping.inode), mapping)
    names = [os.path.basename(each.path) for each in first.values()]
    if any(_DRIVER.fullmatch(name) for name in names) and not any("cudart" in name for name in names):
        program = _program(pid, found.value, root)
        if program is not None:
            first.setdefault((program.device, program.inode), program)
    return list(first.values()), found.value


def _program(pid: int, maps: Sequence[Mapping], root: str) -> Mapping | None:
    try:
        path = os.readlink(f"{root}/{pid}/exe")
    except OSError:
        return None
    return next((each for each in maps if each.path == path and each.inode), None)
