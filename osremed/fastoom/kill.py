"""The guard's only effect: aim by pidfd, signal the whole batch, follow it until it is gone or its time is up."""

from __future__ import annotations

import _thread
import os
import signal
import time
from collections.abc import Collection, Iterable

from osremed.core.reading import Missing, Reason
from osremed.fastoom.model import Candidate, Killed, Spared, Thresholds
from osremed.sensors import process, procfs

_RELEASE_TRIES, _RELEASE_AGAIN_S = 100, 0.01
_RELEASE_AFTER_NS = 20_000_000  # a victim that can run frees its memory by itself and in parallel; give it that long


class Shot:
    """One victim, held by its pidfd from before the decision until after its end."""

    __slots__ = ("candidate", "gone", "pidfd", "refusal", "released")

    def __init__(self, candidate: Candidate, pidfd: int) -> None:
        self.candidate, self.pidfd = candidate, pidfd
        self.gone, self.released, self.refusal = False, False, ""

    @property
    def identity(self) -> tuple[int, int]:
        return self.candidate.process.pid, self.candidate.process.start_time_ticks


class Flight:
    """A batch on its way. `kill_at_ns` and `deadline_ns` are monotonic; `killed_ns` is 0 until SIGKILL was sent."""

    __slots__ = ("deadline_ns", "deadline_s", "kill_at_ns", "killed_ns", "shots")

    def __init__(self, shots: list[Shot], kill_at_ns: int, deadline_s: float) -> None:
        self.shots, self.kill_at_ns, self.killed_ns = shots, kill_at_ns, 0
        self.deadline_s, self.deadline_ns = deadline_s, kill_at_ns + round(deadline_s * 1e9)

    @property
    def waiting(self) -> list[Shot]:
        """Signalled, and not gone yet."""
        return [shot for shot in self.shots if not shot.gone and not shot.refusal]

    @property
    def killed(self) -> tuple[Killed, ...]:
        return tuple(Killed(shot.candidate, shot.gone) for shot in self.shots if not shot.refusal)

    @property
    def refused(self) -> tuple[Spared, ...]:
        return tuple(spare(shot.candidate, shot.refusal) for shot in self.shots if shot.refusal)


def spare(candidate: Candidate, why: str) -> Spared:
    return Spared(candidate.process.pid, candidate.process.name, why, candidate.process.heap_bytes)


def aim(
    victims: Iterable[Candidate], members: Collection[int], proc: str = procfs.PROC
) -> tuple[list[Shot], list[Spared]]:
    """Pidfds of the victims that are still who they were and still in the scope; the others with the reason."""
    shots: list[Shot] = []
    spared: list[Spared] = []
    for victim in victims:
        if victim.process.pid not in members:
            spared.append(spare(victim, "left the scope"))
            continue
        pidfd = process.open_verified(victim.process.pid, victim.process.start_time_ticks, proc)
        if isinstance(pidfd, Missing):
            spared.append(spare(victim, str(pidfd)))
        else:
            shots.append(Shot(victim, pidfd.value))
    return shots, spared


def fire(shots: list[Shot], thresholds: Thresholds, *, now_ns: int, urgent: bool) -> Flight:
    """Signals every shot before anything else is done: SIGTERM when there is a grace, SIGKILL when there is none or it
    is urgent."""
    grace_s = 0.0 if urgent else thresholds.grace_s
    flight = Flight(shots, now_ns + round(grace_s * 1e9), thresholds.deadline_s)
    if grace_s:
        _signal(shots, signal.SIGTERM)
    else:
        _kill(flight, now_ns)
    return flight


def follow(flight: Flight, *, now_ns: int, urgent: bool) -> bool:
    """One look without waiting: marks who is gone, turns SIGTERM into SIGKILL when the grace is over or it is urgent,
    helps the kernel free what lingers. True when all are gone or the deadline passed."""
    exited = process.wait_exited([shot.pidfd for shot in flight.waiting], 0)
    for shot in flight.waiting:
        shot.gone = shot.pidfd in exited
    if not flight.waiting:
        return True
    if not flight.killed_ns:
        if urgent or now_ns >= flight.kill_at_ns:
            _kill(flight, now_ns)
    elif now_ns - flight.killed_ns >= _RELEASE_AFTER_NS:
        _release(flight.waiting)
    return now_ns >= flight.deadline_ns


def close(shots: Iterable[Shot]) -> None:
    for shot in shots:
        os.close(shot.pidfd)


def _kill(flight: Flight, now_ns: int) -> None:
    flight.killed_ns = now_ns
    flight.deadline_ns = now_ns + round(flight.deadline_s * 1e9)
    _signal(flight.waiting, signal.SIGKILL)
    for shot in flight.waiting:
        process.hasten(shot.candidate.process.pid)


def _signal(shots: Iterable[Shot], signal_number: int) -> None:
    for shot in shots:
        failure = process.send(shot.pidfd, signal_number)
        if failure is None:
            continue
        if failure.reason is Reason.GONE:
            shot.gone = True
        else:
            shot.refusal = f"cannot be signalled: {failure}"


def _release(shots: Iterable[Shot]) -> None:
    """In a thread of its own, on descriptors of its own: freeing a large victim's pages takes the caller as long as it
    would take the victim, and meanwhile others must be looked after."""
    due = [shot for shot in shots if not shot.released]
    for shot in due:
        shot.released = True
    pidfds = [os.dup(shot.pidfd) for shot in due]
    if pidfds:
        try:
            _thread.start_new_thread(_release_all, (pidfds,))
        except RuntimeError:  # no memory for a thread: then here
            _release_all(pidfds)


def _release_all(pidfds: Iterable[int]) -> None:
    """Each until it is done or there is nothing left to free, at most a second of trying."""
    for pidfd in pidfds:
        for _ in range(_RELEASE_TRIES):
            failure = process.release_memory(pidfd)
            if failure is None or failure.reason is not Reason.TIMED_OUT:
                break
            time.sleep(_RELEASE_AGAIN_S)
        os.close(pidfd)
