"""FastOOM beside earlyoom and nohang, in turn, under the same made-up memory report: reaction, batch, innocents, cost.

In a fresh PID and mount namespace /proc/meminfo and /proc/zoneinfo are replaced by files of ours, so no host is ever
short of memory. The fall begins at a random moment: all three poll, and nobody's clock may keep step with ours.

reaction   the report falls from 60 % (far) or 12 % (near) to 4.6 %; until the largest process is dead. `floor` is the
           same with a SIGKILL by the bench itself: what no guard can beat
batch      60 workers must all die before the report is above the limit; each death raises it by what it held
innocents  two processes map a file and two share memory, each larger than the hog by resident size
idle       CPU time of 20 s at 60 %, and resident memory
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from figures import tell

TOTAL_KB = 16 << 20
LIMIT_PERCENT, LOW_PERCENT = 10, 4.6
LEVELS = {"far": 60, "near": 12}
HOG_MIB, WORKERS, WORKER_MIB, IDLE_S = 104, 60, 10, 20
HERE = os.path.abspath(__file__)
ZIPAPP = os.path.join(os.path.dirname(os.path.dirname(HERE)), "dist", "osremed-host.pyz")
PEERS = ("fastoom", "earlyoom", "nohang")
HOLD = """
import mmap, sys, time
kind, size = sys.argv[1], int(sys.argv[2]) << 20
if kind == "anon":
    memory = bytearray(size)
    memory[::4096] = b"x" * len(memory[::4096])
else:
    file = open(sys.argv[3], "r+b")
    memory = mmap.mmap(file.fileno(), 0)
    total = sum(memory[offset] for offset in range(0, len(memory), 4096))
print("ready", flush=True)
time.sleep(600)
"""
NOHANG = {
    "soft_threshold_min_mem": f"{LIMIT_PERCENT} %",
    "hard_threshold_min_mem": f"{LIMIT_PERCENT / 2:g} %",
    "warning_threshold_min_mem": "20 %",
}


class Report:
    """The made-up memory of the namespace; written in place, since the bind mount shows this very file."""

    def __init__(self, folder: str) -> None:
        self.path, zones = os.path.join(folder, "meminfo"), os.path.join(folder, "zoneinfo")
        with open(self.path, "wb") as stream:
            stream.write(b" " * 1024)
        with open(zones, "wb") as stream:
            stream.write(b"Node 0, zone   Normal\n  pagesets\n    cpu: 0\n      count: 0\n")
        self.set_percent(60)
        for source, name in ((self.path, "meminfo"), (zones, "zoneinfo")):
            subprocess.run(["mount", "--bind", source, f"/proc/{name}"], check=True)

    def set_percent(self, percent: float) -> None:
        self.set_kb(round(TOTAL_KB * percent / 100))

    def set_kb(self, available: int) -> None:
        rows = {"MemTotal": TOTAL_KB, "MemFree": available, "MemAvailable": available, "Buffers": 0, "Cached": 0}
        rows |= {"SwapCached": 0, "Active(file)": 0, "Inactive(file)": 0, "SwapTotal": 0, "SwapFree": 0}
        rows |= {"AnonPages": TOTAL_KB - available, "Shmem": 0, "Slab": 0, "SReclaimable": 0}
        text = "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in rows.items())
        with open(self.path, "r+b") as stream:
            stream.write(text.encode().ljust(1024, b"\n"))


def policy(sensitivity: str, target_percent: float) -> dict[str, object]:
    lines = {"warn_percent": 20, "enter_percent": LIMIT_PERCENT, "leave_percent": LIMIT_PERCENT + 0.02}
    return {
        "apiVersion": "osremed/v1",
        "kind": "FastoomPolicy",
        "sensitivity": sensitivity,
        "scopes": [{"node": True}],
        "overrides": {**lines, "target_percent": target_percent, "grace_s": 0},
    }


def command(peer: str, folder: str) -> list[str]:
    if peer == "earlyoom":
        return ["earlyoom", "-m", f"{LIMIT_PERCENT},{LIMIT_PERCENT / 2:g}", "-s", "100,100", "-r", "0"]
    if peer == "nohang":
        with open("/etc/nohang/nohang.conf", encoding="utf-8") as stream:
            lines = stream.read().split("\n")
        lines = [next((f"{k} = {v}" for k, v in NOHANG.items() if line.startswith(k)), line) for line in lines]
        path = os.path.join(folder, "nohang.conf")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines))
        os.chmod(path, 0o644)
        return [shutil.which("nohang") or "nohang", "--monitor", "--config", path]
    return ["/usr/bin/python3", "-I", "-S", "-B", ZIPAPP, "fastoom", "run", "--policy", f"{folder}/policy.json"]


def start_guard(peer: str, folder: str, rules: dict[str, object]) -> subprocess.Popen[bytes]:
    """Started, and past its own start-up; then a random while, so that its polls and ours are strangers."""
    with open(os.path.join(folder, "policy.json"), "w", encoding="utf-8") as stream:
        json.dump(rules, stream)
    environ = {**os.environ, "OSREMED_PREFIX": folder}
    silent = subprocess.DEVNULL
    guard = subprocess.Popen(command(peer, folder), env=environ, stdout=silent, stderr=silent)
    time.sleep(4 + 2 * random.random())
    assert guard.poll() is None, f"{peer} ended"
    return guard


def hold(kind: str, mib: int, path: str = "") -> subprocess.Popen[bytes]:
    argv = ["/usr/bin/python3", "-ISB", "-c", HOLD, kind, str(mib), path]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def wait_for_end(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Returns the moment it ends; Popen.wait with a limit looks every 50 ms only. SystemExit when it lives on."""
    descriptor = os.pidfd_open(process.pid)
    ended, _, _ = select.select([descriptor], [], [], limit_s)
    os.close(descriptor)
    if not ended:
        raise SystemExit(f"the victim outlived {limit_s:g} s")
    process.wait()


