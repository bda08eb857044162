"""Perf events to hang a program on: the CPU clock of one CPU, or another software event."""

from __future__ import annotations

import ctypes
import os
import struct

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors.bpf import libbpf
from osremed.sensors.procfs import number, read_parsed

_SYSCALLS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "s390x": 331, "ppc64le": 319}
_SOFTWARE = 1  # PERF_TYPE_SOFTWARE
CPU_CLOCK, TASK_CLOCK, PAGE_FAULTS, CONTEXT_SWITCHES = 0, 1, 2, 3  #: PERF_COUNT_SW_*
_FREQUENCY = 1 << 10  # perf_event_attr.freq
_CLOSE_ON_EXEC = 8  # PERF_FLAG_FD_CLOEXEC
#: struct perf_event_attr, version 1: type, size, config, period or frequency, sample_type, read_format, flags, wakeup,
#: bp_type, config1, config2
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQ")


def open_event(cpu: int, *, hz: int = 0, period: int = 0, event: int = CPU_CLOCK, pid: int = -1) -> Reading[int]:
    """The descriptor of a software event on one CPU: `hz` times a second, or every `period` counts.

    DENIED without CAP_PERFMON, UNSUPPORTED on an unknown machine, GONE for a CPU that is off."""
    if (hz > 0) == (period > 0):
        raise ValueError("give hz or period")
    number = _SYSCALLS.get(os.uname().machine)
    if number is None:
        return Missing(Reason.UNSUPPORTED, "perf_event_open", f"its number on {os.uname().machine} is not known here")
    flags = _FREQUENCY if hz else 0
    attributes = _ATTRIBUTES.pack(_SOFTWARE, _ATTRIBUTES.size, event, hz or period, 0, 0, flags, 0, 0, 0, 0)
    minus_one = ctypes.c_int(-1)
    try:
        return Value(
            libbpf.syscall(
                number, attributes, ctypes.c_int(pid), ctypes.c_int(cpu), minus_one, ctypes.c_ulong(_CLOSE_ON_EXEC)
            )
        )
    except OSError as error:
        return missing_from_oserror(error, f"perf event on CPU {cpu}")


def online_cpus(root: str = "/sys") -> Reading[list[int]]:
    return read_parsed(f"{root}/devices/system/cpu/online", parse_cpu_list, absent=Reason.UNSUPPORTED)


def parse_cpu_list(data: bytes) -> list[int]:
    """`0-3,8` -> [0, 1, 2, 3, 8]; ValueError for anything else."""
    found: list[int] = []
    for part in data.strip().split(b","):
        low, dash, high = part.partition(b"-")
        first, last = number(low), number(high if dash else low)
        if not first <= last < 1 << 16:
            raise ValueError(f"not a list of CPUs: {data[:80]!r}")
        found += range(first, last + 1)
    return found
