"""The words of a panorama. Every figure is a Reading: what could not be read is a gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.finding import Finding
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import field, record
from osremed.sensors.kernelmem import Segment

NODE = "node"
MOST_GROUPS = 100  #: rows of control groups
OPEN_FILES = "open and mapped files of the scope"

NOT_REACHED = Missing(Reason.NO_DATA, "smaps_rollup", "not among the largest")
_NOT_MEASURED = Missing(Reason.NO_DATA, "balance", "read once")


@record
class Part:
    """One piece of a line, by name. Parts are details of their line: they never enter the sum a second time."""

    name: str
    bytes: int


@record
class BalanceLine:
    """One part of the total. `kind` groups lines for drawing: anon, file, shmem, kernel, other, unaccounted, free.

    `note` says what else the line holds or leaves out; `overlap` how double counting with other lines is avoided;
    `error_bytes` how far the figure moved between two readings around the scan."""

    name: str
    kind: str
    bytes: Reading[int]
    source: str
    note: str = ""
    method: str = "kernel counter"
    overlap: str = ""
    error_bytes: Reading[int] = _NOT_MEASURED
    parts: tuple[Part, ...] = ()


@record
class Balance:
    """The known lines, the residual among them, sum to `total_bytes` exactly. The residual also holds lines that are
    Missing, and is negative when the kernel's counters overlap or lag."""

    total_bytes: int
    lines: tuple[BalanceLine, ...]

    @property
    def residual_bytes(self) -> int:
        return sum(
            line.bytes.value for line in self.lines if line.kind == "unaccounted" and isinstance(line.bytes, Value)
        )


@record
class ProcessRow:
    """`heap_bytes` = RssAnon + VmSwap: after a fork, pages count with every process that shares them. The `pss` figures
    divide shared pages among their sharers and are read for the largest processes; `private_bytes` is what comes back
    when this process alone ends. `container` names the container, machine or unit it runs in, if any."""

    pid: int
    start_time_ticks: int
    name: str
    heap_bytes: int
    anon_bytes: int
    swap_bytes: int
    file_bytes: Reading[int]
    shmem_bytes: Reading[int]
    cmdline: Reading[str]
    oom_score_adj: Reading[int]
    cgroup: Reading[str]
    page_table_bytes: Reading[int] = NOT_REACHED
    pss_bytes: Reading[int] = NOT_REACHED
    pss_anon_bytes: Reading[int] = NOT_REACHED
    private_bytes: Reading[int] = NOT_REACHED
    swap_pss_bytes: Reading[int] = NOT_REACHED
    container: str = ""


@record
class ContainerRow:
    """One control group with a name. `kind`: container, pod, machine, unit, slice, or group for one without a known
    owner. Pods and slices hold rows of their own below them: do not sum over kinds. `file_bytes` is without shmem."""

    name: str
    runtime: str
    kind: str
    id: str
    cgroup: str
    pod: str
    pod_uid: str
    namespace: str
    image: str
    usage_bytes: int
    anon_bytes: Reading[int]
    file_bytes: Reading[int]
    shmem_bytes: Reading[int]
    kernel_bytes: Reading[int]
    sock_bytes: Reading[int]
    limit_bytes: Reading[int]
    processes: int


@record
class GpuRow:
    """One GPU whose driver tells its size. `unnamed_bytes`: used, and held by no process the driver names."""

    gpu: str
    name: str
    total_bytes: Reading[int]
    used_bytes: Reading[int]
    unnamed_bytes: Reading[int]


@record
class VramRow:
    """What one process holds of one GPU's own memory. `regions`: bytes by region as a DRM driver calls them; those that
    are not on the device lie in RAM. `container` as for a process; `name` empty for a pid that is not seen here."""

    gpu: str
    pid: int
    start_time_ticks: int
    name: str
    container: str
    bytes: Reading[int]
    source: str
    regions: Mapping[str, int] = field(default_factory=dict)


@record
class DyingRow:
    """Memory still charged to groups that were removed below `parent`."""

    parent: str
    held_bytes: int
    count: Reading[int]


