"""What a process holds of device memory, by GPU and the place that asked for it: the calls that were seen, in books.
Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from osremed.core.reading import Missing, Reading, Reason, Value, reading_as_json
from osremed.core.record import record

UNSEEN, OF_CONTEXT, OF_NONE, OF_HOST = -1, -2, -3, -4
#: What stands in the place of a device's number -> why there is none. From -2 on as in gpu_calls.bpf.c.
NO_DEVICE = {
    UNSEEN: "its thread may have chosen a GPU before it was followed",
    OF_CONTEXT: "a context of the driver's API was current",
    OF_NONE: "managed memory, or of a pool",
    OF_HOST: "memory of the host",
}
MOST_HELD = 200_000
MOST_PLACES = 5_000


class Line(NamedTuple):
    """A Python frame; `line` is 0 where the code object does not say."""

    function: str
    file: str
    line: int

    def text(self) -> str:
        return f"{self.function} ({self.file}:{self.line})" if self.line else f"{self.function} ({self.file})"


@record
class Place:
    """Who asked: the function that was called, the library that called it (`offset` in its file), and the Python
    frames, innermost first; and for which of the process's GPUs (`device`: its number there, or a key of NO_DEVICE)."""

    function: str
    library: str
    offset: int
    lines: tuple[Line, ...]
    device: int = UNSEEN


@record
class Held:
    at_ns: int
    bytes: int
    place: Place


class Ledger:
    """Of one process. `unheard` counts releases of what was allocated before the probes came, `unkept` allocations
    beyond the limits, `failed` those that the driver refused, by place."""

    def __init__(self) -> None:
        self.held: dict[int, Held] = {}
        self.released: dict[Place, int] = {}
        self.failed: dict[Place, int] = {}
        self.seen = self.unheard = self.unkept = 0
        self._places: dict[Place, Place] = {}

    def allocated(self, address: int, held: Held) -> None:
        """An address that is held already was released unseen."""
        self.seen += 1
        if len(self.held) >= MOST_HELD or (len(self._places) >= MOST_PLACES and held.place not in self._places):
            self.unkept += 1
            return
        place = self._places.setdefault(held.place, held.place)
        self.held[address] = Held(held.at_ns, held.bytes, place)

    def refused(self, place: Place) -> None:
        self.seen += 1
        if len(self.failed) < MOST_PLACES:
            self.failed[place] = self.failed.get(place, 0) + 1

    def freed(self, address: int) -> None:
        """A null pointer, and the driver's part of a release that was seen at the runtime, say nothing."""
        held = self.held.pop(address, None)
        if held is not None:
            self.released[held.place] = self.released.get(held.place, 0) + 1
        elif address:
            self.unheard += 1


@record
class Share:
    """What one place holds: sizes in order of time, and when each was asked for (monotonic)."""

    place: Place
    bytes: int
    sizes: tuple[int, ...]
    released: int
    times_ns: tuple[int, ...]


def shares(ledger: Ledger, since_ns: int = 0) -> list[Share]:
    """By place, what was allocated at or after `since_ns` and is held still; the most first."""
    by_place: dict[Place, list[Held]] = {}
    for held in ledger.held.values():
        if held.at_ns >= since_ns:
            by_place.setdefault(held.place, []).append(held)
    found = [_share(place, sorted(each, key=_time), ledger) for place, each in by_place.items()]
    return sorted(found, key=lambda share: (-share.bytes, share.times_ns[0]))


def _time(held: Held) -> int:
    return held.at_ns


def _share(place: Place, held: list[Held], ledger: Ledger) -> Share:
    sizes = tuple(each.bytes for each in held)
    return Share(place, sum(sizes), sizes, ledger.released.get(place, 0), tuple(each.at_ns for each in held))


def device_number(device: int) -> Reading[int]:
    """Of a GPU in its process."""
    return Value(device) if device >= 0 else Missing(Reason.NO_DATA, "gpu_calls", NO_DEVICE[device])


def place_json(place: Place, most_lines: int = 12) -> dict[str, Any]:
    return {
        "device": reading_as_json(device_number(place.device)),
        "function": place.function,
        "library": place.library,
        "python": [line.text() for line in place.lines[:most_lines]],
    }


def by_device(found: Iterable[Share]) -> dict[int, int]:
    """Bytes by the number of the GPU, or by the key of NO_DEVICE."""
    sums: dict[int, int] = {}
    for each in found:
        sums[each.place.device] = sums.get(each.place.device, 0) + each.bytes
    return sums


def total_bytes(found: Iterable[Share]) -> int:
    return sum(each.bytes for each in found)
