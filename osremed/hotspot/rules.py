"""The built-in rules. Thresholds stand beside the rule they belong to; each says what it cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from osremed.core.finding import Finding
from osremed.core.reading import Value
from osremed.core.units import format_bytes
from osremed.hotspot.model import (
    CALLS,
    INTERPRETER_LOCK,
    SWITCHES,
    TIME,
    WAITS,
    CallRate,
    Profile,
    Sample,
    call_text,
    of_state,
)
from osremed.hotspot.traps import Rule, Trap, common_place, grouped, has_frame, seconds

_PROC_READ = frozenset({"proc_reg_read", "proc_reg_read_iter", "seq_read", "seq_read_iter", "proc_single_show",
                        "sysfs_kf_seq_show", "kernfs_seq_show"})  # fmt: skip
_PROC_SHOW = ("_seq_show", "_proc_show")
_FAULTS = frozenset({"asm_exc_page_fault", "exc_page_fault", "handle_mm_fault", "do_user_addr_fault"})
_RECLAIM = frozenset({"try_to_free_pages", "do_try_to_free_pages", "try_to_free_mem_cgroup_pages", "shrink_node"})
_DISK_WAIT = frozenset({"io_schedule", "folio_wait_bit_common", "wait_on_page_bit_common", "blk_mq_get_tag",
                        "jbd2_log_wait_commit", "submit_bio_wait", "rq_qos_wait"})  # fmt: skip
_GIL = frozenset({"take_gil"})
_FSYNC = frozenset({"fsync", "fdatasync", "msync", "sync", "syncfs", "sync_file_range"})
_CACHE_S = 1.0
_SHORT_WAIT_NS = 300_000_000


def proc_reads(profile: Profile) -> Iterable[Trap]:
    """Reading /proc or /sys often: kernel time in seq_file handlers. 3 % of a process's CPU and 0.2 % of a core."""
    cpu = of_state(profile, "cpu")
    for who, samples in grouped(cpu).items():
        inside = [each for each in samples if has_frame(each, "kernel", _PROC_READ, _PROC_SHOW)]
        share, cores = seconds(inside) / max(seconds(samples), 1e-9), seconds(inside) / profile.duration_s
        if len(inside) < 3 or share < 0.03 or cores < 0.002:
            continue
        pid = inside[0].pid
        opened = [row for row in profile.open_rates if row.pid == pid and row.path.startswith(("/proc", "/sys"))]
        rate = sum(row.per_s for row in opened)
        paths = ", ".join(dict.fromkeys(row.path for row in opened[:3])) or "paths not seen yet"
        saved = share * (1 - min(1.0, 1 / (rate * _CACHE_S))) if rate else share
        summary = f"{who} spends {100 * share:.0f} % of its CPU reading {paths}"
        if rate:
            summary += f", about {rate:.0f} opens/s"
        gain = (
            f"up to {100 * saved:.0f} % of its CPU ({cores * saved / share:.2f} cores) when cached for {_CACHE_S:g} s"
        )
        finding = Finding("frequent-proc-reads", summary, 0.9 if rate else 0.7, ("hotspot",), gain)
        figures = {"cpu_share": share, "cores": cores, "opens_per_s": rate}
        yield Trap(
            finding, who, common_place(inside), figures, f"read it once in {_CACHE_S:g} s and keep the result", pid
        )


