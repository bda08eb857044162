"""What a host feels near OOM: the longest gap of a fork+exec heartbeat in a VM with a slow disk, under the kernel's own
OOM killer, earlyoom, nohang and FastOOM in turn, with and without swap: same workload, a fresh host each time.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import vm_pressure  # noqa: E402
from tests.testbed.state import open_session  # noqa: E402
from tests.testbed.vm import open_vm  # noqa: E402
from tests.testbed.vmqemu import Machine  # noqa: E402

POLICY = {"sensitivity": "medium", "scopes": [{"node": True}]}


def one(session: object, guard: str, *, swap: bool, zipapp: Path, verbose: bool) -> dict[str, float]:
    vm = open_vm(session, Machine(slow_disk=True, swap=swap))
    try:
        vm_pressure.prepare(vm)
        since = len(vm.beats_ms())
        vm_pressure.start_guard(vm, guard, zipapp, POLICY)
        at_rest = max(vm.heartbeat_gaps(since)[1:] or [0.0])
        figures = vm_pressure.leak_until_ended(vm, first_mib=200 if swap else 150, mib_per_s=3, timeout_s=400)
        figures["at_rest_gap_s"] = round(at_rest, 2)
        if guard == "fastoom":
            found = vm_pressure.decisions(vm)
            figures["decisions"] = sum(event["action"] == "killed" for event in found)
            if verbose:
                print(vm.run(["journalctl", "-u", "fastoom", "--no-pager", "-o", "cat"])[1], file=sys.stderr)
        return figures
    finally:
        vm.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--guards", nargs="+", choices=vm_pressure.GUARDS, default=list(vm_pressure.GUARDS))
    parser.add_argument("--swap", choices=("yes", "no", "both"), default="both")
    parser.add_argument("--verbose", action="store_true", help="print FastOOM's log of each trial")
    options = parser.parse_args()
    zipapp = ROOT / "dist" / "osremed-host.pyz"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # then the hosts are taken down
    session = open_session()
    print(f"{'swap':<6}{'guard':<10}{'longest gap':>12}{'at rest':>9}{'stalled':>9}{'hog dead':>10}{'innocents':>11}")
    try:
        for swap in [word == "yes" for word in ("no", "yes") if options.swap in (word, "both")]:
            for guard in options.guards:
                rows = [
                    one(session, guard, swap=swap, zipapp=zipapp, verbose=options.verbose)
                    for _ in range(options.trials)
                ]
                keys = ("longest_gap_s", "at_rest_gap_s", "stalled_s", "hog_dead_after_s")
                middle = {key: statistics.median(row[key] for row in rows) for key in keys}
                hurt = sum(row["innocents"] for row in rows)
                cells = "".join(f"{middle[key]:>{width}.1f} s" for key, width in zip(keys, (10, 7, 7, 8)))
                print(f"{'yes' if swap else 'no':<6}{guard:<10}{cells}{hurt:>11}   {json.dumps(rows)}", flush=True)
    finally:
        session.close()


if __name__ == "__main__":
    main()
