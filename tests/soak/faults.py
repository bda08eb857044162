"""What is done to a host or to the control plane, and what must have come of it before the next."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.soak.hosts import UNITS, SoakHost
from tests.soak.plane import Plane

_MIB = 1 << 20
_AGAIN_S = 90  # a minute in which a service is not told of again, and what an emulated machine is late
_TOLD_S = 120  # for what must be told: an emulated machine on two busy cores needs half a minute at worst

Facts = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """`weight`: how often against the others. `act` returns facts for the log and raises VmError when what must come of
    it does not."""

    weight: int
    act: Callable[[Any, random.Random], Facts]


def near_oom(host: SoakHost, chance: random.Random) -> Facts:
    """A leak: the guard ends it, records it, and ends nobody else."""
    name, mib_per_s = f"hog{chance.randrange(1 << 30)}", chance.choice((20, 40, 80))
    pid = host.start_unit(name, "/usr/local/lib/hog.py", str(mib_per_s))
    host.until(lambda: host.main_pid(name) == 0, "the leak ended", 300)
    host.vm.run(["systemctl", "reset-failed", name])
    ended = host.until(lambda: _victims_with(host, pid), f"a record that pid {pid} was ended", _TOLD_S)
    return {"mib_per_s": mib_per_s, "pid": pid, "ended": ended}


def _victims_with(host: SoakHost, pid: int) -> list[int]:
    for row in host.events_named("memory.near_oom"):
        victims = [each["pid"] for each in row["attributes"].get("killed") or ()]
        if pid in victims:
            return victims
    return []


def _injected_xid(host: SoakHost, chance: random.Random) -> str:
    bus = f"{chance.randrange(1, 255):02x}:{chance.randrange(32):02x}"
    code = chance.choice((13, 31, 43, 79, 94))
    host.kernel_line(f"NVRM: Xid (PCI:0000:{bus}): {code}, pid=4242, name=python, a line of the soak")
    return f"0000:{bus}.0"


def _xid_told(host: SoakHost, bdf: str) -> bool:
    return any(bdf[:10] in str(row["attributes"].get("bdf")).lower() for row in host.events_named("gpu.xid"))


def xid(host: SoakHost, chance: random.Random) -> Facts:
    """A line that says a GPU failed, written by a process: told, and told to be that."""
    bdf = _injected_xid(host, chance)
    host.until(lambda: _xid_told(host, bdf), f"gpu.xid of {bdf}", _TOLD_S)
    return {"bdf": bdf}


def jitter(host: SoakHost, chance: random.Random) -> Facts:
    """The service stands still for some seconds: told of it, with its second. Once more after a while when it was slow
    by itself just before: a service is told of once a minute at most."""

    def told() -> int:
        return sum(each["attributes"]["worst"] == "gateway" for each in host.events_named("latency.jitter"))

    before, stops_s, next_s, times = told(), chance.uniform(2.5, 4), 0.0, 0
    stand_still = f"systemctl kill -s STOP gateway; sleep {stops_s:.1f}; systemctl kill -s CONT gateway"

    def told_when_it_stood_still() -> bool:
        nonlocal next_s, times
        if time.monotonic() >= next_s:
            host.vm.check(["sh", "-c", stand_still])
            next_s, times = time.monotonic() + _AGAIN_S, times + 1
        return told() > before

    host.until(told_when_it_stood_still, "latency.jitter of the gateway", 2 * _TOLD_S)
    return {"stopped_s": round(stops_s, 1), "times": times}


def kill_daemon(host: SoakHost, chance: random.Random) -> Facts:
    """One of ours ends without a word: it is there again."""
    unit = chance.choice(UNITS)
    before = host.main_pid(unit)
    host.vm.check(["systemctl", "kill", "-s", "KILL", unit])
    after = host.until(lambda: (pid := host.main_pid(unit)) != before and pid, f"{unit} runs again", 60)
    return {"unit": unit, "before": before, "after": after}


def cut_network(host: SoakHost, chance: random.Random) -> Facts:
    cut_s = chance.uniform(5, 25)
    host.link(up=False)
    try:
        time.sleep(cut_s)
    finally:
        host.link(up=True)
    host.until(lambda: host.vm.run(["true"])[0] == 0, "the host answers again", 90)
    return {"cut_s": round(cut_s, 1)}


def full_disk(host: SoakHost, chance: random.Random) -> Facts:
    """No byte is left, and something happens meanwhile: it is told when there is room again."""
    fill = "free=$(df --output=avail -B1 /var | tail -1); fallocate -l $((free - 4096)) /var/tmp/full; "
    host.vm.check(["sh", "-c", fill + "cat /dev/zero >> /var/tmp/full 2> /dev/null; df --output=avail /var | tail -1"])
    try:
        bdf = _injected_xid(host, chance)
        time.sleep(chance.uniform(5, 15))
    finally:
        host.vm.check(["rm", "-f", "/var/tmp/full"])
    host.until(lambda: _xid_told(host, bdf), f"gpu.xid of {bdf}, from when the disk was full", _TOLD_S)
    return {"bdf": bdf}


def clock_jump(host: SoakHost, chance: random.Random) -> Facts:
    """Forward or back, something happens there, and back to the truth."""
    ahead_s = chance.choice((-3600, -90, 90, 3600))
    host.set_clock(ahead_s)
    try:
        bdf = _injected_xid(host, chance)
        time.sleep(chance.uniform(5, 15))
    finally:
        host.set_clock(0)
    host.until(lambda: _xid_told(host, bdf), f"gpu.xid of {bdf}, from the other time", _TOLD_S)
    return {"ahead_s": ahead_s, "bdf": bdf}


def kill_dispatcher(plane: Plane, chance: random.Random) -> Facts:
    gone_s = chance.uniform(0, 10)
    plane.kill_dispatcher()
    time.sleep(gone_s)
    plane.start_dispatcher()
    return {"gone_s": round(gone_s, 1)}


def kill_prefect(plane: Plane, chance: random.Random) -> Facts:
    gone_s = chance.uniform(0, 20)
    plane.kill_prefect()
    time.sleep(gone_s)
    plane.start_prefect()
    plane.until_ready()
    return {"gone_s": round(gone_s, 1)}


ON_HOSTS: Mapping[str, Fault] = {
    "near_oom": Fault(4, near_oom),
    "xid": Fault(2, xid),
    "jitter": Fault(2, jitter),
    "kill_daemon": Fault(3, kill_daemon),
    "cut_network": Fault(2, cut_network),
    "full_disk": Fault(2, full_disk),
    "clock_jump": Fault(2, clock_jump),
}
ON_PLANE: Mapping[str, Fault] = {"kill_dispatcher": Fault(2, kill_dispatcher), "kill_prefect": Fault(1, kill_prefect)}


def drawn(table: Mapping[str, Fault], chance: random.Random) -> str:
    return chance.choices(list(table), [fault.weight for fault in table.values()])[0]