def lock_contention(profile: Profile) -> Iterable[Trap]:
    """Threads of one process that wait again and again, shortly, at one futex. A pool that idles waits long, so waits
    above 300 ms do not count, nor those of a Python pool for its next task; another condition that is signalled often
    looks the same."""
    futexes = [each for each in of_state(profile, "off") if each.syscall == "futex"]
    waits = [each for each in futexes if not _gil_wait(each) and not _waits_for_a_task(each)]
    for (_pid, address), samples in grouped(waits, lambda each: (each.pid, each.argument)).items():
        short = [each for each in samples if each.wait_ns < _SHORT_WAIT_NS]
        waited = seconds(short) / profile.duration_s
        threads = {each.tid for each in short}
        if waited < 0.1 or len(short) < 5 or len(threads) < 2:
            continue
        first = short[0]
        running = [each for each in of_state(profile, "cpu") if each.pid == first.pid]
        holder = common_place(running)
        who = call_text(first)
        summary = f"{len(threads)} threads of {who} wait {waited:.2f} s/s for the lock at {address:#x}"
        if holder:
            summary += f"; meanwhile it runs {holder}"
        gain = f"up to {waited:.2f} s/s of waiting"
        finding = Finding("lock-contention", summary, 0.7, ("hotspot",), gain)
        figures = {"waited_s_per_s": waited, "threads": len(threads), "samples": len(short)}
        yield Trap(
            finding, who, common_place(short), figures, "hold it shorter, split it, or let one thread own the data",
            first.pid,
        )  # fmt: skip


def _gil_wait(sample: Sample) -> bool:
    return sample.stack[-1] == INTERPRETER_LOCK or has_frame(sample, "native", _GIL)


def _waits_for_a_task(sample: Sample) -> bool:
    """A worker of concurrent.futures in its queue, which is a lock in C that all workers of the pool share."""
    inmost = next((frame for frame in reversed(sample.stack) if frame.kind == "python"), None)
    return inmost is not None and inmost.name == "_worker" and inmost.file.endswith("concurrent/futures/thread.py")


def gil_waits(profile: Profile) -> Iterable[Trap]:
    """Python threads that wait for the interpreter lock: at a futex in CPython's own state, or in take_gil."""
    waits = [each for each in of_state(profile, "off") if _gil_wait(each)]
    for who, samples in grouped(waits).items():
        waited = seconds(samples) / profile.duration_s
        if waited < 0.1 or len(samples) < 5:
            continue
        threads = len({each.tid for each in samples})
        summary = f"{threads} Python threads of {who} wait {waited:.2f} s/s for the interpreter lock"
        finding = Finding("gil-waits", summary, 0.85, ("hotspot",), f"up to {waited:.2f} s/s of waiting")
        fix = "use processes, or move the computing into code that releases the lock"
        yield Trap(finding, who, common_place(samples), {"waited_s_per_s": waited, "threads": threads}, fix,
                   samples[0].pid)  # fmt: skip


def blocking_io(profile: Profile) -> Iterable[Trap]:
    """Threads that wait for a disk in a process that also computes."""
    waits = [each for each in of_state(profile, "off") if has_frame(each, "kernel", _DISK_WAIT)]
    busy = {who: seconds(samples) for who, samples in grouped(of_state(profile, "cpu")).items()}
    for who, samples in grouped(waits).items():
        waited = seconds(samples) / profile.duration_s
        if waited < 0.1 or len(samples) < 5 or busy.get(who, 0.0) / profile.duration_s < 0.02:
            continue
        calls = sorted({each.syscall or "a page fault" for each in samples})
        summary = f"{who} waits {waited:.2f} s/s for a disk, in {', '.join(calls[:3])}"
        finding = Finding("blocking-io", summary, 0.7, ("hotspot",), f"up to {waited:.2f} s/s of waiting")
        fix = "read ahead, write behind, or give it a thread of its own"
        yield Trap(finding, who, common_place(samples), {"waited_s_per_s": waited}, fix, samples[0].pid)


class _Rate(NamedTuple):
    """A trap that shows in the rate of calls alone; `most_bytes` 0: their size does not matter."""

    name: str
    calls: frozenset[str]
    least_per_s: float
    most_bytes: float
    words: str
    fix: str


