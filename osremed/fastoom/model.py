"""The guard's words. Frozen, without behaviour beyond arithmetic."""

from __future__ import annotations

from enum import IntEnum

from osremed.core.reading import Missing, Reading, Reason
from osremed.core.record import record


class Level(IntEnum):
    """How close a scope is to running out. The guard acts from MEDIUM on."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@record
class Scope:
    """The host (`cgroup` empty) or one memory control group, by its path below the hierarchy's mount point."""

    cgroup: str = ""

    @property
    def label(self) -> str:
        return self.cgroup or "node"


@record
class Thresholds:
    """Shares of the scope's limit (0..1), enter < leave <= target <= warn, and times in seconds."""

    warn_ratio: float
    enter_ratio: float
    leave_ratio: float
    target_ratio: float
    grace_s: float  #: SIGTERM, then SIGKILL after this; 0 is SIGKILL at once
    deadline_s: float  #: how long victims may take to go after SIGKILL before others are considered
    stall_ratio: float = 0.4  #: of the last second in which all tasks waited for memory: from here on it is thrashing
    stall_gate_ratio: float = 0.3  #: more available than this, and no stall counts
    floor_s: float = 0.02  #: shortest sleep between looks
    ceiling_s: float = 1.0  #: longest
    looks: int = 4  #: how often to look while the fastest fill takes all the room

    @property
    def high_ratio(self) -> float:
        return self.enter_ratio / 2


@record
class Stall:
    """What the last half second or more was like: the share of it in which every task waited for memory (PSI full; None
    when the kernel has no PSI), bytes a second that were reclaimed before and had to come back, and bytes a second that
    the host's reclaim looked at and that it could take (0 for a group). `lasting_ratio`: the share of the last ten
    seconds; None before there were so many."""

    full_ratio: float | None
    refault_bytes_per_s: float
    file_lru_bytes: int
    scan_bytes_per_s: float = 0.0
    reclaim_bytes_per_s: float = 0.0
    lasting_ratio: float | None = None


NOT_ASKED = Missing(Reason.NO_DATA, "pressure", "not asked: memory is plentiful, or a first look")


@record
class Signals:
    """One measurement of a scope. `limit_bytes` of the node is available + anonymous memory, all that programs could
    have, so that tmpfs and huge pages cannot put a percentage out of reach. `missing` names what could not be read.
    `anon_bytes` is 0 when the source does not tell it. `grown_bytes`: by how much anonymous memory and swap in use are
    above their least within the last half minute; None for a group, and while that is not watched. `crept_bytes`: above
    their least when processes were last looked at, however long ago."""

    limit_bytes: int
    available_bytes: int
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    missing: tuple[str, ...] = ()
    stall: Stall | Missing = NOT_ASKED
    anon_bytes: int = 0
    grown_bytes: int | None = None
    crept_bytes: int = 0

    @property
    def available_ratio(self) -> float:
        return self.available_bytes / self.limit_bytes

    @property
    def headroom_ratio(self) -> float:
        """What decides: the larger of memory's and swap's free share. Without swap, memory alone."""
        if not self.swap_total_bytes:
            return self.available_ratio
        return max(self.available_ratio, self.swap_free_bytes / self.swap_total_bytes)


UNREAD = Missing(Reason.NO_DATA, "process", "no rule asks for it")


@record
class Process:
    """`heap_bytes` = RssAnon + VmSwap. `name` is comm. A Missing `argv` is not an empty one. `exe` is what
    /proc/<pid>/exe points to, `cgroup` the path in the memory hierarchy; both are read only when a rule asks."""

    pid: int
    start_time_ticks: int
    name: str
    argv: Reading[tuple[str, ...]]
    oom_score_adj: int
    heap_bytes: int
    kernel_thread: bool = False
    uid: int = 0
    exe: Reading[str] = UNREAD
    cgroup: Reading[str] = UNREAD

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start_time_ticks


@record
class Candidate:
    """`tier`: 0 kernel policy, 1 preferred, 2 by heap, 3 avoided. `why` says it in words."""

    process: Process
    tier: int
    why: str


@record
class Spared:
    """Somebody who lives, and why."""

    pid: int
    name: str
    why: str
    heap_bytes: int = 0


@record
class Ranking:
    """`candidates` in the order of dying."""

    candidates: tuple[Candidate, ...]
    spared: tuple[Spared, ...]


@record
class Scan:
    """Processes of a scope with their details; `small_bytes` is the heap of those below the floor together, `missing`
    names gaps, `passed` are pids that were passed over because they were small last time."""

    processes: tuple[Process, ...]
    small_bytes: int = 0
    missing: tuple[str, ...] = ()
    passed: tuple[int, ...] = ()


@record
class Plan:
    """`expected_bytes`: heap of the victims together."""

    victims: tuple[Candidate, ...]
    deficit_bytes: int
    expected_bytes: int

    @property
    def covers(self) -> bool:
        return self.expected_bytes >= self.deficit_bytes


@record
class Killed:
    """`freed`: it was gone by the deadline."""

    candidate: Candidate
    freed: bool


@record
class Intervention:
    """One decision and what came of it. Times are wall clock nanoseconds, 0 where it did not come to that."""

    scope: Scope
    level: Level
    action: str
    signals: Signals
    target_bytes: int
    deficit_bytes: int
    killed: tuple[Killed, ...] = ()
    spared: tuple[Spared, ...] = ()
    available_after_bytes: int | Missing = 0
    crossed_ns: int = 0
    decided_ns: int = 0
    signalled_ns: int = 0
    freed_ns: int = 0
    missing: tuple[str, ...] = ()
