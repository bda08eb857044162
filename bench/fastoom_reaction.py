"""Reaction and cost of FastOOM and earlyoom, in turn, under the same made-up memory report.

In a fresh PID and mount namespace /proc/meminfo and /proc/zoneinfo are replaced by files of ours. The report falls
below the limit; the time until the largest process is dead is taken. `far`: it stood at 60 % before; `near`: at 12 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOTAL_KB = 16 << 20
HOG_MIB = 300
LOW_PERCENT, FAR_PERCENT, NEAR_PERCENT = 3, 60, 12
IDLE_S = 10
HERE = os.path.abspath(__file__)
ZIPAPP = os.path.join(os.path.dirname(os.path.dirname(HERE)), "dist", "osremed-host.pyz")
HOG = f"""
import time
block = bytearray({HOG_MIB} << 20)
block[::4096] = b"x" * len(block[::4096])
print("ready", flush=True)
time.sleep(600)
"""
POLICY = {
    "apiVersion": "osremed/v1",
    "kind": "FastoomPolicy",
    "sensitivity": "low",
    "scopes": [{"node": True}],
    "overrides": {"warn_percent": 20, "enter_percent": 10, "leave_percent": 12, "target_percent": 15, "grace_s": 0},
}


def report(percent: int) -> bytes:
    available = TOTAL_KB * percent // 100
    rows = {"MemTotal": TOTAL_KB, "MemFree": available, "MemAvailable": available, "Buffers": 0, "Cached": 0}
    rows |= {"SwapTotal": 0, "SwapFree": 0, "AnonPages": TOTAL_KB - available, "Shmem": 0, "SReclaimable": 0, "Slab": 0}
    return "".join(f"{name}: {value:>12} kB\n" for name, value in rows.items()).encode()


def write(path: str, data: bytes) -> None:
    """In place: the bind mount shows this very file."""
    with open(path, "r+b") as stream:
        stream.write(data.ljust(1024))


def guard_command(peer: str, folder: str) -> list[str]:
    if peer == "earlyoom":
        return ["earlyoom", "-m", "10,10", "-s", "100,100", "-r", "0"]
    return [
        "/usr/bin/python3",
        "-I",
        "-S",
        "-B",
        ZIPAPP,
        "fastoom",
        "run",
        "--policy",
        os.path.join(folder, "policy.json"),
    ]


def cpu_and_rss(pid: int) -> tuple[float, int]:
    with open(f"/proc/{pid}/stat", "rb") as stream:
        fields = stream.read().rsplit(b")", 1)[1].split()
    with open(f"/proc/{pid}/statm", "rb") as stream:
        pages = int(stream.read().split()[1])
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), pages * 4096


def one(peer: str, before: int, folder: str, idle: int) -> dict[str, float]:
    """Inside the namespace: one trial."""
    meminfo, zoneinfo = os.path.join(folder, "meminfo"), os.path.join(folder, "zoneinfo")
    for path in (meminfo, zoneinfo):
        with open(path, "wb") as stream:
            stream.write(
                b" " * 1024 if path == meminfo else b"Node 0, zone   Normal\n  pagesets\n    cpu: 0\n      count: 0\n"
            )
    write(meminfo, report(before))
    subprocess.run(["mount", "--bind", meminfo, "/proc/meminfo"], check=True)
    subprocess.run(["mount", "--bind", zoneinfo, "/proc/zoneinfo"], check=True)
    with open(os.path.join(folder, "policy.json"), "w", encoding="utf-8") as stream:
        json.dump(POLICY, stream)
    for name in ("run/osremed", "var/lib/osremed"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(idle)]
    hog = subprocess.Popen([sys.executable, "-c", HOG], stdout=subprocess.PIPE)
    assert hog.stdout is not None
    hog.stdout.readline()
    environ = {**os.environ, "OSREMED_PREFIX": folder}
    guard = subprocess.Popen(
        guard_command(peer, folder), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(3)
    cpu_before, _ = cpu_and_rss(guard.pid)
    time.sleep(IDLE_S + random.random())  # both poll: the fall must not keep step with either
    cpu_after, rss = cpu_and_rss(guard.pid)
    write(meminfo, report(LOW_PERCENT))
    began = time.monotonic()
    hog.wait(30)
    took = time.monotonic() - began
    innocents = sum(sleeper.poll() is not None for sleeper in sleepers)
    guard.send_signal(signal.SIGKILL)
    for sleeper in sleepers:
        sleeper.kill()
    return {"reaction_s": took, "idle_cpu_s": cpu_after - cpu_before, "rss_bytes": rss, "innocents": innocents}


def trial(peer: str, before: int, idle: int) -> dict[str, float]:
    """One trial in a namespace of its own; when it ends, everything in it is gone."""
    with tempfile.TemporaryDirectory(prefix="osremed-bench-") as folder:
        argv = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child", sys.executable, HERE]
        argv += ["--inside", peer, str(before), folder, "--idle", str(idle)]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{peer}: {ended.stderr[-2000:]}")
    result: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return result


def spread(values: list[float]) -> str:
    return f"{statistics.median(values) * 1000:8.1f} ms  ({min(values) * 1000:.1f} - {max(values) * 1000:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--idle", type=int, default=200, help="idle processes beside the hog")
    parser.add_argument("--inside", nargs=3, metavar=("PEER", "BEFORE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        peer, before, folder = options.inside
        print(json.dumps(one(peer, int(before), folder, options.idle)))
        return
    if os.geteuid() != 0 or not shutil.which("earlyoom"):
        raise SystemExit("needs root and the package earlyoom")
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.trials):
        for name, before in (("far", FAR_PERCENT), ("near", NEAR_PERCENT)):
            for peer in ("fastoom", "earlyoom"):
                results.setdefault((name, peer), []).append(trial(peer, before, options.idle))
    print(f"{options.trials} trials each, {options.idle} idle processes, hog of {HOG_MIB} MiB")
    for name in ("far", "near"):
        times = {peer: [each["reaction_s"] for each in results[name, peer]] for peer in ("fastoom", "earlyoom")}
        for peer, values in times.items():
            print(f"reaction {name:<5} {peer:<9} {spread(values)}")
        ratio = statistics.median(times["fastoom"]) / statistics.median(times["earlyoom"])
        print(f"reaction {name:<5} ratio     {ratio:8.2f}")
    for peer in ("fastoom", "earlyoom"):
        for name in ("far", "near"):
            trials = results[name, peer]
            cpu = statistics.median(each["idle_cpu_s"] for each in trials) / IDLE_S
            rss = statistics.median(each["rss_bytes"] for each in trials) / 2**20
            innocents = sum(each["innocents"] for each in trials)
            print(f"idle {name:<5} {peer:<9} {cpu:.2%} of one core, {rss:.1f} MiB resident, {innocents:.0f} innocents")


if __name__ == "__main__":
    main()
