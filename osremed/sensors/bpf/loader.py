"""An object of ours, opened from bytes (so from inside a zipapp too), relocated to this kernel by its BTF, and loaded.

    loaded = load("events", programs=("on_switch",), max_entries={"ring": 1 << 20})
    if isinstance(loaded, Missing): ...
    with loaded.value as objects:
        objects.program("on_switch").attach()

Everything closes with the object: links first, then programs and maps. Needs CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN
before Linux 5.8)."""

from __future__ import annotations

import ctypes
import errno
import os
import pkgutil
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.bpf import features, libbpf
from osremed.sensors.bpf.maps import Map, map_of
from osremed.sensors.bpf.programs import Program
from osremed.sensors.bpf.ring import Ring

_PACKAGE = "osremed.sensors.bpf"
_DETAIL_CHARACTERS = 600
_NOT_FOR_THIS_KERNEL = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL, errno.ENOTSUP})
_LIBBPF_ERRORS = 4000  # its own begin here


class Objects:
    """A loaded object: its programs, its maps, and the rings opened on them. Use it as a context."""

    def __init__(self, name: str, library: Any, handle: int) -> None:
        self.name = name
        self._library, self._handle = library, handle
        self._programs = {
            library.bpf_program__name(at).decode(): Program(library, at)
            for at in _each(library.bpf_object__next_program, handle)
        }
        maps = [map_of(library, at) for at in _each(library.bpf_object__next_map, handle)]
        self._maps: dict[str, Map] = {found.name: found for found in maps}
        self._rings: list[Ring] = []

    def program(self, name: str) -> Program:
        """KeyError for one the object has not."""
        return self._programs[name]

    @property
    def programs(self) -> tuple[Program, ...]:
        """Those that were loaded."""
        return tuple(program for program in self._programs.values() if program.fd >= 0)

    def map(self, name: str) -> Map:
        """KeyError for one the object has not."""
        return self._maps[name]

    def ring(self, name: str) -> Ring:
        """A reader of the ring buffer map, closed with the object. Make one for a map."""
        ring = Ring(self._maps[name])
        self._rings.append(ring)
        return ring

    def close(self) -> None:
        """Detaches and unloads; nothing of it stays in the kernel. A second call does nothing."""
        if not self._handle:
            return
        for program in self._programs.values():
            program.detach()
        for ring in self._rings:
            ring.close()
        self._library.bpf_object__close(self._handle)
        self._handle = 0
        self._programs, self._maps, self._rings = {}, {}, []

    def __enter__(self) -> Objects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    name: str,
    *,
    programs: Collection[str] | None = None,
    max_entries: Mapping[str, int] | None = None,
    constants: bytes | None = None,
    log: list[str] | None = None,
) -> Reading[Objects]:
    """The object the build made of `NAME.bpf.c`, loaded.

    `programs`: load these alone (a kernel may refuse others). `max_entries`: sizes of maps; a ring's is in bytes, a
    power of two of at least a page. `constants`: the content of its `.rodata`. `log` takes all that libbpf and the
    verifier said. UNSUPPORTED: no object in this build, no libbpf, no BTF, refused by the verifier. DENIED: no
    privilege."""
    data = object_bytes(name)
    if isinstance(data, Missing):
        return data
    return load_bytes(data.value, name, programs=programs, max_entries=max_entries or {}, constants=constants, log=log)


def object_bytes(name: str) -> Reading[bytes]:
    """The compiled object for this machine's architecture, from the package wherever that lies."""
    file = f"{name}.{os.uname().machine}.bpf.o"
    try:
        data = pkgutil.get_data(_PACKAGE, file)
    except OSError:
        data = None
    if data is None:
        return Missing(
            Reason.UNSUPPORTED, file, "this build has no BPF objects for this machine (make bpf needs clang)"
        )
    return Value(data)


