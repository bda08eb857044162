#!/usr/bin/env python3
"""Events against rules: osremed's matcher beside ansible-rulebook, the same rules and the same file of events, in turn,
each in a process of its own that prints a line for each match. Prints events a second, CPU time an event, the time from
an event's reading to its line, peak memory, and how often each rule fired: both must agree.

    bench/runbook.py /path/to/ansible-rulebook [events]
    OSREMED_ANSIBLE_RULEBOOK=/path/to/ansible-rulebook bench/run runbook        also into the scoreboard

20,000 events at once unless told otherwise, then 2,000 at 200 a second, three times each: half an hour, alone on the
machine. 500 show in a few minutes that it works; figures are then those of the start of a JVM.

The engines are compared, so neither writes to disk; `durable` is osremed once more, with intake and decisions fsynced.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
HOSTS = 1000
PACE_PER_S = 200
PACED_EVENTS = 2000
BEGIN_NS = 1_800_000_000 * 10**9

#: workload -> (share of events that match, `throttle` of both)
WORKLOADS = {
    "none matches": (0.0, {}),
    "1 of 100 matches": (0.01, {}),
    "all match, once within 10m a host": (1.0, {"once_within": "10m"}),
    "all match, 3 within 10m a host": (1.0, {"accumulate_within": "10m", "threshold": 3}),
}

#: figure -> what the scoreboard calls it, its unit, the most of the peer's that it may be
TOLD = (("events_per_s", "time of an event", "us", 0.5), ("p95_ms", "p95 of a match", "ms", 1.0),
        ("peak_mib", "peak memory", "MiB", 0.5))  # fmt: skip

SOURCE = """
import asyncio, json, time
async def main(queue, args):
    pace = float(args["pace_per_s"])
    print("BEGIN", time.time_ns(), flush=True)
    begin = time.monotonic()
    for number, line in enumerate(open(args["file"])):
        if pace:
            await asyncio.sleep(max(0.0, begin + number / pace - time.monotonic()))
        event = json.loads(line)
        event["sent_ns"] = time.time_ns()
        await queue.put(event)
"""

OURS = """
import json, sys, time
from osremed.core.event import event_from_json
from osremed.runbook.catalog import load_catalog
from osremed.runbook.matcher import Matcher
rules, file, pace = sys.argv[1], sys.argv[2], float(sys.argv[3])
matcher = Matcher(load_catalog(rules))
print("BEGIN", time.time_ns(), flush=True)
begin = time.monotonic()
for number, line in enumerate(open(file)):
    if pace:
        time.sleep(max(0.0, begin + number / pace - time.monotonic()))
    sent_ns = time.time_ns()
    for match in matcher.hear(event_from_json(json.loads(line))):
        if match.event is not None:
            print("HIT" if match.event.name == "bench.near_oom" else "END", sent_ns, flush=True)
"""

DURABLE = """
import asyncio, json, os, sys, tempfile, time
from osremed.core.clock import SystemClock
from osremed.core.event import event_from_json
from osremed.flows.intake import Intake
from osremed.runbook.audit import Audit
from osremed.runbook.catalog import load_catalog
from osremed.runbook.deciding import Deciding
from osremed.runbook.operate import Operator
from osremed.runbook.store import RunStore
rules, file = sys.argv[1], sys.argv[2]
folder, told = tempfile.mkdtemp(dir=os.path.dirname(file)), []
intake = Intake(folder + "/intake", lambda: True, lambda seq, event: told.append(event))
operator = Operator(None, RunStore(folder + "/runs"), SystemClock(), frozenset())
deciding = Deciding(operator, Audit(folder + "/decisions"), load_catalog(rules), lambda opened: None)
print("BEGIN", time.time_ns(), flush=True)
lines = open(file).readlines()
for begin in range(0, len(lines), 256):
    intake.accept([event_from_json(json.loads(line)) for line in lines[begin:begin + 256]])
    asyncio.run(deciding.answer(deciding.hear(told[begin:])))
print("END", time.time_ns(), flush=True)
"""


def write_events(path: Path, count: int, share: float) -> None:
    every = round(1 / share) if share else 0
    with path.open("w") as out:
        for number in range(count):
            wanted = every and number % every == 0
            attributes = {"level": "high" if wanted else "low", "available_ratio": 0.05, "scope": "node"}
            name, host, at_ns = "bench.near_oom", f"host-{number % HOSTS}", BEGIN_NS + number * 1_000_000
            document = {"id": f"e{number}", "name": name, "host": host, "time_ns": at_ns, "attributes": attributes}
            out.write(json.dumps(document) + "\n")
        end = {"id": "end", "name": "bench.end", "host": "host-0", "time_ns": BEGIN_NS, "attributes": {}}
        out.write(json.dumps(end) + "\n")


def write_ours(folder: Path, throttle: dict[str, object]) -> Path:
    """The shipped runbook with the workload's rule; a second one for the last event."""
    text = (ROOT / "runbooks/near-oom/runbook.yaml").read_text()
    head, guards = text[: text.index("\non:")], text[text.index("\nguards:") :]
    rule = {"event": "bench.near_oom", "where": "event.level == 'high'", **({"throttle": throttle} if throttle else {})}
    for name, trigger in (("near-oom", rule), ("bench-end", {"event": "bench.end"})):
        book = folder / "ours" / name / "runbook.yaml"
        book.parent.mkdir(parents=True)
        book.write_text(f"{head.replace('name: near-oom', f'name: {name}')}\non: [{json.dumps(trigger)}]\n{guards}")
    return folder / "ours"


