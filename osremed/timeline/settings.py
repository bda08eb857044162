"""What the GPU watch is told: the policy `/etc/osremed/timeline.json`, checked key by key; every key has a default."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.core.paths import HostPaths
from osremed.core.policyfile import PolicyFile, beside_fastoom, last_good, policy_keys
from osremed.core.record import record

MOST_LOOKS = 4096  #: of each GPU that are kept: a window with more would never be full
NAME, KIND = "timeline", "TimelinePolicy"


@record
class Settings:
    """`deadline_s`: who does not answer so long hangs; a probe's first answer may take `first_deadline_s`: without
    persistence mode the driver initialises the GPU first. `expected_gpus` 0: as many as PCI shows.
    `vram_expected_ratio` 0: no expectation (else what an inference server is configured to take at most, such as
    0.9). `stuck_s`, `window_s`: how long a condition must last. `calls_per_s`: calls of CUDA and NCCL a second that
    may be followed, of all processes; 0: none, and growth has no lines. `dumps`: where PyTorch leaves flight-recorder
    dumps (TORCH_FR_DUMP_TEMP_FILE); empty: nowhere. `trace_every_s`: when an alert is raised, a job that was started
    with KINETO_USE_DAEMON=1 is asked for a trace, once in so long; 0: never."""

    interval_s: float = 10.0
    deadline_s: float = 2.0
    first_deadline_s: float = 60.0
    expected_gpus: int = 0
    window_s: float = 60.0
    growth_window_s: float = 600.0
    growth_bytes: int = 64 << 20
    vram_expected_ratio: float = 0.0
    temperature_margin_celsius: int = 5
    stuck_s: float = 300.0
    calls_per_s: float = 5000.0
    trace_every_s: float = 600.0
    dumps: str = "/tmp"  # noqa: S108  PyTorch's default; what others put there is read as data alone


def parse_policy(data: bytes, path: str) -> Settings:
    """The settings of a policy file, the defaults for what it leaves out. BadInput names the key."""
    return parse_settings(policy_keys(data, path, KIND), path)


def policy_file(paths: HostPaths, log: Log, path: str | None = None) -> PolicyFile[Settings]:
    """The file that the watch of this host obeys; `path` another one."""
    place = os.path.abspath(path) if path else beside_fastoom(paths, NAME)
    return PolicyFile(place, last_good(paths, NAME), parse_policy, Settings(), log)


def parse_settings(document: Any, where: str) -> Settings:
    defaults = dataclasses.asdict(Settings())
    kinds = {key: type(value) for key, value in defaults.items()}
    if not isinstance(document, dict):
        raise BadInput("must be a JSON object", where=where, hint=f"keys: {', '.join(kinds)}")
    for key, value in document.items():
        if key not in kinds:
            raise BadInput(f"unknown key {key!r}", where=where, hint=f"keys: {', '.join(kinds)}")
        if kinds[key] is str:
            if not isinstance(value, str) or (value and not os.path.isabs(value)):
                raise BadInput(f"{key} is {value!r}", where=where, hint="an absolute path, or empty")
            continue
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = kinds[key] is float or isinstance(value, int)
        if not numeric or not whole or not 0 <= value < 1e15:
            raise BadInput(f"{key} is {value!r}", where=where, hint=f"a number of 0 or more ({kinds[key].__name__})")
    given: dict[str, Any] = {key: kinds[key](value) for key, value in document.items()}
    settings = Settings(**given)
    if settings.interval_s < 0.1 or settings.deadline_s < 0.1:
        raise BadInput("interval_s and deadline_s must be at least 0.1", where=where)
    for key in ("growth_window_s", "stuck_s"):
        window_s = getattr(settings, key)
        if window_s > MOST_LOOKS * settings.interval_s:
            hint = f"interval_s of {math.ceil(window_s / MOST_LOOKS)} or more, or a shorter window"
            raise BadInput(f"{key} {window_s:g} is more than {MOST_LOOKS} looks of interval_s", where=where, hint=hint)
    return settings