_RATES = (
    _Rate("spin", frozenset({"sched_yield"}), 1000, 0, "yields the CPU", "wait on a futex or a condition"),
    _Rate("timer-storm", frozenset({"nanosleep", "clock_nanosleep", "timerfd_settime", "setitimer"}), 1000, 0,
          "sleeps or sets timers", "sleep longer, or wait for the event itself"),
    _Rate("polling", frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait"}), 5000, 0,
          "polls", "wait without a timeout of 0"),
    _Rate("tiny-io", frozenset({"read", "write"}), 2000, 512, "reads and writes in small pieces",
          "use a buffer of 64 KiB"),
    _Rate("fsync-storm", _FSYNC, 20, 0, "syncs files", "commit in groups"),
    _Rate("excess-stat", frozenset({"stat", "lstat", "newfstatat", "statx", "access", "faccessat"}), 1000, 0,
          "looks files up", "keep the result, or watch with inotify"),
    _Rate("excess-open", frozenset({"open", "openat", "openat2"}), 300, 0, "opens files", "keep them open"),
)  # fmt: skip


def call_rates(profile: Profile) -> Iterable[Trap]:
    """System calls by rate, from the short windows, of processes that were there for a quarter of the time: starting a
    program opens a thousand files."""
    lasting = _lasting(profile)
    for rule in _RATES:
        for who, rows in _by_process(profile, rule.calls).items():
            if rows[0].pid not in lasting:
                continue
            rate = sum(row.per_s for row in rows)
            size = sum(row.mean_bytes * row.per_s for row in rows) / max(rate, 1e-9)
            if rate < rule.least_per_s or (rule.most_bytes and size > rule.most_bytes):
                continue
            inside = [each for each in profile.samples if each.pid == rows[0].pid and each.syscall in rule.calls]
            cores = seconds(each for each in inside if each.state == "cpu") / profile.duration_s
            piece = f", {format_bytes(size)} each" if rule.most_bytes else ""
            summary = f"{who} {rule.words}: about {rate:.0f} calls/s{piece}"
            gain = f"up to {cores:.2f} cores of kernel time" if cores else "fewer system calls; its CPU share is small"
            finding = Finding(rule.name, summary, 0.8, ("hotspot",), gain)
            figures = {"calls_per_s": rate, "cores": cores, "mean_bytes": size}
            yield Trap(finding, who, common_place(inside), figures, rule.fix, rows[0].pid)


def _lasting(profile: Profile) -> set[int]:
    """Processes whose first and last sample lie a quarter of the window apart."""
    borders: dict[int, tuple[int, int]] = {}
    for sample in profile.samples:
        first, last = borders.get(sample.pid, (sample.at_ns, sample.at_ns))
        borders[sample.pid] = (min(first, sample.at_ns), max(last, sample.at_ns))
    return {pid for pid, (first, last) in borders.items() if last - first >= 0.25e9 * profile.duration_s}


def _by_process(profile: Profile, calls: frozenset[str]) -> dict[str, list[CallRate]]:
    found: dict[str, list[CallRate]] = {}
    for row in profile.call_rates:
        if row.syscall in calls:
            found.setdefault(f"{row.process}[{row.pid}]", []).append(row)
    return found


class _Kernel(NamedTuple):
    """A trap that shows as a share of a process's CPU time in kernel functions."""

    name: str
    frames: frozenset[str]
    least_share: float
    words: str
    fix: str


_KERNELS = (
    _Kernel("page-fault-storm", _FAULTS, 0.15, "in page faults",
            "reuse buffers; look at malloc trimming, fork and mmap of large files"),
    _Kernel("direct-reclaim", _RECLAIM, 0.02, "freeing memory for its own allocations",
            "raise its memory limit or free page cache early: osremed panorama"),
)  # fmt: skip