def write_theirs(folder: Path, events: Path, throttle: dict[str, object], pace: float) -> list[str]:
    sources = folder / "sources"
    sources.mkdir()
    (sources / "feed.py").write_text(SOURCE)
    near = {
        "name": "near-oom",
        "condition": 'event.name == "bench.near_oom" and event.attributes.level == "high"',
        "action": {"debug": {"msg": "HIT {{ event.sent_ns }}"}},
    }
    if throttle:
        long = {
            key: value.replace("m", " minutes") if isinstance(value, str) else value for key, value in throttle.items()
        }
        near["throttle"] = {**long, "group_by_attributes": ["event.host"]}
    stop = [{"debug": {"msg": "END {{ event.sent_ns }}"}}, {"shutdown": {}}]
    end = {"name": "end", "condition": 'event.name == "bench.end"', "actions": stop}
    feed = {"file": str(events), "pace_per_s": pace}
    (folder / "rules.yml").write_text(
        json.dumps([{"name": "bench", "hosts": "all", "sources": [{"feed": feed}], "rules": [near, end]}])
    )
    (folder / "inventory.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    return ["--rulebook", str(folder / "rules.yml"), "-i", str(folder / "inventory.yml"), "-S", str(sources)]


def measure(argv: list[str], events: int) -> dict[str, float]:
    """Runs it to its END line; latencies are from `sent_ns` to the line's arrival here."""
    environ = {**os.environ, "PATH": f"{os.path.dirname(argv[0])}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ, cwd=ROOT)
    begin_ns = end_ns = peak_mib = 0
    latencies_ms: list[float] = []
    for line in child.stdout or ():
        arrived_ns = time.time_ns()
        found = re.search(r"(BEGIN|HIT|END) ([0-9]+)", line)
        if found and found.group(1) == "BEGIN":
            begin_ns, cpu_s = int(found.group(2)), cpu_of(child.pid)
        elif found and found.group(1) == "HIT":
            latencies_ms.append((arrived_ns - int(found.group(2))) / 1e6)
        elif found and not end_ns:
            end_ns, cpu_s, peak_mib = arrived_ns, cpu_of(child.pid) - cpu_s, peak_mib_of(child.pid)
    child.wait()
    told = {"events_per_s": events / ((end_ns - begin_ns) / 1e9), "cpu_us": cpu_s * 1e6 / events, "peak_mib": peak_mib}
    told["hits"] = len(latencies_ms)
    if len(latencies_ms) > 1:
        cut = quantiles(latencies_ms, n=20)
        told.update(p50_ms=median(latencies_ms), p95_ms=cut[18], max_ms=max(latencies_ms))
    return told


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib_of(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) // 1024 if found else 0


def trial(
    theirs: str, count: int, share: float, throttle: dict[str, object], pace: float
) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.jsonl", count, share)
        ours = [str(write_ours(folder, throttle)), str(folder / "events.jsonl"), str(pace)]
        told = {"osremed": measure([sys.executable, "-c", OURS, *ours], count)}
        if not pace and not share:
            told["durable"] = measure([sys.executable, "-c", DURABLE, *ours], count)
        arguments = write_theirs(folder, folder / "events.jsonl", throttle, pace)
        told["ansible-rulebook"] = measure([theirs, *arguments], count)
        return told


def show(title: str, trials: list[dict[str, dict[str, float]]]) -> None:
    print(f"\n{title}")
    for key, what, unit, most in TOLD:
        if key in trials[0]["osremed"]:
            players = {name: [each[name][key] for each in trials] for name in ("osremed", "ansible-rulebook")}
            if key == "events_per_s":
                players = {name: [1e6 / each for each in samples] for name, samples in players.items()}
            tell(f"{what}, {title}", unit, players, {"ansible-rulebook": most})
    for name in trials[0]:
        keys = trials[0][name]
        middle = {key: median(each[name].get(key, 0.0) for each in trials) for key in keys}
        print(f"  {name:<17} " + "  ".join(f"{key} {value:.4g}" for key, value in middle.items()))
    rates = [each["osremed"]["events_per_s"] / each["ansible-rulebook"]["events_per_s"] for each in trials]
    memory = [each["osremed"]["peak_mib"] / each["ansible-rulebook"]["peak_mib"] for each in trials]
    print(f"  events/s x{median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f}), memory x{median(memory):.2f}")
    if any(each["osremed"]["hits"] != each["ansible-rulebook"]["hits"] for each in trials):
        print("  THEY DISAGREE on what matches")


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    theirs, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    print(subprocess.run([theirs, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0])
    for title, (share, throttle) in WORKLOADS.items():
        show(f"{title}: {count} events at once", [trial(theirs, count, share, throttle, 0) for _ in range(ROUNDS)])
    paced = [trial(theirs, PACED_EVENTS, 0.1, {}, PACE_PER_S) for _ in range(ROUNDS)]
    show(f"1 of 10 matches: {PACED_EVENTS} events, {PACE_PER_S} a second", paced)
    return 0


if __name__ == "__main__":
    sys.exit(main())
