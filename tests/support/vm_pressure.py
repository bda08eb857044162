"""The near-OOM workload of a VM host, and the guards that may meet it: readers that need the page cache, and a leak."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tests.testbed.vm import VmError

PROGRAM = "/opt/osremed/host/current/osremed"
COMMAND = ["/usr/bin/python3", "-I", "-S", "-B", PROGRAM]
READERS, FILE_MIB = 4, 300
_SETTLE_BEATS, _REST_BEATS = 20, 40
_FIRST_MIB = 240
_MOST_LOST_LOGINS = 5
GUARDS = ("kernel", "earlyoom", "nohang", "systemd-oomd", "fastoom")

_READER = """
import mmap, sys, time
with open("/var/tmp/working-set", "rb") as file:
    memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
passes = open("/run/passes-" + sys.argv[1], "w", buffering=1)
while True:
    began = time.monotonic()
    memory[::4096]
    passes.write(f"{began:.3f} {time.monotonic():.3f}\\n")
    time.sleep(0.1)
"""
_LEAK = """
import sys, time
kept = [b"x" * (1 << 20) for _ in range(int(sys.argv[1]))]
pause_s = 1 / float(sys.argv[2])
while True:
    kept.append(b"x" * (1 << 20))
    time.sleep(pause_s)
"""
_IDLE = """
import time
kept = [b"x" * (1 << 20) for _ in range(%d)]
while True:
    time.sleep(60)
"""
_MAPPED = """
import mmap
with open("/var/tmp/large", "rb") as file:
    memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
while True:
    memory[::4096]
"""
_IDLE_MIB, _LARGE_MIB = 430, 300  # together more than there is
#: What reads much and grows little, each for a while beside a big heap that idles.
INNOCENTS = {
    "reread": ["sh", "-c", "while true; do cat /var/tmp/large > /dev/null; done"],
    "mapped": ["/usr/bin/python3", "-ISB", "/usr/local/lib/mapped.py"],
    "backup": ["sh", "-c", "tar cf - /usr /var/tmp/large | dd of=/var/tmp/backup bs=1M"],
    "compile": ["sh", "-c", "python3 -m compileall -q -f -j 2 /usr/lib/python3 || test $? -eq 1"],
}
_UNIT = """[Service]
Type=notify
WatchdogSec=60s
ExecStart={command}
Slice=hostcritical.slice
OOMScoreAdjust=-1000
MemoryMin=64M
MemorySwapMax=0
LimitMEMLOCK=infinity
"""


def prepare(vm: Any, *, swap_mib: int = 0) -> None:
    """Four readers run, and their file is in memory. Less swap than the host has makes a leak reach its end sooner."""
    if swap_mib:
        vm.check(["sh", "-c", f"swapoff /dev/vdb && mkswap -q /dev/vdb {swap_mib << 10} && swapon /dev/vdb"])
    vm.write("/usr/local/lib/reader.py", _READER.encode())
    vm.write("/usr/local/lib/leak.py", _LEAK.encode())
    size = f"count={FILE_MIB}"
    vm.check(["dd", "if=/dev/zero", "of=/var/tmp/working-set", "bs=1M", size, "status=none"], timeout_s=240)
    vm.check(["sync"], timeout_s=240)
    for number in range(READERS):
        unit(vm, f"reader{number}", ["/usr/bin/python3", "-ISB", "/usr/local/lib/reader.py", str(number)])
    seen = len(vm.beats_ms())
    vm.until(lambda: len(vm.beats_ms()) > seen + _SETTLE_BEATS, "the readers settle", 120)


def prepare_innocents(vm: Any) -> int:
    """A heap that idles, and a file that does not fit beside it; the heap's pid."""
    vm.write("/usr/local/lib/idle.py", (_IDLE % _IDLE_MIB).encode())
    vm.write("/usr/local/lib/mapped.py", _MAPPED.encode())
    size = f"count={_LARGE_MIB}"
    vm.check(["dd", "if=/dev/zero", "of=/var/tmp/large", "bs=1M", size, "status=none"], timeout_s=240)
    vm.check(["sync"], timeout_s=240)
    unit(vm, "idle", ["/usr/bin/python3", "-ISB", "/usr/local/lib/idle.py"])
    idle = main_pid(vm, "idle")
    vm.until(lambda: heap_mib(vm, idle) >= _IDLE_MIB, "the idle heap is there", 120)
    return idle


