"""What the arguments of actions may be: one row each, types and bounds. What a row does not know its module checks.

A literal is held to it when it is linted, what an expression makes of it before the host is asked. The modules have
their own checks, which are as wide or wider: a person with a playbook may more than a runbook that acts unasked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Why a value does not fit; "" where it does.
Check = Callable[[Any], str]

_MIB, _GIB, _TIB = 1 << 20, 1 << 30, 1 << 40
#: As the modules read sizes: all units are binary.
_SIZE = re.compile(r"([0-9]{1,18})\s?([KMGT]?)(?:iB|B)?")
_TEMPLATE = re.compile(r"\{\{|\{%")


def is_template(value: Any) -> bool:
    """What it will be is not known before there is evidence."""
    return isinstance(value, str) and _TEMPLATE.search(value) is not None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,9})?", value) else None
    except ValueError:
        return None


def _whole(low: int, high: int, *also: str) -> Check:
    def check(value: Any) -> str:
        number = _number(value)
        fits = value in also or (number is not None and number == int(number) and low <= number <= high)
        return "" if fits else f"is not {_or(also)}a whole number from {low} to {high}"

    return check


def _seconds(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        number = _number(value)
        fits = number is not None and low <= number <= high
        return "" if fits else f"is not a number of seconds from {low:g} to {high:g}"

    return check


def _share(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        number = _number(value)
        return "" if number is not None and low <= number <= high else f"is not a number from {low:g} to {high:g}"

    return check


def _size(low: int, high: int, *also: str) -> Check:
    def check(value: Any) -> str:
        found = None if isinstance(value, bool) else _SIZE.fullmatch(str(value))
        fits = found is not None and low <= int(found.group(1)) << 10 * " KMGT".index(found.group(2) or " ") <= high
        return "" if fits or value in also else f"is not {_or(also)}a size from {_shown(low)} to {_shown(high)}"

    return check


def _or(also: tuple[str, ...]) -> str:
    return "".join(f"{each!r} or " for each in also)


def _shown(size: int) -> str:
    for unit, name in ((_TIB, "TiB"), (_GIB, "GiB"), (_MIB, "MiB")):
        if size >= unit and not size % unit:
            return f"{size // unit}{name}"
    return f"{size}B"


def _one_of(*choices: str) -> Check:
    return lambda value: "" if value in choices else f"is none of {', '.join(choices)}"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "is neither true nor false"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and 0 < len(value) <= 4096 else "is no text of 1 to 4096 characters"


def _list(most: int, each: Check) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, list) or len(value) > most:
            return f"is no list of at most {most}"
        return next(
            (f"has {item!r}, which {why}" for item in value if not is_template(item) and (why := each(item))), ""
        )

    return check


def _mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else "is no mapping"


def _left_to_the_module(_value: Any) -> str:
    return ""


def _cpu_max(value: Any) -> str:
    words = str(value).split()
    whole = _whole(1000, 1_000_000)
    if len(words) not in (1, 2) or (len(words) == 2 and whole(words[1])):
        return "is not QUOTA or QUOTA PERIOD in microseconds, the period from 1000 to 1000000"
    quota, period = _number(words[0]), float(words[1]) if len(words) == 2 else 100_000.0
    fits = words[0] == "max" or (quota is not None and quota == int(quota) and max(1000, period / 100) <= quota <= 1e9)
    return "" if fits else "is neither 'max' nor a quota from a hundredth of a CPU (at least 1000) to 1000000000"


def _cgroup(value: Any) -> str:
    parts = value.split("/")[1:] if isinstance(value, str) and value.startswith("/") else [""]
    bad = any(part in ("", ".", "..") for part in parts) or "\0" in str(value)
    return "is no path of a group below the hierarchy, and not its root" if bad else ""


def _settings(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return "names no sysctl"
    for name, wanted in value.items():
        check = SYSCTLS.get(str(name).replace("/", "."))
        if check is None:
            return f"has {name}: no bounds are known for it, and a runbook sets what has some"
        why = "" if is_template(wanted) else check(wanted)
        if why:
            return f"has {name}: {wanted!r} {why}"
    return ""


_PERCENT = _whole(1, 100)
_CENTISECONDS = _whole(100, 360_000)
_DIRTY_BYTES = _whole(16 * _MIB, 64 * _GIB)
_BACKLOG = _whole(128, 1 << 20)
#: Sysctls that a runbook may set.
SYSCTLS: Mapping[str, Check] = {
    "vm.swappiness": _whole(0, 200),
    "vm.vfs_cache_pressure": _whole(1, 1000),
    "vm.min_free_kbytes": _whole(1024, 8 * _MIB),
    "vm.watermark_scale_factor": _whole(1, 1000),
    "vm.watermark_boost_factor": _whole(0, 150_000),
    "vm.dirty_ratio": _PERCENT,
    "vm.dirty_background_ratio": _PERCENT,
    "vm.dirty_bytes": _DIRTY_BYTES,
    "vm.dirty_background_bytes": _DIRTY_BYTES,
    "vm.dirty_expire_centisecs": _CENTISECONDS,
    "vm.dirty_writeback_centisecs": _CENTISECONDS,
    "vm.overcommit_memory": _whole(0, 2),
    "vm.overcommit_ratio": _whole(1, 1000),
    "vm.max_map_count": _whole(65_530, 1 << 24),
    "vm.compaction_proactiveness": _whole(0, 100),
    "vm.page-cluster": _whole(0, 6),
    "vm.zone_reclaim_mode": _whole(0, 7),
    "kernel.numa_balancing": _whole(0, 2),
    "kernel.pid_max": _whole(32_768, 1 << 22),
    "kernel.threads-max": _whole(8192, 1 << 24),
    "kernel.printk_ratelimit": _whole(0, 3600),
    "fs.file-max": _whole(65_536, 1 << 40),
    "fs.inotify.max_user_instances": _whole(128, 1 << 20),
    "fs.inotify.max_user_watches": _whole(8192, 1 << 24),
    "fs.aio-max-nr": _whole(65_536, 1 << 24),
    "net.core.somaxconn": _BACKLOG,
    "net.core.netdev_max_backlog": _BACKLOG,
    "net.ipv4.tcp_max_syn_backlog": _BACKLOG,
    "net.netfilter.nf_conntrack_max": _whole(16_384, 1 << 26),
}

_LIMIT = _size(16 * _MIB, 64 * _TIB, "max")
_SPARED = _size(0, 64 * _TIB, "max")
_PID = _whole(2, 1 << 22)
_TICKS = _whole(1, 1 << 62)
_WAIT = _seconds(1, 3600)
_COMMAND = _list(64, _text)
_STATE = ("cordoned", "drained", "resumed")
_SCHEDULER = _one_of("kubernetes", "slurm")
#: (action, argument) -> what it may be.
VALUES: Mapping[str, Mapping[str, Check]] = {
    "manual": {"instruction": _left_to_the_module, "take_back": _left_to_the_module},
    "fastoom_policy": {
        "sensitivity": _one_of("low", "medium", "high"),
        **dict.fromkeys(("scopes", "protect", "prefer", "avoid"), _list(1000, _mapping)),
        **dict.fromkeys(("overrides", "limits"), _mapping),
    },
    "sysctl": {"settings": _settings, **dict.fromkeys(("runtime", "persist", "ignore_missing"), _flag)},
    "cgroup_limits": {
        "cgroup": _cgroup,
        **dict.fromkeys(("memory_max", "memory_high"), _LIMIT),
        **dict.fromkeys(("memory_low", "memory_min", "swap_max"), _SPARED),
        "cpu_weight": _whole(1, 10_000),
        "cpu_max": _cpu_max,
        "pids_max": _whole(16, 1 << 22, "max"),
        "fail_below_usage": _flag,
    },
    "proc_oom_score": {
        "pid": _PID,
        "start_time_ticks": _TICKS,
        "cmdline": _text,
        "value": _whole(-1000, 1000),
    },
    "proc_signal": {
        "pid": _PID,
        "start_time_ticks": _TICKS,
        "cmdline": _text,
        "signal": _one_of("TERM", "INT", "QUIT", "ABRT", "KILL", "HUP", "USR1", "USR2", "STOP", "CONT"),
        "grace_s": _seconds(0, 600),
        "escalate": _flag,
    },
    "page_cache": {
        "paths": _list(1000, _text),
        "min_resident": _whole(4096, 1 * _TIB),
        "max_bytes": _whole(1 * _MIB, 1 * _TIB),
        "sync": _flag,
    },
    "cgroup_reclaim": {
        "cgroup": _cgroup,
        "bytes": _size(4096, 1 * _TIB),
        "max_step": _size(1 * _MIB, 16 * _GIB),
        "timeout_s": _seconds(1, 600),
        "max_pressure": _share(0, 100),
    },
    "service_restart": {
        "name": _text,
        "health": _mapping,
        "timeout_s": _WAIT,
        "min_interval_s": _seconds(0, 7 * 86_400),
        "rollback": _COMMAND,
    },
    "gpu_app_limits": {"unit": _text, "environment": _mapping},
    "gpu_cordon": {"scheduler": _SCHEDULER, "node": _text, "reason": _text},
    "service_switch": {"name": _text, "state": _one_of("on", "off")},
    "gpu_drain": {
        "scheduler": _SCHEDULER,
        "node": _text,
        "state": _one_of(*_STATE),
        "reason": _text,
        "delete_emptydir_data": _flag,
        "timeout_s": _WAIT,
    },
    "gpu_reset": {
        "uuid": _text,
        "bdf": _text,
        "require_recovery": _flag,
        "bug_report": _text,
        "timeout_s": _seconds(1, 1800),
    },
    "wheel_release": {
        **dict.fromkeys(("component", "version", "artifact", "sha256", "python", "unit"), _text),
        **dict.fromkeys(("check", "health"), _COMMAND),
        "keep": _whole(1, 100),
    },
}


def unfit(action: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(argument, why its value does not fit); what is a template still is not judged. Unknown arguments are told
    elsewhere."""
    known = VALUES.get(action, {})
    for name, value in arguments.items():
        why = known[name](value) if name in known and not is_template(value) else ""
        if why:
            shown = why if isinstance(value, (dict, list)) else f"{value!r} {why}"
            yield name, f"{name} of {action}: {shown}"
