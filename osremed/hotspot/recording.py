"""`osremed hotspot run`: a module of its own, since what looks back must not stay in the recorder's memory."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.errors import BadInput
from osremed.core.paths import host_paths
from osremed.core.units import format_bytes, parse_bytes, parse_duration_s, parse_ratio
from osremed.hotspot.budget import Budget
from osremed.hotspot.daemon import run as record_until_told
from osremed.hotspot.recorder import Settings


def run(
    *,
    segment: str = "10s",
    ceiling: str = "1%",
    ring_bytes: str = "1GB",
    keep: str = "24h",
    stop_after: str = "",
    policy: str | None = None,
    traps: str = "5m",
) -> Answer:
    """Records until SIGTERM or SIGINT; SIGHUP reads the policy again, which goes before the other options. BadInput for
    the policy. Unavailable without BPF."""
    segment_s = parse_duration_s(segment)
    if not 2 <= segment_s <= 60:
        raise BadInput(f"a segment of {segment} is out of range", hint="2s to 60s")
    traps_every_s = parse_duration_s(traps)
    if traps_every_s and not segment_s <= traps_every_s <= 86400:
        raise BadInput(f"traps every {traps} is out of range", hint="0s for never, or from one segment to 1d")
    settings = Settings(
        segment_s=segment_s,
        budget=Budget(parse_ratio(ceiling), parse_bytes(ring_bytes), parse_duration_s(keep)),
        policy=policy,
        stop_after_s=parse_duration_s(stop_after) if stop_after else 0.0,
        traps_every_s=traps_every_s,
    )
    document = record_until_told(settings, host_paths())
    return Answer(document, f"stopped: {format_bytes(document['written_bytes'])} written, {document['lost']} lost")