def innocent_for(vm: Any, name: str, seconds: float) -> bool:
    """Whether it was still at work, or done, after that time: nobody ended it."""
    unit(vm, name, INNOCENTS[name], "--property=RemainAfterExit=yes")
    time.sleep(seconds)
    fine = vm.run(["systemctl", "is-failed", name], timeout_s=120)[1].strip() == "active"
    vm.check(["systemctl", "stop", name], timeout_s=120)
    return fine


def rest(vm: Any) -> dict[str, float]:
    """While nothing leaks: the longest gap, and what the services do (`passes`)."""
    since, began = len(vm.beats_ms()), uptime_s(vm)
    vm.until(lambda: len(vm.beats_ms()) > since + _REST_BEATS, "beats at rest", 120)
    gaps = vm.heartbeat_gaps(since)
    return {f"at_rest_{name}": each for name, each in {"gap_s": max(gaps), **passes(vm, began)}.items()}


def uptime_s(vm: Any) -> float:
    return float(vm.check(["cat", "/proc/uptime"], timeout_s=120).split()[0])


def passes(vm: Any, since_s: float) -> dict[str, float]:
    """What the services felt since that uptime: how often each of them came through its working set, and how long the
    longest time took (it may be the one that is under way)."""
    now_s, names = uptime_s(vm), [f"/run/passes-{number}" for number in range(READERS)]
    pairs = [tuple(map(float, line.split())) for line in vm.check(["cat", *names], timeout_s=120).splitlines()]
    done = [(begin, end) for begin, end in pairs if end >= since_s]
    last = [float(vm.check(["tail", "-n", "1", name], timeout_s=120).split()[1]) for name in names]
    longest = max([end - max(begin, since_s) for begin, end in done] + [now_s - end for end in last])
    per_s = len(done) / READERS / max(now_s - since_s, 0.1)
    return {"passes_per_s": round(per_s, 2), "longest_pass_s": round(longest, 2)}


def unit(vm: Any, name: str, argv: list[str], *flags: str) -> None:
    vm.check(["systemd-run", "--quiet", f"--unit={name}", *flags, *argv])


def start_guard(vm: Any, guard: str, zipapp: Path, policy: dict[str, Any]) -> None:
    """Returns once the guard runs; `kernel` is none."""
    if guard == "fastoom":
        vm.copy(zipapp, PROGRAM)
        document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", **policy}
        vm.write("/etc/osremed/fastoom.json", json.dumps(document).encode())
        text = _UNIT.format(command=" ".join([*COMMAND, "fastoom", "run"]))
        vm.write("/etc/systemd/system/fastoom.service", text.encode())
        vm.check(["systemctl", "daemon-reload"])
        vm.check(["systemctl", "start", "fastoom"], timeout_s=120)
    elif guard in ("earlyoom", "nohang"):
        path = Path(shutil.which(guard) or f"/usr/sbin/{guard}")
        vm.copy(path, f"/usr/local/bin/{guard}")
        argv = [f"/usr/local/bin/{guard}"]
        if guard == "nohang":
            vm.copy(Path("/etc/nohang/nohang.conf"), "/etc/nohang.conf")
            argv = ["/usr/bin/python3", *argv, "--monitor", "--config", "/etc/nohang.conf"]
        unit(vm, guard, argv, "--property=OOMScoreAdjust=-1000", "--property=LimitMEMLOCK=infinity")
    elif guard == "systemd-oomd":
        start_oomd(vm)


