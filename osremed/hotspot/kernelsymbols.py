"""The kernel's symbols of each boot, beside the ring: addresses of this kernel mean nothing after the next start."""

from __future__ import annotations

import os

from osremed.core.files import write_atomic
from osremed.core.reading import Missing
from osremed.sensors import kallsyms
from osremed.sensors.compress import compress


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