def kernel_shares(profile: Profile) -> Iterable[Trap]:
    """CPU time of a process in some kernel functions, from 0.05 cores on."""
    for who, samples in grouped(of_state(profile, "cpu")).items():
        for rule in _KERNELS:
            inside = [each for each in samples if has_frame(each, "kernel", rule.frames)]
            share, cores = seconds(inside) / max(seconds(samples), 1e-9), seconds(inside) / profile.duration_s
            if share < rule.least_share or cores < 0.05 or len(inside) < 10:
                continue
            summary = f"{who} spends {100 * share:.0f} % of its CPU {rule.words}"
            finding = Finding(rule.name, summary, 0.75, ("hotspot",), f"up to {cores:.2f} cores")
            figures = {"cpu_share": share, "cores": cores}
            yield Trap(finding, who, common_place(inside), figures, rule.fix, samples[0].pid)


class _Pressure(NamedTuple):
    """A trap of the host: a figure of its seconds, and what it must reach on average (for each CPU if so said)."""

    name: str
    figure: str
    least_s: float
    per_cpu: bool
    words: str
    fix: str


_PRESSURES = (
    _Pressure("run-queue-starvation", "run_delay_s", 0.3, True, "threads wait for a CPU",
              "fewer runnable threads, more CPUs, or lower the priority of batch work"),
)  # fmt: skip
_THROTTLED_LEAST_S = 0.05


def host_pressure(profile: Profile) -> Iterable[Trap]:
    """Waiting that belongs to the host, not to one stack."""
    for rule in _PRESSURES:
        readings = [getattr(second, rule.figure) for second in profile.seconds]
        values = [reading.value for reading in readings if isinstance(reading, Value)]
        mean = sum(values) / len(values) if values else 0.0
        if not values or mean < rule.least_s * (profile.mode.cpus if rule.per_cpu else 1):
            continue
        finding = Finding(rule.name, f"{rule.words}: {mean:.2f} s/s", 0.8, ("hotspot",), f"up to {mean:.2f} s/s")
        yield Trap(finding, profile.host or "host", "", {"seconds_per_s": mean, "worst_s": max(values)}, rule.fix)


def throttled_groups(profile: Profile) -> Iterable[Trap]:
    """Control groups that their CPU limit stops, each by name; where a second names none, the host."""
    told = [second for second in profile.seconds if isinstance(second.throttled_s, Value)]
    sums: dict[str, float] = {}
    for second in told:
        named = second.throttled or {profile.host or "host": second.throttled_s.value}  # type: ignore[union-attr]
        for path, stopped_s in named.items():
            sums[path] = sums.get(path, 0.0) + stopped_s
    for path, total in sums.items():
        mean = total / len(told)
        if mean < _THROTTLED_LEAST_S:
            continue
        worst = max(second.throttled.get(path, 0.0) for second in told)
        summary = f"{path} is throttled by its CPU limit: {mean:.2f} s/s"
        finding = Finding("throttled", summary, 0.8, ("hotspot",), f"up to {mean:.2f} s/s")
        figures = {"seconds_per_s": mean, "worst_s": worst}
        yield Trap(finding, path, "", figures, "raise the CPU limit, or the period's burst")


#: What the built-in traps are read from, beside samples and seconds.
_NEEDS: Mapping[str, str] = {
    **dict.fromkeys(("lock-contention", "gil-waits", "blocking-io"), WAITS),
    **{rule.name: CALLS for rule in _RATES},
    **{rule.name: SWITCHES for rule in _PRESSURES},
    **dict.fromkeys(("frequent-proc-reads", "throttled", *(rule.name for rule in _KERNELS)), ""),
}


def judged(profile: Profile) -> frozenset[str] | None:
    """The traps whose absence in this profile says something; None: all, also those of other packages."""
    if not profile.unrecorded:
        return None
    whole = TIME not in profile.unrecorded
    return frozenset(name for name, need in _NEEDS.items() if whole and need not in profile.unrecorded)


RULES: tuple[Rule, ...] = (
    proc_reads, lock_contention, gil_waits, blocking_io, call_rates, kernel_shares, host_pressure, throttled_groups,
)  # fmt: skip
