"""Those the sampler has just met, looked at while they live: what they map, what they are, how to walk their frames."""

from __future__ import annotations

from osremed.hotspot import records
from osremed.hotspot.capture import Capture, Captured, Key
from osremed.hotspot.sensor import Sensor

_TICK_NS = 10_000_000
_SURE_SAMPLES = 4  #: 40 ms on a CPU: such a program is always looked at
_MOST_WAITING = 500  #: programs that are still to be looked at
_GAP_MANY = "more processes began at once than may be looked at: some have no names"
_GAP_FULL = "more Python processes than the sampler has room for: the others have native stacks only"
_GAP_ENDED = "some processes ended before they could be looked at: their addresses have no names"


class Encounters:
    """`looks_left` is how many more may be looked at before the next second; `to_write` is what the book of names does
    not say yet."""

    def __init__(self, sensor: Sensor, capture: Capture) -> None:
        self._sensor, self._capture = sensor, capture
        self.looks_left = 0
        self.to_write: dict[Key, Captured] = {}
        self._waiting: dict[Key, tuple[int, int, str]] = {}  #: samples, its number in its own namespace, its name
        self._untold: dict[Key, Captured] = {}  #: Python programs that the sampler has no room for
        self._gaps: set[str] = set()

    def meet(self) -> bytes:
        """Texts the sampler has sent, as they belong into the book; who is met in them is looked at."""
        batch = self._sensor.take_texts()
        for begin, _ in batch.spans:
            if batch.data[begin] == records.MET:
                _, program, tgid, start_ns, samples, inside, comm = records.MEETING.unpack_from(batch.data, begin)
                self._waiting[tgid, start_ns // _TICK_NS, program] = samples, inside, records.comm_text(comm)
        if self._waiting:
            self._look_at_those_waiting()
        return batch.data

    def take_gaps(self) -> set[str]:
        """What has no names since the last call, and why."""
        gaps, self._gaps = self._gaps | self._capture.gaps, set()
        self._capture.gaps = set()
        return gaps | ({_GAP_FULL} if self._untold else set())

    def forget_ended(self) -> list[Captured]:
        """Those that are not there any more; how to walk them is forgotten with them."""
        ended = list(self._capture.forget_ended())
        for each in ended:
            self._untold.pop(each.key, None)
            if each.told and not self._walked(each.key):
                self._sensor.forget_python(each.key[0])
        while self._untold and self._tell_frames(next(iter(self._untold.values()))):
            pass
        return ended

    def write_all_again(self) -> None:
        """For a new book."""
        self.to_write = dict(self._capture.processes)

    def _look_at_those_waiting(self) -> None:
        """Those with the most samples first; who has ended costs next to nothing."""
        left: dict[Key, tuple[int, int, str]] = {}
        for key, (samples, inside, name) in sorted(self._waiting.items(), key=lambda each: -each[1][0]):
            fresh = key not in self._capture.processes
            if fresh and self.looks_left <= 0 and samples < _SURE_SAMPLES:
                self._gaps.add(_GAP_MANY)
                if len(left) < _MOST_WAITING:
                    left[key] = samples, inside, name
                continue
            captured = self._capture.see(key, samples, inside, name)
            if captured is None:
                self._gaps.add(_GAP_ENDED)
                continue
            self.looks_left -= fresh
            self._introduce(captured)
        self._waiting = left

    def _introduce(self, captured: Captured) -> None:
        """The sampler how to walk its frames, and the book what it is."""
        if captured.interpreter is not None and not captured.told:
            self._tell_frames(captured)
        if captured.unwritten:
            captured.unwritten = False
            self.to_write[captured.key] = captured

    def _tell_frames(self, captured: Captured) -> bool:
        """False when there is no room for it now."""
        interpreter = captured.interpreter
        if interpreter is not None:
            captured.told = self._sensor.set_python(captured.key[0], interpreter.layout.walk(interpreter.runtime))
        if captured.told:
            self._untold.pop(captured.key, None)
        else:
            self._untold[captured.key] = captured
        return captured.told

    def _walked(self, key: Key) -> bool:
        """Whether what the process has become is a Python program too."""
        return any(each.told for each in self._capture.processes.values() if each.key[:2] == key[:2])