def load_bytes(
    data: bytes,
    name: str,
    *,
    programs: Collection[str] | None,
    max_entries: Mapping[str, int],
    constants: bytes | None = None,
    log: list[str] | None = None,
) -> Reading[Objects]:
    """As `load`, for the bytes of an object file."""
    missing = features.absent()
    if missing is not None:
        return missing
    library = libbpf.library()
    if isinstance(library, Missing):
        return library
    choice = _Choice(name, programs, max_entries, constants)
    with libbpf.listening() as lines:
        loaded = _load(library.value, data, choice, lines)
        if log is not None:
            log.extend(lines)
    return loaded


@record
class _Choice:
    name: str
    programs: Collection[str] | None
    max_entries: Mapping[str, int]
    constants: bytes | None


def _load(lib: Any, data: bytes, choice: _Choice, lines: list[str]) -> Reading[Objects]:
    name = choice.name
    options = libbpf.OpenOptions(sz=ctypes.sizeof(libbpf.OpenOptions), object_name=name.encode())
    handle = lib.bpf_object__open_mem(data, len(data), ctypes.byref(options))
    if not handle:
        return _failure(name, libbpf.error_of(None), lines)
    try:
        _prepare(lib, handle, choice)
        libbpf.checked(lib.bpf_object__load(handle))
        return Value(Objects(name, lib, handle))
    except OSError as error:
        lib.bpf_object__close(handle)
        return _failure(name, error, lines)
    except BaseException:
        lib.bpf_object__close(handle)
        raise


def _prepare(lib: Any, handle: int, choice: _Choice) -> None:
    """Before the load: which programs, how large the maps, which constants. KeyError for a name it does not have."""
    found = {lib.bpf_program__name(at).decode(): at for at in _each(lib.bpf_object__next_program, handle)}
    if choice.programs is not None:
        unknown = sorted(set(choice.programs) - set(found))
        if unknown:
            raise KeyError(f"{choice.name} has no program {unknown[0]}")
        for program, at in found.items():
            libbpf.checked(lib.bpf_program__set_autoload(at, program in choice.programs))
    maps = {lib.bpf_map__name(at).decode(): at for at in _each(lib.bpf_object__next_map, handle)}
    for target, count in choice.max_entries.items():
        libbpf.checked(lib.bpf_map__set_max_entries(maps[target], count))
    if choice.constants is not None:
        rodata = [at for target, at in maps.items() if target.endswith(".rodata")]
        if not rodata:
            raise KeyError(f"{choice.name} has no .rodata")
        libbpf.checked(lib.bpf_map__set_initial_value(rodata[0], choice.constants, len(choice.constants)))


def _each(following: Any, handle: int) -> list[int]:
    found: list[int] = []
    at = following(handle, None)
    while at:
        found.append(at)
        at = following(handle, at)
    return found


def _failure(name: str, error: OSError, lines: list[str]) -> Missing:
    """Why it did not load. The verifier refuses with EACCES, EINVAL or E2BIG, which is no matter of privilege."""
    source = f"BPF object {name}"
    refused = any("BEGIN PROG LOAD LOG" in line for line in lines)
    told = " | ".join(_telling(lines))[-_DETAIL_CHARACTERS:]
    if refused and error.errno != errno.EPERM:
        return Missing(Reason.UNSUPPORTED, source, f"the kernel refuses the program: {told}")
    if error.errno in (errno.EPERM, errno.EACCES):
        return Missing(Reason.DENIED, source, f"loading needs CAP_BPF and CAP_PERFMON: {error.strerror}")
    if error.errno in _NOT_FOR_THIS_KERNEL or (error.errno or 0) >= _LIBBPF_ERRORS:
        return Missing(Reason.UNSUPPORTED, source, told or str(error.strerror))
    return missing_from_oserror(error, source)


def _telling(lines: list[str]) -> list[str]:
    """The last words of the verifier, or of libbpf when it did not come that far."""
    ends = [index for index, line in enumerate(lines) if "END PROG LOAD LOG" in line]
    body = lines[: ends[0]] if ends else lines
    said = [line.strip() for line in body if line.strip() and not line.startswith(("processed ", "verification time"))]
    return said[-3:]
