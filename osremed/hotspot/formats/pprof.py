"""pprof's profile.proto, written and read by hand (its fields are few). Gzip around it, as the tools expect."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence

from osremed.core.errors import BadInput
from osremed.hotspot.formats.imports import Merged, imported
from osremed.hotspot.formats.protobuf import bytes_field, fields, number_field, numbers, packed_field
from osremed.hotspot.model import Frame, Profile, Sample, frame_text
from osremed.hotspot.tree import stack_of

#: profile.proto: Profile, Sample, Location, Line, Function
_SAMPLE_TYPE, _SAMPLE, _LOCATION, _FUNCTION, _STRING, _TIME, _DURATION, _PERIOD_TYPE, _PERIOD = (
    1,
    2,
    4,
    5,
    6,
    9,
    10,
    11,
    12,
)
_LIMIT_BYTES = 512 << 20
_COUNTS = (("samples", "count"), ("time", "nanoseconds"))


class _Writer:
    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.functions: dict[Frame, int] = {}
        self.locations: dict[Frame, int] = {}

    def text(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame: Frame) -> int:
        self.functions.setdefault(frame._replace(line=0), len(self.functions) + 1)
        return self.locations.setdefault(frame, len(self.locations) + 1)


def export(samples: Sequence[Sample], start_ns: int = 0, duration_ns: int = 0, period_ns: int = 0) -> bytes:
    """Two values a sample: how many, and nanoseconds."""
    writer = _Writer()
    kinds = [number_field(1, writer.text(name)) + number_field(2, writer.text(unit)) for name, unit in _COUNTS]
    folded: dict[tuple[Frame, ...], list[int]] = {}
    for sample in samples:
        values = folded.setdefault(stack_of(sample), [0, 0])
        values[0] += 1
        values[1] += sample.weight_ns
    out = [bytes_field(_SAMPLE_TYPE, kind) for kind in kinds]
    for frames, values in folded.items():
        places = [writer.location(frame) for frame in reversed(frames)]
        out.append(bytes_field(_SAMPLE, packed_field(1, places) + packed_field(2, values)))
    for frame, number in writer.locations.items():
        line = number_field(1, writer.functions[frame._replace(line=0)]) + number_field(2, frame.line)
        out.append(bytes_field(_LOCATION, number_field(1, number) + bytes_field(4, line)))
    for frame, number in writer.functions.items():
        name = writer.text(frame.name if frame.file else frame_text(frame))
        body = number_field(1, number) + number_field(2, name) + number_field(3, name)
        out.append(bytes_field(_FUNCTION, body + number_field(4, writer.text(frame.file))))
    out += [bytes_field(_STRING, text.encode("utf-8", "backslashreplace")) for text in writer.strings]
    out.append(number_field(_TIME, start_ns) + number_field(_DURATION, duration_ns))
    out.append(bytes_field(_PERIOD_TYPE, kinds[1]) + number_field(_PERIOD, period_ns))
    return gzip.compress(b"".join(out), mtime=0)


def parse(data: bytes, where: str = "pprof") -> Profile:
    """Of several values the one in nanoseconds, else the last. BadInput for anything else."""
    try:
        plain = _inflate(data) if data[:2] == b"\x1f\x8b" else data
        return _read(plain, where)
    except (ValueError, EOFError, OSError, zlib.error, IndexError, KeyError) as error:
        raise BadInput(f"not a pprof profile: {error}", where=where) from error


def _inflate(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        plain = stream.read(_LIMIT_BYTES + 1)
    if len(plain) > _LIMIT_BYTES:
        raise ValueError(f"larger than {_LIMIT_BYTES} bytes")
    return plain


def _read(data: bytes, where: str) -> Profile:
    groups: dict[int, list[bytes]] = {}
    for number, _value, body in fields(data):
        groups.setdefault(number, []).append(body)
    strings = [body.decode("utf-8", "backslashreplace") for body in groups.get(_STRING, [])] or [""]
    functions = dict(_function(body, strings) for body in groups.get(_FUNCTION, []))
    locations = dict(_location(body, functions) for body in groups.get(_LOCATION, []))
    units = [strings[{n: v for n, v, _ in fields(body)}.get(2, 0)] for body in groups.get(_SAMPLE_TYPE, [])]
    column = units.index("nanoseconds") if "nanoseconds" in units else -1
    counts = units.index("count") if "count" in units else -1
    scale = 1 if "nanoseconds" in units else 1_000_000
    stacks = []
    for body in groups.get(_SAMPLE, []):
        places: list[int] = []
        values: list[int] = []
        for number, value, packed in fields(body):
            if number in (1, 2):
                (places if number == 1 else values).extend(numbers(value, packed))
        if not values:
            raise ValueError("a sample without a value")
        frames = tuple(frame for place in reversed(places) for frame in locations[place])
        weight_ns, count = _signed(values[column]) * scale, _signed(values[counts])
        stacks.append(Merged(frames[0].name if frames else "?", frames[1:], weight_ns, count if counts >= 0 else 1))
    return imported("pprof", stacks, where)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _function(body: bytes, strings: Sequence[str]) -> tuple[int, Frame]:
    found = {number: value for number, value, _ in fields(body)}
    file = strings[found.get(4, 0)]
    return found.get(1, 0), Frame("python" if file.endswith(".py") else "native", strings[found.get(2, 0)] or "?", file)


def _location(body: bytes, functions: dict[int, Frame]) -> tuple[int, tuple[Frame, ...]]:
    """A location's frames, the outermost first (inlined functions are several lines)."""
    identity, address, frames = 0, 0, []
    for number, value, line in fields(body):
        if number == 1:
            identity = value
        elif number == 3:
            address = value
        elif number == 4:
            found = {each: at for each, at, _ in fields(line)}
            frames.append(functions[found.get(1, 0)]._replace(line=found.get(2, 0)))
    return identity, tuple(reversed(frames)) or (Frame("native", f"[{address:#x}]"),)