@record
class FileRow:
    """`path` is the host's own where `path_of_pid` is 0, else as that process sees it. `cached_bytes` count the whole
    file, whoever brought it in. `open_by_whole` false: not all processes could be asked, others may have it open."""

    path: str
    path_of_pid: int
    filesystem: str
    cached_bytes: int
    dirty_bytes: Reading[int]
    writeback_bytes: Reading[int]
    size_bytes: int
    deleted: bool
    open_by: tuple[int, ...]
    method: str
    open_by_whole: bool = True

    @property
    def leads_there(self) -> bool:
        """Whether the path is one by which this host can act on the file."""
        return not self.path_of_pid and self.path.startswith("/")


@record
class Gap:
    """`count` readings of this layer that failed alike; `missing` is the first of them."""

    layer: str
    missing: Missing
    count: int


@record
class Layer:
    """What one layer cost and gave. `finished` is false when it ran out of time."""

    name: str
    duration_s: float
    rows: int
    finished: bool


@record
class Totals:
    """Over all processes and files that were read, also those below the row limits."""

    processes: int
    heap_bytes: Reading[int]
    files: int
    cached_bytes: int
    groups: int = 0
    files_looked_at: str = OPEN_FILES


@record
class Grown:
    """One thing at two moments, `seconds` apart. `kind`: line, kernel (a slab cache or vmalloc caller), process, group
    or file; `key` tells it apart from others (pid and start time, path of the group)."""

    kind: str
    name: str
    key: str
    before_bytes: int
    after_bytes: int
    seconds: float

    @property
    def bytes(self) -> int:
        return self.after_bytes - self.before_bytes


@record
class Growth:
    """What changed in `seconds`, the fastest growing first. `source`: two scans, or the history. `watched`: (kind, key)
    of what was seen at both ends, so that it did not grow when it is in no row; it is not in the document."""

    seconds: float
    source: str
    rows: tuple[Grown, ...]
    watched: frozenset[tuple[str, str]] = frozenset()


@record
class Advice:
    """An action of the collection and its arguments; empty `action` when only a human can act (`how` says what)."""

    action: str
    arguments: Mapping[str, Any]
    how: str


@record
class Diagnosis:
    """`kind`: growing, stable, reclaimable or unknown. `gain_bytes` is what the advice would bring at most; it is
    Missing where nobody can tell."""

    finding: Finding
    kind: str
    held_bytes: int
    gain_bytes: Reading[int]
    advice: Advice


@record
class Cost:
    """What the diagnosis itself took: CPU of its process `pid`, its largest resident size, and wall time."""

    cpu_s: float
    wall_s: float
    peak_rss_bytes: int
    pid: int = 0


@record
class Panorama:
    """`scope`: `node` or the path of the control group. `drift_bytes`: how far usage moved while the scan ran.
    `gpus` and `vram`: a pool beside RAM. `heaps`: documents of the heap readers, one a process. `sockets`: protocol ->
    bytes of queued packets. `page_cache` and `invisible`: what the looks at all files and at the kernel's holdings say
    besides, as documents. `allocations`: the trace of page allocations, empty when there was none."""

    scope: str
    total_bytes: Reading[int]
    available_bytes: Reading[int]
    drift_bytes: Reading[int]
    swap_total_bytes: Reading[int]
    swap_used_bytes: Reading[int]
    balance: Reading[Balance]
    page_cache_bytes: Reading[int]
    processes: tuple[ProcessRow, ...]
    files: tuple[FileRow, ...]
    totals: Totals
    gaps: tuple[Gap, ...]
    layers: tuple[Layer, ...]
    containers: tuple[ContainerRow, ...] = ()
    dying: tuple[DyingRow, ...] = ()
    gpus: tuple[GpuRow, ...] = ()
    vram: tuple[VramRow, ...] = ()
    segments: tuple[Segment, ...] = ()
    sockets: Mapping[str, int] = field(default_factory=dict)
    heaps: tuple[Mapping[str, Any], ...] = ()
    page_cache: Mapping[str, Any] = field(default_factory=dict)
    invisible: Mapping[str, Any] = field(default_factory=dict)
    allocations: Mapping[str, Any] = field(default_factory=dict)
    growth: Growth | None = None
    findings: tuple[Diagnosis, ...] = ()
    cost: Cost | None = None
    taken_ns: int = 0
