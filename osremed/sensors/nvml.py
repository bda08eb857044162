"""NVML through ctypes: one GPU's figures, each a Reading; the driver's events; who computes on which GPU.

libnvidia-ml.so.1 comes with the driver. A call may hang in the driver for ever: callers are processes of their own
(`timeline.probing`), never the daemon itself. Layouts follow nvml.h of driver 610; where a versioned call is not there
the plain one is tried. The binding is held against nvidia-ml-py in `tests/unit/timeline`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record

LIBRARY = "libnvidia-ml.so.1"
EVENT_XID = 0x8
COMPUTING, DRAWING = "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"
GPU_LOST = "NVML 15"  #: how the detail of a Missing begins when the driver says that the GPU is lost
_INSUFFICIENT_SIZE = 7
_FALL_BACK = (13, 25)  #: function not found, argument version mismatch
_WHOLE_GPU = 0xFFFFFFFF
_TEXT_BYTES = 96
_LINKS = tuple(ctypes.c_uint(link) for link in range(18))
_REASONS: Mapping[int, tuple[Reason, str]] = {
    1: (Reason.NO_DATA, "not initialised"),
    3: (Reason.UNSUPPORTED, "not supported"),
    4: (Reason.DENIED, "no permission"),
    6: (Reason.GONE, "not found"),
    9: (Reason.GONE, "driver not loaded"),
    10: (Reason.TIMED_OUT, "timeout"),
    12: (Reason.UNSUPPORTED, "library not found"),
    13: (Reason.UNSUPPORTED, "function not found"),
    15: (Reason.GONE, "GPU is lost"),
    16: (Reason.NO_DATA, "GPU requires a reset"),
    18: (Reason.UNSUPPORTED, "library and driver versions differ"),
    21: (Reason.NO_DATA, "no data"),
    25: (Reason.UNSUPPORTED, "argument version mismatch"),
}
#: Codes after which only a new process with a newly loaded library can answer.
STALE_CODES = (1, 9, 15, 18)


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _MemoryV2(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Temperature(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint), ("sensor", ctypes.c_uint), ("temperature", ctypes.c_int)]


class _Margin(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint), ("margin", ctypes.c_int)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gi", ctypes.c_uint),
        ("ci", ctypes.c_uint),
    ]


class _FieldNumber(ctypes.Union):
    _fields_ = [
        ("double", ctypes.c_double),
        ("uint", ctypes.c_uint),
        ("ulong", ctypes.c_ulong),
        ("ulonglong", ctypes.c_ulonglong),
        ("longlong", ctypes.c_longlong),
        ("int", ctypes.c_int),
        ("ushort", ctypes.c_ushort),
    ]


class _Field(ctypes.Structure):
    _fields_ = [
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency_us", ctypes.c_longlong),
        ("kind", ctypes.c_uint),
        ("code", ctypes.c_uint),
        ("value", _FieldNumber),
    ]


class _Pci(ctypes.Structure):
    _fields_ = [
        ("legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    ]


class _Event(ctypes.Structure):
    _fields_ = [
        ("device", ctypes.c_void_p),
        ("type", ctypes.c_ulonglong),
        ("data", ctypes.c_ulonglong),
        ("gi", ctypes.c_uint),
        ("ci", ctypes.c_uint),
    ]


_FIELD_KIND = ("double", "uint", "ulong", "ulonglong", "longlong", "int", "ushort")
#: nvmlDeviceGetFieldValues: field -> metric. 38, 52, 59 sum all links; 230 since driver 570.
_FIELDS: Mapping[int, str] = {
    38: "nvlink_crc_count",
    52: "nvlink_replay_count",
    59: "nvlink_recovery_count",
    230: "recovery_action",
}


class NvmlError(Exception):
    def __init__(self, code: int, source: str) -> None:
        super().__init__(f"NVML {code} from {source}")
        self.code, self.source = code, source

    def as_missing(self) -> Missing:
        reason, words = _REASONS.get(self.code, (Reason.NO_DATA, "unknown error"))
        return Missing(reason, self.source, f"NVML {self.code}: {words}")


@record
class GpuProcess:
    """Host pids: the reader must be in the host's pid namespace. `used_bytes` Missing where the driver does not tell
    (-1). `mig` is (GPU instance, compute instance), None for the whole GPU."""

    pid: int
    used_bytes: Reading[int]
    mig: tuple[int, int] | None


@record
class Identity:
    """`bdf` is the kernel log's spelling, `0000:18:00`."""

    index: int
    uuid: str
    name: str
    bdf: str