def anon_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("RssAnon"))


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat", encoding="utf-8") as stream:
        return int(stream.read().split()[0]) / 1e9


def reaction(report: Report, peer: str, folder: str, level: str) -> dict[str, float]:
    hog = hold("anon", HOG_MIB)
    report.set_percent(LEVELS[level])
    if peer == "floor":
        began = time.monotonic()
        hog.kill()
    else:
        start_guard(peer, folder, policy("medium", 10.5))
        report.set_percent(LOW_PERCENT)
        began = time.monotonic()
    wait_for_end(hog, 60)
    return {"seconds": time.monotonic() - began}


def batch(report: Report, peer: str, folder: str) -> dict[str, float]:
    workers = {one.pid: one for one in [hold("anon", WORKER_MIB) for _ in range(WORKERS)]}
    held = {pid: anon_kb(pid) for pid in workers}
    available = TOTAL_KB * LIMIT_PERCENT // 100 - sum(held.values()) + min(held.values()) // 2
    start_guard(peer, folder, policy("medium", 10.02))
    report.set_kb(available)
    began = time.monotonic()
    while workers and time.monotonic() - began < 60:
        gone = [pid for pid, one in workers.items() if one.poll() is not None]
        for pid in gone:
            del workers[pid]
            available += held[pid]
        if gone:
            report.set_kb(available)
        time.sleep(0.001)
    return {"seconds": time.monotonic() - began, "left": len(workers)}


