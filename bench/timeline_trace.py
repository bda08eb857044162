#!/usr/bin/env python3
"""Reading and splitting a profiler trace: osremed against HTA, the same files, in turn, each in a process of its own.
Prints CPU seconds, peak memory, and both sides' figures: they must agree. HTA's interpreter is the argument.

    bench/timeline_trace.py /path/to/python-with-hta [steps]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from figures import tell

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
GOALS = {"load_s": 1 / 3, "peak_mib": 1 / 2}  # the most of HTA's

PEAK = """
import json, re, sys, time
def peak():  # not ru_maxrss: that one remembers the parent from before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024
"""

OURS = """
from osremed.timeline.blame import Blame
from osremed.timeline.split import device_events, split_device
from osremed.timeline.trace import load_trace
began, base = time.process_time(), peak()
trace = load_trace(sys.argv[1] + "/rank_0.json")
told = {"load_s": time.process_time() - began, "peak_mib": peak(), "above_imports_mib": peak() - base}
blame = Blame(trace)
((device, events),) = device_events(trace).items()
split = split_device(trace, device, events, blame.launches)
told.update(idle_us=split.idle_ns / 1000, compute_us=split.compute_ns / 1000, span_us=split.span_ns / 1000)
print(json.dumps(told))
"""

THEIRS = """
import logging
logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
began, base = time.process_time(), peak()
analysis = TraceAnalysis(trace_files={0: sys.argv[1] + "/rank_0.json"}, trace_dir=sys.argv[1])
told = {"load_s": time.process_time() - began, "peak_mib": peak(), "above_imports_mib": peak() - base}
row = analysis.get_temporal_breakdown(visualize=False).iloc[0]
told.update(idle_us=float(row["idle_time(us)"]), compute_us=float(row["compute_time(us)"]))
told.update(span_us=float(row["kernel_time(us)"]))
print(json.dumps(told))
"""


def main() -> int:
    python, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    sys.path.insert(0, str(ROOT))
    from tests.support.cuda_trace import job  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        (document,) = job(steps=steps)
        path = Path(folder, "rank_0.json")
        path.write_text(json.dumps(document, indent=1))
        print(f"{path.stat().st_size / 1e6:.0f} MB, {len(document['traceEvents'])} events")
        del document
        results: dict[str, list[dict[str, float]]] = {"osremed": [], "HTA": []}
        for _ in range(ROUNDS):
            for name, command in (
                ("osremed", [sys.executable, "-c", PEAK + OURS]),
                ("HTA", [python, "-c", PEAK + THEIRS]),
            ):
                done = subprocess.run([*command, folder], capture_output=True, text=True, cwd=ROOT, check=False)
                if done.returncode:
                    print(done.stderr)
                    return 1
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    for key in results["HTA"][0]:
        ours, theirs = (median(each[key] for each in results[name]) for name in ("osremed", "HTA"))
        if key in GOALS:
            samples = {name: [each[key] for each in rows] for name, rows in results.items()}
            tell(f"loading a profiler trace: {key}", key.rpartition("_")[2], samples, {"HTA": GOALS[key]})
        print(f"{key:12} osremed {ours:14.2f}  HTA {theirs:14.2f}  HTA / osremed {theirs / ours:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