@record
class Snapshot:
    """`metrics`: name with unit -> Reading, every name of METRICS always there."""

    identity: Identity
    metrics: Mapping[str, Reading[int]]
    processes: Reading[tuple[GpuProcess, ...]]


@record
class DriverEvent:
    index: int
    type: int
    data: int
    mig: tuple[int, int] | None


def _not_found(*_arguments: Any) -> int:
    return 13


class Nvml:
    """The library, initialised. Methods raise NvmlError with the driver's code."""

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError:
            raise NvmlError(12, path) from None
        self.fixed: dict[tuple[str, int | None], int] = {}  #: by metric and device
        self._functions: dict[str, Callable[..., int]] = {}  #: CDLL makes a new one each time it is asked
        self.call("nvmlInitWithFlags", ctypes.c_uint(0))

    def call(self, name: str, *arguments: Any) -> None:
        code = self.code(name, *arguments)
        if code:
            raise NvmlError(code, name)

    def code(self, name: str, *arguments: Any) -> int:
        function = self._functions.get(name) or self._function(name)
        return function(*arguments)

    def _function(self, name: str) -> Callable[..., int]:
        try:
            function: Callable[..., int] = self._library[name]
        except AttributeError:
            function = _not_found
        self._functions[name] = function
        return function

    def unsigned(self, name: str, *arguments: Any) -> int:
        out = ctypes.c_uint()
        self.call(name, *arguments, ctypes.byref(out))
        return out.value

    def text(self, name: str, *arguments: Any) -> str:
        out = ctypes.create_string_buffer(_TEXT_BYTES)
        self.call(name, *arguments, out, ctypes.c_uint(_TEXT_BYTES))
        return out.value.decode("utf-8", "backslashreplace")

    def count(self) -> int:
        return self.unsigned("nvmlDeviceGetCount_v2")

    def driver_version(self) -> str:
        return self.text("nvmlSystemGetDriverVersion")

    def device(self, index: int) -> ctypes.c_void_p:
        out = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(out))
        return out

    def identity(self, index: int, device: ctypes.c_void_p) -> Identity:
        pci = _Pci()
        self.call("nvmlDeviceGetPciInfo_v3", device, ctypes.byref(pci))
        bdf = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}"
        return Identity(index, self.text("nvmlDeviceGetUUID", device), self.text("nvmlDeviceGetName", device), bdf)


