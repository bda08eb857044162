"""The formats by name: what writes them, what reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from osremed.core.errors import BadInput
from osremed.hotspot.formats import firefox, folded, perfscript, pprof, speedscope
from osremed.hotspot.model import Profile, Sample, of_state


class Format(NamedTuple):
    write: Callable[[Profile, tuple[Sample, ...]], bytes]
    read: Callable[[bytes, str], Profile]


def _pprof(profile: Profile, samples: tuple[Sample, ...]) -> bytes:
    period_ns = round(1e9 / profile.mode.hz) if profile.mode.hz else 0
    return pprof.export(samples, profile.start_ns, profile.end_ns - profile.start_ns, period_ns)


FORMATS = {
    "folded": Format(lambda _profile, samples: folded.export(samples), folded.parse),
    "speedscope": Format(lambda _profile, samples: speedscope.export(samples), speedscope.parse),
    "pprof": Format(_pprof, pprof.parse),
    "perf": Format(lambda _profile, samples: perfscript.export(samples), perfscript.parse),
    "firefox": Format(lambda profile, samples: firefox.export(samples, profile.mode.hz), firefox.parse),
}


def format_named(name: str) -> Format:
    if name not in FORMATS:
        raise BadInput(f"no format {name!r}", hint=f"formats: {', '.join(FORMATS)}")
    return FORMATS[name]


def write(profile: Profile, name: str, state: str) -> bytes:
    return format_named(name).write(profile, of_state(profile, state))


def guess(data: bytes) -> str:
    """The format of a file by its first bytes; `folded` when nothing else fits."""
    head = data[:65536].lstrip()
    if data[:2] == b"\x1f\x8b" or data[:1] == b"\x0a":
        return "pprof"
    if head.startswith(b"{"):
        return "speedscope" if b"speedscope" in head or b'"shared"' in head else "firefox"
    body = [line for line in head.split(b"\n")[:4] if not line.startswith(b"#")]
    return "perf" if len(body) > 1 and body[1].startswith((b"\t", b"  ")) else "folded"
