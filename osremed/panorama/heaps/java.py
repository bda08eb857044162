"""A snapshot of a Java program: the spaces of its heap without a stop, and with consent the objects by class."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.units import format_duration
from osremed.panorama.heaps.model import Pause, Snapshot, TypeRow
from osremed.sensors import jattach
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.jattach import Counters

#: Walks every object at a safepoint; `-all` keeps it from collecting garbage first, which would take longer.
_HISTOGRAM = "GC.class_histogram -all"
_ROW = re.compile(r" *[0-9]+: +([0-9]+) +([0-9]+) +(\S+)(?: \(\S+\))?")
_SPACE_USED = re.compile(r"(sun\.gc\.generation\.[0-9]+\.)(space\.[0-9]+\.)used")
#: Of HotSpot 17 on two busy cores with small objects: 1 ns a byte, 50 ms to bring all threads to a stop.
_PAUSE_S_PER_BYTE, _PAUSE_S = 1e-9, 0.05
_FIRST_SAMPLE_S = 2.0
RUNTIME = "Java (HotSpot)"
_PRIMITIVES = dict(zip("BCDFIJSZ", ("byte", "char", "double", "float", "int", "long", "short", "boolean")))


def snapshot(space: AddressSpace, limit_s: float, rows: int, consent: bool) -> Reading[Snapshot]:
    """Without consent the used bytes of each space (no counts) and a gap that says what a histogram would cost; with it
    objects by class. ProcessLost when it ends meanwhile."""
    jvm = jattach.jvm_mapping(space)
    if isinstance(jvm, Missing):
        return jvm
    began_s = time.monotonic()
    before = _sampled(space, began_s + min(limit_s, _FIRST_SAMPLE_S))
    if isinstance(before, Missing) and not consent:
        return before
    spaces = () if isinstance(before, Missing) else _spaces(before.value)
    used = sum(row.bytes for row in spaces)
    estimated_s = estimate_s(used)
    if not consent:
        wish = f"objects by class need --consent: {_HISTOGRAM} stops it for about {format_duration(estimated_s)}; "
        wish += "with --growth also a flight recording, whose end collects garbage and stops it longer"
        return Value(_snapshot(space, began_s, spaces, gaps=(Missing(Reason.DENIED, jvm.value.path, wish),)))
    answer = jattach.command(space, _HISTOGRAM, limit_s)
    if isinstance(answer, Missing):
        return answer
    classes = parse_histogram(answer.value)
    pause = Pause(estimated_s, stopped_s(before, jattach.counters(space)))
    space.check_same()
    seen = _snapshot(space, began_s, classes, pause=pause)
    return Value(replace(seen, types=classes[:rows], resident_bytes=used or seen.attributed_bytes))


def estimate_s(heap_bytes: int) -> float:
    """How long a walk over so much heap stops the program, said before."""
    return _PAUSE_S + heap_bytes * _PAUSE_S_PER_BYTE


def _sampled(space: AddressSpace, deadline_s: float) -> Reading[Counters]:
    """The counters, once the JVM has filled in its spaces: it samples them every 50 ms, and no running JVM uses 0."""
    while True:
        told = jattach.counters(space)
        if isinstance(told, Missing):
            return told
        if any(row.bytes for row in _spaces(told.value)):
            return told
        if time.monotonic() > deadline_s:
            return Missing(Reason.NO_DATA, "hsperfdata", "the JVM has not sampled its spaces yet")
        time.sleep(0.02)


def _snapshot(
    space: AddressSpace,
    began_s: float,
    rows: tuple[TypeRow, ...],
    *,
    pause: Pause | None = None,
    gaps: tuple[Missing, ...] = (),
) -> Snapshot:
    total = sum(row.bytes for row in rows)
    return Snapshot(
        runtime=RUNTIME,
        method=_HISTOGRAM if pause else "the JVM's own counters; nothing stopped",
        monotonic_s=(began_s + time.monotonic()) / 2,
        resident_bytes=total,
        attributed_bytes=total,
        coverage=1.0,
        types=rows,
        holders=(),
        arenas=(),
        pause=pause,
        torn_reads=space.faults,
        gaps=gaps,
    )


def _spaces(told: Counters) -> tuple[TypeRow, ...]:
    rows = []
    for name, used in told.items():
        match = _SPACE_USED.fullmatch(name)
        if match and isinstance(used, int):
            generation, one = match.groups()
            label = (
                f"{told.get(generation + 'name', generation)} generation, {told.get(generation + one + 'name', one)}"
            )
            rows.append(TypeRow(label, 0, used, used))
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def stopped_s(before: Reading[Counters], after: Reading[Counters]) -> Reading[float]:
    """Time at safepoints between two looks, by the JVM's own clock: the histogram's, and any other's meanwhile."""
    for told in (before, after):
        if isinstance(told, Missing):
            return told
    assert isinstance(before, Value)
    assert isinstance(after, Value)
    first, last = before.value.get("sun.rt.safepointTime"), after.value.get("sun.rt.safepointTime")
    frequency = after.value.get("sun.os.hrt.frequency")
    if not (isinstance(first, int) and isinstance(last, int) and isinstance(frequency, int) and frequency > 0):
        return Missing(Reason.NO_DATA, "hsperfdata", "this JVM does not count its time at safepoints")
    return Value((last - first) / frequency)


def parse_histogram(text: str) -> tuple[TypeRow, ...]:
    """Rows of GC.class_histogram, in its order (by bytes). Lines that are none are passed over."""
    rows = []
    for line in text.split("\n"):
        match = _ROW.fullmatch(line.rstrip())
        if match:
            count, size, name = match.groups()
            rows.append(TypeRow(readable(name), int(count), int(size), 0))
    return tuple(rows)


def readable(name: str) -> str:
    """`[[B` -> `byte[][]`, `[Ljava.lang.String;` -> `java.lang.String[]`."""
    element = name.lstrip("[")
    depth = len(name) - len(element)
    if not depth:
        return name
    if element.startswith("L") and element.endswith(";"):
        return element[1:-1] + "[]" * depth
    return _PRIMITIVES.get(element, element) + "[]" * depth