def start_oomd(vm: Any) -> None:
    """With the pressure and the swap that its package sets for the slices it is given: here that of the services."""
    vm.copy(Path("/lib/systemd/systemd-oomd"), "/usr/local/bin/systemd-oomd")
    vm.write("/etc/systemd/oomd.conf", b"[OOM]\nDefaultMemoryPressureDurationSec=20s\n")
    vm.check(["systemctl", "set-property", "--runtime", "--", "-.slice", "ManagedOOMSwap=kill"])
    limits = ["ManagedOOMMemoryPressure=kill", "ManagedOOMMemoryPressureLimit=50%"]
    vm.check(["systemctl", "set-property", "--runtime", "system.slice", *limits])
    own = ["RuntimeDirectory=systemd/oom", "OOMScoreAdjust=-900", "MemoryMin=64M"]
    unit(vm, "oomd", ["/usr/local/bin/systemd-oomd"], *(f"--property={one}" for one in own))


def main_pid(vm: Any, name: str) -> int:
    return int(vm.check(["systemctl", "show", name, "--property=MainPID"], timeout_s=120).strip().split("=")[1])


def leak_until_ended(vm: Any, *, mib_per_s: float, timeout_s: float = 300) -> dict[str, Any]:
    """Runs the leak to its end, or as long as it is given, and says what the host felt: gaps of a heartbeat that forks
    and executes, from when the leak has its first 240 MiB (it takes them at once, which costs the others CPU and no
    memory). `hog_dead` is false when it outlived its time, and `seconds` then that time; `hung` when the host stopped
    to answer in it, and the gap is then what had passed when that was given up. An ended login is an innocent."""
    leak = ["/usr/bin/python3", "-ISB", "/usr/local/lib/leak.py", str(_FIRST_MIB), str(mib_per_s)]
    unit(vm, "hog", leak, "--property=OOMPolicy=continue")
    hog = main_pid(vm, "hog")
    vm.until(lambda: heap_mib(vm, hog) >= _FIRST_MIB, "the leak has its first memory", 120)
    since, began, began_there = len(vm.beats_ms()), time.monotonic(), uptime_s(vm)
    lost_logins = 0
    while True:
        try:
            while (alive := main_pid(vm, "hog") != 0) and time.monotonic() < began + timeout_s:
                time.sleep(0.2)
            took = time.monotonic() - began
            gaps = vm.heartbeat_gaps(since)
            readers = sum(main_pid(vm, f"reader{number}") == 0 for number in range(READERS))
            served = passes(vm, began_there)
            break
        except VmError as error:
            lost_logins += 1
            if lost_logins > _MOST_LOST_LOGINS or not vm.try_login():
                return hung(vm, since, time.monotonic() - began, str(error))
    return {
        "hog": hog,
        "hog_dead": not alive,
        "seconds": round(took, 1),
        "longest_gap_s": round(max(gaps), 2),
        "stalled_s": round(sum(gap for gap in gaps if gap > 0.5), 1),
        "innocents": readers + lost_logins,
        "hung": False,
        **served,
    }


def hung(vm: Any, since: int, seconds: float, why: str) -> dict[str, Any]:
    """The figures of a host that answers no more, up to now; who of the others lives is not known, and none counted."""
    if vm.has_ended():
        raise VmError(why)
    beats = vm.beats_ms()[since:]
    gaps = [(later - earlier) / 1000 for earlier, later in zip(beats, beats[1:])] + [vm.since_last_beat_s()]
    stalled = sum(gap for gap in gaps if gap > 0.5)
    longest = {"longest_gap_s": round(max(gaps), 2), "stalled_s": round(stalled, 1), "innocents": 0}
    return {"hog_dead": False, "seconds": round(seconds, 1), **longest, "hung": True, "why": why.partition("\n")[0]}


def heap_mib(vm: Any, pid: int) -> int:
    words = vm.check(["grep", "-E", "RssAnon|VmSwap", f"/proc/{pid}/status"], timeout_s=120).split()
    return (int(words[1]) + int(words[4])) >> 10


def decisions(vm: Any) -> list[dict[str, Any]]:
    """FastOOM's own record of what it decided."""
    code, out = vm.run([*COMMAND, "fastoom", "events", "--limit", "50", "-o", "json"], timeout_s=120)
    events = json.loads(out)["events"] if code == 0 else []
    return [event["attributes"] for event in events if event["name"] == "memory.near_oom"]
