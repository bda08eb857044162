"""What the kernel tells of its own code, beside the ring, since none of it is in a file that could be opened later: its
symbols (addresses mean nothing after the next boot, those of modules once one came or went), and the code it maps into
every process (vdso(7))."""

from __future__ import annotations

import os
import signal

from osremed.core.canonical import sha256_hex
from osremed.core.files import write_atomic
from osremed.core.reading import Missing, Value
from osremed.hotspot.child import begin
from osremed.sensors import elf, kallsyms, procfs
from osremed.sensors.address_space import mappings
from osremed.sensors.compress import compress

_REST_SEGMENTS = 60  #: ten minutes: each file is a megabyte or two
_NICE = 10
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


def kernel_symbols_path(directory: str, boot: str, modules: str) -> str:
    return os.path.join(directory, f"kallsyms-{boot}-{modules}.z")


def any_kernel_symbols(directory: str, boot: str) -> str:
    """A file of that boot, with whatever modules; "" when there is none."""
    of_boot = (f"kallsyms-{boot}-", f"kallsyms-{boot}.")
    found = sorted(name for name in os.listdir(directory) if name.startswith(of_boot))
    return os.path.join(directory, found[0]) if found else ""


def loaded_modules(root: str = procfs.PROC) -> str:
    """Tells the modules that are loaded, and where, from others: what a module's addresses mean changes with them. ""
    when they cannot be read."""
    try:
        lines = procfs.read_file(f"{root}/modules").splitlines()
    except FileNotFoundError:  # a kernel without
        lines = []
    except (OSError, ValueError):
        return ""
    rows = sorted((words[0], words[5]) for words in (line.split() for line in lines) if len(words) > 5)
    return sha256_hex(repr(rows).encode())[:12]


class KernelKeeper:
    """Keeps the kernel's symbols on disk as they are with the modules of now: again when one came or went, but not more
    often than every so many segments."""

    def __init__(self, directory: str, boot: str, root: str = procfs.PROC) -> None:
        self._directory, self._boot, self._root = directory, boot, root
        self._modules = loaded_modules(root)
        self._child = self._rest = 0

    def begin(self) -> bool:
        """Keeps them and waits for it. False when they could not be read or written."""
        path = kernel_symbols_path(self._directory, self._boot, self._modules)
        if os.path.exists(path):
            return True
        self._begin(path, 0)
        child, self._child = self._child, 0
        return bool(child) and os.waitpid(child, 0)[1] == 0

    def turn(self) -> str:
        """At the end of a segment: with which modules it ran; "" when that changed meanwhile, or is not known."""
        before, self._modules = self._modules, loaded_modules(self._root)
        self._rest = max(0, self._rest - 1)
        if self._child and os.waitpid(self._child, os.WNOHANG)[0]:
            self._child = 0
        path = kernel_symbols_path(self._directory, self._boot, self._modules)
        if self._modules and not self._child and not self._rest and not os.path.exists(path):
            self._rest = _REST_SEGMENTS
            self._begin(path, _NICE)
        return before if before == self._modules else ""

    def _begin(self, path: str, nice: int) -> None:
        try:
            self._child = begin(lambda: _write(path, self._root), nice)  # 10 MB of text: not through this process
        except OSError:
            return

    def close(self) -> None:
        """Ends a child that is still at work: what it makes is there whole or not at all."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0


def _write(path: str, root: str) -> int:
    """Exit code: 0 when they are on disk."""
    raw = kallsyms.read_raw(root)
    if isinstance(raw, Missing):
        return 1
    try:
        write_atomic(path, compress(raw.value), mode=0o600)
    except OSError:
        return 1
    return 0
