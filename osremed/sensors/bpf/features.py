"""What of BPF works here. Features are tried, never concluded from a kernel's version."""

from __future__ import annotations

import os

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors.bpf import libbpf
from osremed.sensors.procfs import PROC

BTF = "/sys/kernel/btf/vmlinux"
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39
#: include/uapi/linux/bpf.h. Tracing programs are left out: libbpf tries them with fentry, which may be refused where
#: tp_btf works; loading one tells.
PROGRAM_TYPES = {"tracepoint": 5, "perf_event": 7, "raw_tracepoint": 17}
MAP_TYPES = {"hash": 1, "array": 2, "percpu_hash": 5, "stack_trace": 7, "ringbuf": 27, "task_storage": 29}
HELPERS = {"get_current_task_btf": 158, "ringbuf_output": 130, "loop": 181, "task_pt_regs": 175}


@record
class Features:
    """What was tried and how it went. Names are those of PROGRAM_TYPES, MAP_TYPES and HELPERS (tried for a raw
    tracepoint program)."""

    libbpf_version: str
    program_types: frozenset[str]
    map_types: frozenset[str]
    helpers: frozenset[str]


def absent() -> Missing | None:
    """Why no object can be loaded here at all; None if nothing is known against it. Cheap."""
    if not os.path.exists(BTF):
        return Missing(Reason.UNSUPPORTED, BTF, "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
    if not _may_load():
        return Missing(Reason.DENIED, "bpf(2)", "needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN")
    return None


def features() -> Reading[Features]:
    """Tries each of the tables above; some milliseconds. Missing as for `absent`, and without libbpf."""
    missing = absent()
    if missing is not None:
        return missing
    library = libbpf.library()
    if isinstance(library, Missing):
        return library
    lib, raw_tracepoint = library.value, PROGRAM_TYPES["raw_tracepoint"]
    with libbpf.listening():
        programs = [name for name, kind in PROGRAM_TYPES.items() if lib.libbpf_probe_bpf_prog_type(kind, None) == 1]
        maps = [name for name, kind in MAP_TYPES.items() if lib.libbpf_probe_bpf_map_type(kind, None) == 1]
        helpers = [
            name for name, number in HELPERS.items() if lib.libbpf_probe_bpf_helper(raw_tracepoint, number, None) == 1
        ]
    version = lib.libbpf_version_string().decode()
    return Value(Features(version, frozenset(programs), frozenset(maps), frozenset(helpers)))


def _may_load(root: str = PROC) -> bool:
    """By the effective capabilities; inside a user namespace they may still not be enough, which the load will say."""
    try:
        with open(f"{root}/self/status", encoding="utf-8", errors="replace") as stream:
            effective = next((int(line.split()[1], 16) for line in stream if line.startswith("CapEff:")), 0)
    except OSError:
        return True
    held = {bit for bit in (_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF) if effective >> bit & 1}
    return _CAP_SYS_ADMIN in held or {_CAP_PERFMON, _CAP_BPF} <= held
