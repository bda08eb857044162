"""A loaded program: how it is attached, run, read as an iterator, and what it has cost so far."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.bpf import libbpf

_COUNTER = re.compile(rb"^(run_time_ns|run_cnt|recursion_misses):\s*([0-9]{1,20})$", re.MULTILINE)
_STATS_RUN_TIME = 0  # BPF_STATS_RUN_TIME


@record
class Cost:
    """Since the program was loaded, while run statistics were on (see `measuring`)."""

    run_time_ns: int
    runs: int
    missed_runs: int


@record
class Link:
    """One attachment of a program; `detach` ends it before the object is closed."""

    program: Program
    handle: int

    def detach(self) -> None:
        self.program.detach_link(self.handle)


class Program:
    def __init__(self, library: Any, handle: int) -> None:
        self._library, self._handle = library, handle
        self._links: list[int] = []
        self.name: str = library.bpf_program__name(handle).decode()
        self.section: str = library.bpf_program__section_name(handle).decode()

    @property
    def fd(self) -> int:
        """Negative when it was not loaded."""
        fd: int = self._library.bpf_program__fd(self._handle)
        return fd

    # --- attaching: Missing where the kernel has not got it, or does not let us ----------------------------------

    def attach(self) -> Reading[Link]:
        """As its section says: tp_btf/NAME, raw_tp/NAME, tp/CATEGORY/NAME, uprobe/PATH:FUNCTION …"""
        return self._link(self.section, lambda: self._library.bpf_program__attach(self._handle))

    def attach_tracepoint(self, category: str, name: str) -> Reading[Link]:
        """Needs a mounted tracefs. On any syscalls tracepoint every task pays for every call, see the README."""
        return self._link(
            f"tracepoint {category}:{name}",
            lambda: self._library.bpf_program__attach_tracepoint(self._handle, category.encode(), name.encode()),
        )

    def attach_raw_tracepoint(self, name: str) -> Reading[Link]:
        return self._link(
            f"raw tracepoint {name}",
            lambda: self._library.bpf_program__attach_raw_tracepoint(self._handle, name.encode()),
        )

    def attach_perf_event(self, fd: int) -> Reading[Link]:
        """`fd` of perf.open_event; closed with the link, or here when this fails."""
        linked = self._link("perf event", lambda: self._library.bpf_program__attach_perf_event(self._handle, fd))
        if isinstance(linked, Missing):
            os.close(fd)
        return linked

    def attach_uprobe(
        self, path: str, offset: int, *, pid: int = -1, at_return: bool = False, cookie: int = 0
    ) -> Reading[Link]:
        """`offset` in the file; `pid` -1 for all processes. The program sees `cookie` (Linux 5.15). Costs the probed
        call about 1 us."""
        options = libbpf.UprobeOptions(sz=ctypes.sizeof(libbpf.UprobeOptions), bpf_cookie=cookie, retprobe=at_return)
        return self._link(
            f"uprobe {path}+{offset:#x}",
            lambda: self._library.bpf_program__attach_uprobe_opts(
                self._handle, pid, os.fsencode(path), ctypes.c_size_t(offset), ctypes.byref(options)
            ),
        )

    def _link(self, what: str, attach: Callable[[], int | None]) -> Reading[Link]:
        with libbpf.listening() as lines:
            handle = attach()
            error = libbpf.error_of(None)
        if handle:
            self._links.append(handle)
            return Value(Link(self, handle))
        missing = missing_from_oserror(error, f"{self.name} at {what}", absent=Reason.UNSUPPORTED)
        said = lines[-1].strip() if lines else ""
        return Missing(missing.reason, missing.source, said or missing.detail)

    def detach_link(self, handle: int) -> None:
        if handle in self._links:
            self._links.remove(handle)
            self._library.bpf_link__destroy(handle)

    def detach(self) -> None:
        """Ends all its attachments."""
        for handle in list(self._links):
            self.detach_link(handle)

    # --- running -------------------------------------------------------------------------------------------------

    def run(self, *arguments: int) -> int:
        """Runs a raw_tp program once, here and now, with up to 12 arguments of 64 bits; its result.

        The CPU does nothing else until it returns. OSError as the kernel gives it."""
        context = struct.pack(f"={len(arguments)}Q", *arguments)
        options = libbpf.TestRunOptions(sz=ctypes.sizeof(libbpf.TestRunOptions))
        buffer = ctypes.create_string_buffer(context, max(len(context), 1))
        options.ctx_in = ctypes.cast(buffer, ctypes.c_void_p).value
        options.ctx_size_in = len(context)
        libbpf.checked(self._library.bpf_prog_test_run_opts(self.fd, ctypes.byref(options)))
        result: int = options.retval
        return result

    def read(self, link_info: bytes = b"") -> Reading[bytes]:
        """All that an iterator program writes, in one walk. `link_info`: union bpf_iter_link_info."""
        options = libbpf.IterOptions(sz=ctypes.sizeof(libbpf.IterOptions))
        buffer = ctypes.create_string_buffer(link_info, max(len(link_info), 1))
        if link_info:
            options.link_info = ctypes.cast(buffer, ctypes.c_void_p).value
            options.link_info_len = len(link_info)
        linked = self._link(
            self.section, lambda: self._library.bpf_program__attach_iter(self._handle, ctypes.byref(options))
        )
        if isinstance(linked, Missing):
            return linked
        try:
            return Value(_read_all(self._iterate(linked.value)))
        except OSError as error:
            return missing_from_oserror(error, self.section)
        finally:
            linked.value.detach()

    def _iterate(self, link: Link) -> int:
        link_fd = libbpf.checked(self._library.bpf_link__fd(link.handle))
        return libbpf.checked(self._library.bpf_iter_create(link_fd))

    # --- cost ----------------------------------------------------------------------------------------------------

    def cost(self) -> Reading[Cost]:
        path = f"/proc/self/fdinfo/{self.fd}"
        try:
            with open(path, "rb") as stream:
                return Value(parse_cost(stream.read()))
        except OSError as error:
            return missing_from_oserror(error, path)
        except ValueError as error:
            return Missing(Reason.UNSUPPORTED, path, str(error))


def parse_cost(data: bytes) -> Cost:
    """The fdinfo of a program: run_time_ns and run_cnt since Linux 5.1, recursion_misses since 5.12 (else 0 there)."""
    found = {key: int(value) for key, value in _COUNTER.findall(data)}
    if b"run_time_ns" not in found or b"run_cnt" not in found:
        raise ValueError("this kernel keeps no run statistics of BPF programs")
    return Cost(found[b"run_time_ns"], found[b"run_cnt"], found.get(b"recursion_misses", 0))


class measuring:  # noqa: N801  a context: with measuring(): ...
    """Run statistics are on for all BPF programs of the host as long as this is open (Linux 5.8; about 40 ns a run).

    OSError when it cannot be opened."""

    def __init__(self) -> None:
        library = libbpf.library()
        if isinstance(library, Missing):
            raise OSError(0, str(library))
        self._fd = libbpf.checked(library.value.bpf_enable_stats(_STATS_RUN_TIME))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> measuring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_all(fd: int) -> bytes:
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
