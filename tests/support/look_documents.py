"""What a host answers when its hot spots and its GPUs are looked at."""

from __future__ import annotations

from tests.support.console_state import HOSTILE

SECOND = 1_790_000_000


def heat_document(**other):
    """Two cells of two seconds have samples."""
    cells = [4, *([0] * 48), 2]
    said = {"seconds": 1.5, "processes": [{"name": HOSTILE, "seconds": 1.25}], "containers": [], "threads": []}
    hot = {**said, "functions": [{"name": "spin", "own_s": 1.5, "total_s": 1.5}], "stacks": []}
    return {
        "host": "web-2",
        "start_ns": SECOND * 10**9,
        "end_ns": (SECOND + 2) * 10**9,
        "mode": {"clock": "cpu-clock", "hz": 99, "cpus": 2},
        "samples": 6,
        "states": {"cpu": hot, "off": {**hot, "seconds": 0.0, "processes": [], "functions": []}},
        "blocked": [],
        "call_rates": [],
        "open_rates": [],
        "seconds": [],
        "heat": [{"second": SECOND, "samples": cells}, {"second": SECOND + 1, "samples": [0] * 50}],
        "lost": 0,
        "cost": {"wall_s": 2.0, "bpf_s": 0.001, "own_s": 0.01},
        "gaps": [HOSTILE],
        **other,
    }


def gpus_document(**other):
    """One GPU that answers, one that hangs."""
    denied = {"missing": "denied", "source": "nvml", "detail": "no"}
    metrics = {"vram_used_bytes": 3 << 30, "vram_total_bytes": 80 << 30, "sm_util_percent": 97}
    gpu = {
        "index": 0,
        "name": f"Fake GPU {HOSTILE}",
        "bdf": "0000:3b:00.0",
        "metrics": {**metrics, "temperature_celsius": denied, "power_milliwatts": 1, "recovery_action": 0},
        "processes": [{"pid": 7, "name": HOSTILE, "used_bytes": 1 << 30}],
    }
    hang = {"pid": 9, "process_state": "D", "wchan": "x", "missing": "timed_out", "source": "nvml", "detail": HOSTILE}
    return {
        "host": "web-2",
        "inventory": {"gpus": 2, "driver_version": "550"},
        "gpus": [gpu],
        "unreadable": {},
        "hung": {"1": hang},
        "scheduler": denied,
        **other,
    }