def memory(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    """Bytes of the whole device: total, free, used. NvmlError as the driver says."""
    v2 = _MemoryV2(version=ctypes.sizeof(_MemoryV2) | 2 << 24)
    code = nvml.code("nvmlDeviceGetMemoryInfo_v2", device, ctypes.byref(v2))
    found: Any = v2
    if code in _FALL_BACK:
        found = _Memory()
        code = nvml.code("nvmlDeviceGetMemoryInfo", device, ctypes.byref(found))
    if code:
        raise NvmlError(code, "nvmlDeviceGetMemoryInfo")
    return {"vram_total_bytes": found.total, "vram_free_bytes": found.free, "vram_used_bytes": found.used}


def _utilization(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    out = _Utilization()
    nvml.call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(out))
    return {"sm_util_percent": out.gpu, "memory_util_percent": out.memory}


def _temperature(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    out = _Temperature(version=ctypes.sizeof(_Temperature) | 1 << 24, sensor=0)
    code = nvml.code("nvmlDeviceGetTemperatureV", device, ctypes.byref(out))
    if code in _FALL_BACK:
        return {"temperature_celsius": nvml.unsigned("nvmlDeviceGetTemperature", device, ctypes.c_uint(0))}
    if code:
        raise NvmlError(code, "nvmlDeviceGetTemperatureV")
    return {"temperature_celsius": out.temperature}


def _margin(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    out = _Margin(version=ctypes.sizeof(_Margin) | 1 << 24)
    nvml.call("nvmlDeviceGetMarginTemperature", device, ctypes.byref(out))
    return {"temperature_margin_celsius": out.margin}


def _ecc(kind: int, metric: str) -> Callable[[Nvml, ctypes.c_void_p], dict[str, int]]:
    def read(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
        out = ctypes.c_ulonglong()
        aggregate = ctypes.c_uint(1)
        nvml.call("nvmlDeviceGetTotalEccErrors", device, ctypes.c_uint(kind), aggregate, ctypes.byref(out))
        return {metric: out.value}

    return read


def _rows(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    out = [ctypes.c_uint() for _ in range(4)]
    nvml.call("nvmlDeviceGetRemappedRows", device, *(ctypes.byref(each) for each in out))
    names = ("remapped_corrected_rows", "remapped_uncorrected_rows", "remap_pending", "remap_failed")
    return {name: each.value for name, each in zip(names, out)}


def _clock_reasons(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    out = ctypes.c_ulonglong()
    code = nvml.code("nvmlDeviceGetCurrentClocksEventReasons", device, ctypes.byref(out))
    if code in _FALL_BACK:  # its name before driver 535
        nvml.call("nvmlDeviceGetCurrentClocksThrottleReasons", device, ctypes.byref(out))
    elif code:
        raise NvmlError(code, "nvmlDeviceGetCurrentClocksEventReasons")
    return {"clock_reasons_mask": out.value}


def _nvlinks(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    """Links whose state is up. The first link the GPU does not have ends the count: the error of link 0 is the GPU's
    own."""
    active, out = 0, ctypes.c_uint()
    place = ctypes.byref(out)
    for link in _LINKS:
        code = nvml.code("nvmlDeviceGetNvLinkState", device, link, place)
        if code and link is _LINKS[0]:
            raise NvmlError(code, "nvmlDeviceGetNvLinkState")
        if code:
            break
        active += out.value == 1
    return {"nvlink_active_links": active}


def _mig(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    nvml.call("nvmlDeviceGetMigMode", device, ctypes.byref(current), ctypes.byref(pending))
    return {"mig_enabled": current.value}


def _plain(name: str, metric: str, *before: Any) -> Callable[[Nvml, ctypes.c_void_p], dict[str, int]]:
    return lambda nvml, device: {metric: nvml.unsigned(name, device, *before)}


def _once(name: str, metric: str, *before: Any) -> Callable[[Nvml, ctypes.c_void_p], dict[str, int]]:
    """What a GPU is built with: read by a process once."""

    def read(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, int]:
        key = (metric, device.value)
        if key not in nvml.fixed:
            nvml.fixed[key] = nvml.unsigned(name, device, *before)
        return {metric: nvml.fixed[key]}

    return read


#: (metrics, how they are read): a reader fills all of its metrics or none.
_READERS: tuple[tuple[tuple[str, ...], Callable[[Nvml, ctypes.c_void_p], dict[str, int]]], ...] = (
    (("vram_total_bytes", "vram_free_bytes", "vram_used_bytes"), memory),
    (("sm_util_percent", "memory_util_percent"), _utilization),
    (("temperature_celsius",), _temperature),
    (("temperature_margin_celsius",), _margin),
    (("power_milliwatts",), _plain("nvmlDeviceGetPowerUsage", "power_milliwatts")),
    (("power_limit_milliwatts",), _plain("nvmlDeviceGetEnforcedPowerLimit", "power_limit_milliwatts")),
    (("sm_clock_mhz",), _plain("nvmlDeviceGetClockInfo", "sm_clock_mhz", ctypes.c_uint(1))),
    (("sm_clock_max_mhz",), _once("nvmlDeviceGetMaxClockInfo", "sm_clock_max_mhz", ctypes.c_uint(1))),
    (("clock_reasons_mask",), _clock_reasons),
    (("ecc_corrected_count",), _ecc(0, "ecc_corrected_count")),
    (("ecc_uncorrected_count",), _ecc(1, "ecc_uncorrected_count")),
    (("remapped_corrected_rows", "remapped_uncorrected_rows", "remap_pending", "remap_failed"), _rows),
    (("pcie_generation",), _plain("nvmlDeviceGetCurrPcieLinkGeneration", "pcie_generation")),
    (("pcie_width",), _plain("nvmlDeviceGetCurrPcieLinkWidth", "pcie_width")),
    (("pcie_width_max",), _once("nvmlDeviceGetMaxPcieLinkWidth", "pcie_width_max")),
    (("pcie_replay_count",), _plain("nvmlDeviceGetPcieReplayCounter", "pcie_replay_count")),
    (("nvlink_active_links",), _nvlinks),
    (("mig_enabled",), _mig),
)
METRICS: tuple[str, ...] = tuple(name for names, _ in _READERS for name in names) + tuple(_FIELDS.values())


def snapshot(nvml: Nvml, identity: Identity, device: ctypes.c_void_p) -> Snapshot:
    """Every metric, read or Missing with the driver's code; about 20 calls into the driver."""
    metrics: dict[str, Reading[int]] = {}
    for names, read in _READERS:
        try:
            metrics.update({name: Value(number) for name, number in read(nvml, device).items()})
        except NvmlError as error:
            metrics.update(dict.fromkeys(names, error.as_missing()))
    metrics.update(_fields(nvml, device))
    return Snapshot(identity, metrics, processes(nvml, device))


def _fields(nvml: Nvml, device: ctypes.c_void_p) -> dict[str, Reading[int]]:
    asked = (_Field * len(_FIELDS))()
    for slot, number in zip(asked, _FIELDS):
        slot.field = number
    code = nvml.code("nvmlDeviceGetFieldValues", device, ctypes.c_int(len(_FIELDS)), asked)
    if code:
        return dict.fromkeys(_FIELDS.values(), NvmlError(code, "nvmlDeviceGetFieldValues").as_missing())
    return {name: _field(slot) for slot, name in zip(asked, _FIELDS.values())}


def _field(slot: _Field) -> Reading[int]:
    source = f"nvmlDeviceGetFieldValues({slot.field})"
    if slot.code:
        return NvmlError(slot.code, source).as_missing()
    if slot.kind >= len(_FIELD_KIND):
        return Missing(Reason.MALFORMED, source, f"value type {slot.kind}")
    return Value(int(getattr(slot.value, _FIELD_KIND[slot.kind])))


def processes(nvml: Nvml, device: ctypes.c_void_p, name: str = COMPUTING) -> Reading[tuple[GpuProcess, ...]]:
    """Who holds memory of the GPU to compute, or to draw (`name` DRAWING). UNSUPPORTED before driver 510."""
    count = ctypes.c_uint(0)
    code = nvml.code(name, device, ctypes.byref(count), None)
    if code == 0:
        return Value(())
    for _ in range(3):  # processes may start between the two calls
        if code != _INSUFFICIENT_SIZE:
            return NvmlError(code, name).as_missing()
        count.value = min(count.value * 2 + 5, 65536)
        table = (_Process * count.value)()
        code = nvml.code(name, device, ctypes.byref(count), table)
        if code == 0:
            return Value(tuple(_process(each) for each in table[: count.value]))
    return NvmlError(code, name).as_missing()


def _process(each: _Process) -> GpuProcess:
    told = each.used != (1 << 64) - 1
    used: Reading[int] = Value(each.used) if told else Missing(Reason.NO_DATA, "usedGpuMemory", "not told")
    return GpuProcess(each.pid, used, mig_of(each.gi, each.ci))


def mig_of(gi: int, ci: int) -> tuple[int, int] | None:
    return None if gi == _WHOLE_GPU else (gi, ci)


class EventSet:
    """XID events of all GPUs but the `missed`, whose registration failed, as a lost one's does (15). NvmlError when the
    driver has no events (3), or none is left."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._set = ctypes.c_void_p()
        self._index: dict[int | None, int] = {}
        self.missed: dict[int, NvmlError] = {}
        nvml.call("nvmlEventSetCreate", ctypes.byref(self._set))
        for index in range(nvml.count()):
            try:
                device = nvml.device(index)
                nvml.call("nvmlDeviceRegisterEvents", device, ctypes.c_ulonglong(EVENT_XID), self._set)
                self._index[device.value] = index
            except NvmlError as error:
                self.missed[index] = error
        if self.missed and not self._index:
            raise next(iter(self.missed.values()))

    @property
    def followed(self) -> int:
        return len(self._index)

    def wait(self, timeout_ms: int) -> DriverEvent | None:
        """The next event; None when none came in time."""
        out = _Event()
        code = self._nvml.code("nvmlEventSetWait_v2", self._set, ctypes.byref(out), ctypes.c_uint(timeout_ms))
        if code == 10:
            return None
        if code:
            raise NvmlError(code, "nvmlEventSetWait_v2")
        return DriverEvent(self._index.get(out.device, -1), out.type, out.data, mig_of(out.gi, out.ci))
