"""How much the sensor may do: its cost decides. Pure."""

from __future__ import annotations

from osremed.core.record import record

_DOWN_ABOVE, _UP_BELOW = 1.0, 0.6  #: of the ceiling
_CALM_ROUNDS = 6  #: rounds below before one step up, so that it does not swing
_LARGE_HOST_CPUS = 64


@record
class Level:
    """What is switched on: share of time the system-call windows are open, stacks of waits, the context-switch program,
    and samples a second. `looks` is how many new programs are looked at (mappings, build ids, the interpreter) in a
    second, beside those that go on running: each takes the recorder half a millisecond, and where programs start by
    the dozen that is its greatest cost."""

    name: str
    looks: int
    duty: float
    stacks: bool
    switches: bool
    hz: int


def levels(cpus: int) -> tuple[Level, ...]:
    """From all to least: first names of new processes are
    found more slowly, then the windows go, then stacks of waits, then context switches, then the rate."""
    hz = 99 if cpus < _LARGE_HOST_CPUS else 49
    return (
        Level("all", 5, 0.01, True, True, hz),
        Level("fewer names", 1, 0.01, True, True, hz),
        Level("no system-call windows", 1, 0.0, True, True, hz),
        Level("no stacks of waits", 1, 0.0, False, True, hz),
        Level("no context switches", 1, 0.0, False, False, hz),
        Level("half the rate", 1, 0.0, False, False, hz // 2),
        Level("a quarter of the rate", 1, 0.0, False, False, hz // 4),
    )


@record
class Governor:
    """`at` is the level, `calm` how many rounds in a row were cheap."""

    at: int = 0
    calm: int = 0


def govern(state: Governor, share: float, ceiling: float, count: int) -> Governor:
    """The next state. `share` of the machine was used in the last round, `ceiling` is allowed; `count` levels exist.
    Above the ceiling: one step down at once, two when it is twice too much. Well below it for a while: one step up."""
    if share > ceiling * _DOWN_ABOVE:
        steps = 2 if share > 2 * ceiling else 1
        return Governor(min(count - 1, state.at + steps))
    if share >= ceiling * _UP_BELOW or state.at == 0:
        return Governor(state.at)
    if state.calm + 1 < _CALM_ROUNDS:
        return Governor(state.at, state.calm + 1)
    return Governor(state.at - 1)
