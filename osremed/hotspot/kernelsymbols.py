"""What the kernel tells of its own code, beside the ring, since none of it is in a file that could be opened later: its
symbols (addresses mean nothing after the next boot), and the code it maps into every process (vdso(7))."""

from __future__ import annotations

import os

from osremed.core.files import write_atomic
from osremed.core.reading import Missing, Value
from osremed.sensors import elf, kallsyms
from osremed.sensors.address_space import mappings
from osremed.sensors.compress import compress

VDSO = "[vdso]"  #: what /proc/PID/maps calls it


def vdso_path(directory: str, build_id: str) -> str:
    return os.path.join(directory, f"vdso-{build_id}")


def keep_vdso(directory: str) -> str:
    """The build id of the image that this kernel maps into 64-bit processes; "" where it maps none or it could not be
    kept. Processes of another width have another image: their own ELF files are not read either."""
    maps = mappings(os.getpid())
    found = [each for each in maps.value if each.path == VDSO] if isinstance(maps, Value) else []
    if not found:
        return ""
    fresh = vdso_path(directory, "new")
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            write_atomic(fresh, os.pread(memory.fileno(), found[0].bytes, found[0].start), mode=0o600)
        with open(fresh, "rb", buffering=0) as stream:
            parsed = elf.read_elf(stream.fileno(), VDSO)
        if isinstance(parsed, Missing) or isinstance(parsed.value.build_id, Missing):
            os.unlink(fresh)
            return ""
        os.rename(fresh, vdso_path(directory, parsed.value.build_id.value))
    except OSError:
        return ""
    return parsed.value.build_id.value


def kernel_symbols_path(directory: str, boot: str) -> str:
    return os.path.join(directory, f"kallsyms-{boot}.z")


def keep_kernel_symbols(directory: str, boot: str) -> bool:
    """Once a boot. False when they could not be read or written."""
    path = kernel_symbols_path(directory, boot)
    if os.path.exists(path):
        return True
    child = os.fork()  # 10 MB of text pass through: not through this process
    if child == 0:
        os._exit(_write(path))
    return os.waitpid(child, 0)[1] == 0


def _write(path: str) -> int:
    """Exit code: 0 when they are on disk."""
    raw = kallsyms.read_raw()
    if isinstance(raw, Missing):
        return 1
    try:
        write_atomic(path, compress(raw.value), mode=0o600)
    except OSError:
        return 1
    return 0
