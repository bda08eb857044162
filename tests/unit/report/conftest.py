"""A finished run, told in plain data: the published near-OOM case, and the same with every string hostile."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from osremed.core.event import Event
from osremed.core.finding import Finding
from osremed.core.probe import ProbeSample
from osremed.core.reading import Missing, Reason, Value
from osremed.report.model import Moment, ProbeResult, RunStory, StoryGap, StoryStep
from osremed.runbook.model import GuardResult

MIB = 1 << 20
T0 = 1_795_000_000_000_000_000
DIFF = """--- /etc/osremed/fastoom.json
+++ /etc/osremed/fastoom.json
@@ -1,3 +1,3 @@
-  "sensitivity": "low",
+  "sensitivity": "medium",
"""


def _killed(pid: int, name: str, heap_mib: int, adj: int, why: str) -> dict[str, Any]:
    return {
        "pid": pid,
        "start_time_ticks": 9000 + pid,
        "name": name,
        "cmdline": ["/usr/bin/python3", f"/srv/demo/{name}.py", "--listen", "127.0.0.1:0"],
        "oom_score_adj": adj,
        "heap_bytes": heap_mib * MIB,
        "why": why,
        "freed": True,
    }


def make_panorama() -> dict[str, Any]:
    balance = [
        ("anonymous memory", "anon", 331), ("page cache: files", "file", 120), ("shared memory and tmpfs", "shmem", 8),
        ("kernel", "kernel", 11), ("unaccounted", "unaccounted", 1), ("not charged", "free", 41),
    ]  # fmt: skip
    return {
        "scope": "/osremed-demo",
        "total_bytes": 512 * MIB,
        "available_bytes": 141 * MIB,
        "balance": {
            "total_bytes": 512 * MIB,
            "residual_bytes": MIB,
            "lines": [
                {"name": name, "kind": kind, "bytes": mib * MIB, "source": "memory.stat", "share": mib / 512}
                for name, kind, mib in balance
            ],
        },
        "totals": {"processes": 6, "heap_bytes": 329 * MIB},
        "processes": [
            {
                "pid": 4000 + index,
                "start_time_ticks": 77,
                "name": name,
                "cmdline": f"python3 {name}.py",
                "heap_bytes": heap * MIB,
                "file_bytes": 7 * MIB,
                "shmem_bytes": 0,
                "oom_score_adj": adj,
            }
            for index, (name, heap, adj) in enumerate(
                [("leaking-worker", 260, 0), ("ota-gateway", 48, 0), ("reader", 9, 0)]
            )
        ],
        "files": [
            {
                "path": "/var/lib/demo/blob-0.dat",
                "cached_bytes": 96 * MIB,
                "dirty_bytes": 0,
                "deleted": False,
                "open_by": [4002],
            },
            {
                "path": "/tmp/spool.db",
                "cached_bytes": 12 * MIB,
                "dirty_bytes": MIB,
                "deleted": True,
                "open_by": [4000, 4002],
            },
        ],
        "coverage": {
            "page_cache_bytes": 128 * MIB,
            "statement": "open and mapped files of the scope: 108.0 MiB of 128.0 MiB of its page cache = 84.4 %",
        },
        "gaps": [
            {
                "layer": "files",
                "missing": "denied",
                "source": "/proc/4001/fd",
                "detail": "Permission denied",
                "count": 1,
            }
        ],
    }


def make_story() -> RunStory:
    attributes = {
        "level": "medium",
        "sensitivity": "low",
        "scope": "/osremed-demo",
        "limit_bytes": 512 * MIB,
        "available_bytes": 31 * MIB,
        "action": "killed",
        "killed": [
            _killed(3101, "exporter-a", 14, 999, "kernel policy: oom_score_adj 999"),
            _killed(3102, "exporter-b", 13, 999, "kernel policy: oom_score_adj 999"),
            _killed(3103, "logcollect", 97, 0, "on the prefer list: name logcollect"),
        ],
        "spared": [{"pid": 3099, "name": "ota-gateway", "why": "protected: cmdline matches ota-gateway"}],
        "freed_bytes": 124 * MIB,
        "available_after_bytes": 141 * MIB,
        "crossed_ns": T0,
        "freed_ns": T0 + 21_000_000,
    }
    moments = {
        "memory crossed the line": 0,
        "decided": 1.4,
        "killed": 1.9,
        "memory free": 21,
        "event shipped": 420,
        "run started": 1310,
        "evidence collected": 2900,
        "policy applied": 6200,
        "verdict": 17900,
    }
    samples = tuple(ProbeSample(float(at), Value(0.27 + 0.002 * at)) for at in range(11))
    return RunStory(
        run_id="run-7f3a9c1e",
        runbook="near-oom",
        host="edge-17.example.net",
        state="SUCCEEDED",
        reason="availability held above 10 % for 10 s after the policy was raised",
        event=Event("5f0c" * 8, "memory.near_oom", "edge-17.example.net", T0, attributes),
        timeline=tuple(Moment(label, T0 + int(ms * 1e6)) for label, ms in moments.items()),
        findings=(
            Finding(
                name="policy-too-low",
                summary="The guard acted at 6 % available; low sensitivity left no reserve.",
                confidence=0.8,
                evidence=("event", "panorama"),
                expected_gain="acts 50 MiB earlier",
            ),
        ),
        plan=(
            StoryStep("fastoom_policy", {"sensitivity": "medium"}, DIFF, "low"),
            StoryStep("page_cache", {"paths": ["/var/lib/blob"]}, "", "low", "dropped cache refills by itself"),
        ),
        guards=(
            GuardResult("cooldown", True, "last run of near-oom here: none"),
            GuardResult("per_host", True, "0 of 1 running"),
        ),
        verdicts=(ProbeResult("memory.available_ratio", "value > 0.1 for 10 s within 60 s", "HOLDS", samples),),
        undo=(),
        panorama=make_panorama(),
        bundle_sha256="ab" * 32,
        gaps=(StoryGap("kmsg", Missing(Reason.DENIED, "/dev/kmsg", "needs CAP_SYSLOG")),),
    )


def replace_strings(value: Any, poison: str) -> Any:
    """`value` with every string in it replaced by `poison`, keys, enums and numbers untouched."""
    if isinstance(value, str) and not isinstance(value, Reason):
        return poison
    if isinstance(value, dict):
        return {key: replace_strings(item, poison) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace_strings(item, poison) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: replace_strings(getattr(value, field.name), poison) for field in dataclasses.fields(value)
        }
        return type(value)(**fields)
    return value


@pytest.fixture
def story() -> RunStory:
    return make_story()


@pytest.fixture
def panorama_document() -> dict[str, Any]:
    return make_panorama()


@pytest.fixture
def poisoned() -> Any:
    """poisoned(value, poison): every string in the story, its event and its documents replaced."""
    return replace_strings
