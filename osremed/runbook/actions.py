"""The actions a runbook may name: one row each. An action is an Ansible module; its undo is the same module with the
`previous` it returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from osremed.core.record import field, record

#: A step that a person does; no module stands behind it.
MANUAL = "manual"
#: What a person's step says to take back when there is nothing to: it only looked, asked, or told somebody.
NOTHING = "nothing"
RiskName = Literal["low", "medium", "high"]


@record
class Action:
    """`arguments` are the options a runbook may set; the others (undo id, deadline, paths) are the engine's;
    `engine_arguments` are those that are always the same. In check mode the module answers with the options that make
    it refuse when the host is no longer as it was then (`as_seen`), and, if it is reversible, with those that undo it
    (`previous`). `recorded`: the host keeps what it was and takes it back at a deadline; otherwise `previous` alone
    does. `settles`: it says what is to be, so that trying it twice is trying it once. `transient`: what it took away
    comes back by itself when it is used, so nothing is left for anybody to take back."""

    module: str
    risk: RiskName
    reversible: bool
    arguments: frozenset[str]
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)
    recorded: bool = True
    settles: bool = True
    transient: bool = False


ACTIONS: Mapping[str, Action] = {
    "fastoom_policy": Action(
        module="osremed.host.fastoom_policy",
        risk="medium",
        reversible=True,
        arguments=frozenset({"sensitivity", "scopes", "protect", "prefer", "avoid", "overrides", "limits"}),
        # A policy that no guard has loaded changes nothing, and proves nothing.
        engine_arguments={"reload": "required"},
    ),
    "sysctl": Action(
        module="osremed.host.sysctl",
        risk="medium",
        reversible=True,
        arguments=frozenset({"settings", "runtime", "persist", "ignore_missing"}),
    ),
    "cgroup_limits": Action(
        module="osremed.host.cgroup_limits",
        risk="medium",
        reversible=True,
        arguments=frozenset(
            {
                "cgroup",
                "memory_max",
                "memory_high",
                "memory_low",
                "memory_min",
                "swap_max",
                "cpu_weight",
                "cpu_max",
                "pids_max",
                "fail_below_usage",
            }
        ),
    ),
    "proc_oom_score": Action(
        module="osremed.host.proc_oom_score",
        risk="low",
        reversible=True,
        arguments=frozenset({"pid", "start_time_ticks", "cmdline", "value"}),
    ),
    "proc_signal": Action(
        module="osremed.host.proc_signal",
        risk="high",
        reversible=False,
        arguments=frozenset({"pid", "start_time_ticks", "cmdline", "signal", "grace_s", "escalate"}),
        settles=False,
    ),
    "page_cache": Action(
        module="osremed.host.page_cache",
        risk="low",
        reversible=False,
        arguments=frozenset({"paths", "min_resident", "max_bytes", "sync"}),
        settles=False,
        transient=True,
    ),
    "cgroup_reclaim": Action(
        module="osremed.host.cgroup_reclaim",
        risk="medium",
        reversible=False,
        arguments=frozenset({"cgroup", "bytes", "max_step", "timeout_s", "max_pressure"}),
        settles=False,
        transient=True,
    ),
    "service_restart": Action(
        module="osremed.host.service_restart",
        risk="high",
        reversible=False,
        arguments=frozenset({"name", "health", "timeout_s", "min_interval_s", "rollback"}),
        settles=False,
    ),
    "gpu_app_limits": Action(
        module="osremed.host.gpu_app_limits",
        risk="medium",
        reversible=True,
        arguments=frozenset({"unit", "environment"}),
    ),
    # Nobody is evicted, so it can be taken back; the scheduler knows it, not the host: no deadline holds there.
    "gpu_cordon": Action(
        module="osremed.host.gpu_drain",
        risk="high",
        reversible=True,
        arguments=frozenset({"scheduler", "node", "reason"}),
        engine_arguments={"state": "cordoned"},
        recorded=False,
    ),
    "service_switch": Action(
        module="osremed.host.service_switch",
        risk="low",
        reversible=True,
        arguments=frozenset({"name", "state"}),
    ),
    "gpu_drain": Action(
        module="osremed.host.gpu_drain",
        risk="high",
        reversible=False,
        arguments=frozenset({"scheduler", "node", "state", "reason", "delete_emptydir_data", "timeout_s"}),
    ),
    "gpu_reset": Action(
        module="osremed.host.gpu_reset",
        risk="high",
        reversible=False,
        arguments=frozenset({"uuid", "bdf", "require_recovery", "bug_report", "timeout_s"}),
        settles=False,
    ),
    "wheel_release": Action(
        module="osremed.host.wheel_release",
        risk="high",
        reversible=True,
        arguments=frozenset(
            {"component", "version", "artifact", "sha256", "python", "check", "health", "keep", "unit"}
        ),
    ),
}

#: What a step may be: an action, or something a person does and then ticks. What a person did only a person takes back.
STEPS: Mapping[str, Action] = {
    **ACTIONS,
    MANUAL: Action(
        module="",
        risk="low",
        reversible=False,
        arguments=frozenset({"instruction", "take_back"}),
        recorded=False,
    ),
}

#: Evidence collectors of the on-host agent and the arguments a runbook may give them.
COLLECTORS: Mapping[str, frozenset[str]] = {
    "answers": frozenset({"window_s"}),
    "cpu_limits": frozenset({"window_s"}),
    "io": frozenset({"window_s"}),
    "panorama": frozenset({"scope", "files", "processes", "growth_s", "heaps", "pid", "consent", "trace_s", "history"}),
    "fastoom": frozenset({"events"}),
    "gpus": frozenset(),
    "gpu_trace": frozenset({"pid", "within_s", "moment"}),
    "hotspot": frozenset({"moment", "window_s"}),
    "hotspot_at": frozenset({"moment", "around", "window_s", "container", "process"}),
    "switches": frozenset({"trap", "pid"}),
    "timeline": frozenset({"events"}),
}

#: Probes of the on-host agent and the arguments a runbook may give them.
PROBES: Mapping[str, frozenset[str]] = {
    "memory.available_ratio": frozenset({"scope"}),
    "memory.available_bytes": frozenset({"scope"}),
    "memory.free_ratio": frozenset({"scope"}),
    "memory.held_ratio": frozenset({"scope", "of"}),
    "memory.dying_ratio": frozenset({"scope", "of"}),
    "cpu.throttled_ratio": frozenset({"scope"}),
    "cpu.used": frozenset({"scope"}),
    "cpu.stall_ratio": frozenset(),
    "io.stall_ratio": frozenset(),
    "answers.p99_ratio": frozenset({"service", "of"}),
    "gpu.alerts": frozenset({"name", "gpu"}),
}