def innocents(report: Report, peer: str, folder: str) -> dict[str, float]:
    files = []
    for name, directory in (("mapped", folder), ("shared", "/dev/shm")):
        files.append(os.path.join(directory, f"osremed-bench-{name}-{os.getpid()}"))
        with open(files[-1], "wb") as stream:
            stream.write(b"x" * (HOG_MIB * 3 // 2 << 20))
    bystanders = [hold("file", 0, path) for path in files for _ in range(2)]
    hog = hold("anon", HOG_MIB)
    start_guard(peer, folder, policy("medium", 10.5))
    report.set_percent(LOW_PERCENT)
    began = time.monotonic()
    try:
        wait_for_end(hog, 60)
        took = time.monotonic() - began
        report.set_percent(60)
    finally:
        os.unlink(files[1])
    return {"seconds": took, "innocents": sum(one.poll() is not None for one in bystanders)}


def idle(report: Report, peer: str, folder: str, sensitivity: str) -> dict[str, float]:
    report.set_percent(60)
    guard = start_guard(peer, folder, policy(sensitivity, 10.5))
    before = cpu_s(guard.pid)
    time.sleep(IDLE_S)
    used = cpu_s(guard.pid) - before
    with open(f"/proc/{guard.pid}/statm", encoding="ascii") as stream:
        resident = int(stream.read().split()[1]) * mmap.PAGESIZE
    return {"cpu_ratio": used / IDLE_S, "rss_mb": resident / 1e6}


def inside(name: str, peer: str, folder: str, bystanders: int) -> dict[str, float]:
    """One trial; when it ends the namespace ends, and everything in it."""
    report = Report(folder)
    for directory in ("run/osremed", "var/lib/osremed"):
        os.makedirs(os.path.join(folder, directory), exist_ok=True)
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(bystanders)]
    what, _, detail = name.partition(" ")
    scenarios = {"reaction": reaction, "idle": idle}
    result = scenarios[what](report, peer, folder, detail) if detail else SIMPLE[what](report, peer, folder)
    result["innocents"] = result.get("innocents", 0) + sum(one.poll() is not None for one in sleepers)
    return result


SIMPLE = {"batch": batch, "innocents": innocents}


def trial(name: str, peer: str, bystanders: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="osremed-bench-") as folder:
        argv = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child", sys.executable, HERE]
        argv += ["--inside", name, peer, folder, "--bystanders", str(bystanders)]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{name} {peer}: {ended.stderr[-2000:]}")
    result: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return result


#: scenario -> (figure, unit, factor, our goal as a share of earlyoom's)
ROWS = {
    "reaction near": ("seconds", "ms", 1000.0, 1 / 2),
    "reaction far": ("seconds", "ms", 1000.0, 1 / 5),
    "batch": ("seconds", "ms", 1000.0, 1 / 30),
    "innocents": ("seconds", "ms", 1000.0, None),
    "idle low": ("cpu_ratio", "% CPU", 100.0, 3),
    "idle medium": ("cpu_ratio", "% CPU", 100.0, 3),
}


def show(results: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    print(f"{'':<16}{'':<10}{'median':>10}{'least':>10}{'most':>10}        innocents  of earlyoom's")
    for name, (figure, unit, factor, goal) in ROWS.items():
        medians = {}
        for peer in ("floor", *PEERS):
            rows = results.get((name, peer))
            if not rows:
                continue
            values = [row[figure] * factor for row in rows]
            medians[peer] = statistics.median(values)
            hurt = sum(row["innocents"] for row in rows)
            share = f"{medians[peer] / medians['earlyoom']:.3f}" if peer == "nohang" else ""
            print(
                f"{name:<16}{peer:<10}{medians[peer]:>10.3f}{min(values):>10.3f}{max(values):>10.3f} {unit:<6}", end=""
            )
            print(f"{hurt:>10.0f}  {share}")
        if goal and {"fastoom", "earlyoom"} <= set(medians):
            ratio = medians["fastoom"] / medians["earlyoom"]
            word = "met" if ratio <= goal else "NOT met: we lose here"
            print(f"{name:<16}ratio {ratio:.3f}, goal {goal:.3f}: {word}")
    for peer in PEERS:
        sizes = [
            row["rss_mb"] for (name, who), rows in results.items() if who == peer for row in rows if "rss_mb" in row
        ]
        if sizes:
            print(f"resident        {peer:<10}{statistics.median(sizes):>10.1f} MB")


def tell_all(results: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    """What `show` prints, to the scoreboard."""
    for name, (figure, unit, factor, goal) in ROWS.items():
        rows = {peer: results[name, peer] for peer in PEERS if (name, peer) in results}
        if "fastoom" in rows:
            players = {peer: [row[figure] * factor for row in trials] for peer, trials in rows.items()}
            tell(name, unit, players, {"earlyoom": goal} if goal else {})
            tell(f"innocents ended, {name}", "", {p: [row["innocents"] for row in rows[p]] for p in rows}, {"": 0})
    sizes = {who: [row["rss_mb"] for (_, p), rows in results.items() if p == who for row in rows if "rss_mb" in row]
             for who in PEERS}  # fmt: skip
    if all(sizes.values()):
        tell("resident memory", "MB", sizes, {"": 15})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--bystanders", type=int, default=1000, help="idle processes beside the hog")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--json", help="also write every figure to this file")
    parser.add_argument("--inside", nargs=3, metavar=("NAME", "PEER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        name, peer, folder = options.inside
        print(json.dumps(inside(name, peer, folder, options.bystanders)), flush=True)
        os._exit(0)  # as pid 1 of the namespace it takes the rest along
    if os.geteuid() != 0 or not shutil.which("earlyoom") or not shutil.which("nohang"):
        raise SystemExit("needs root and the packages earlyoom and nohang")
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was measured so far is shown
    try:
        for done in range(options.trials):
            one_round(results, options, done)
    finally:
        report(results, options)


def one_round(results: dict[tuple[str, str], list[dict[str, float]]], options: argparse.Namespace, done: int) -> None:
    """One trial of each scenario and guard; of those that take long, in a third of the rounds."""
    for name in options.only:
        if not name.startswith("reaction") and done >= max(1, options.trials // 3):
            continue
        for peer in (*PEERS, "floor") if name == "reaction near" else PEERS:
            results.setdefault((name, peer), []).append(trial(name, peer, options.bystanders))


def report(results: dict[tuple[str, str], list[dict[str, float]]], options: argparse.Namespace) -> None:
    counts = {name: len(rows) for (name, peer), rows in results.items() if peer == PEERS[0]}
    print(f"trials: {counts}, {options.bystanders} idle processes, hog of {HOG_MIB} MiB, load {os.getloadavg()[0]:.1f}")
    show(results)
    tell_all(results)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump([{"scenario": n, "guard": p, "trials": rows} for (n, p), rows in results.items()], stream)


if __name__ == "__main__":
    main()
