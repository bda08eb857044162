"""What a host feels near OOM: the longest gap of a fork+exec heartbeat in a VM with a slow disk, under the kernel's own
OOM killer, earlyoom, nohang, systemd-oomd and FastOOM in turn, with and without swap: same workload, a fresh host each.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from figures import tell  # noqa: E402

from tests.support import vm_pressure  # noqa: E402
from tests.testbed.state import open_session  # noqa: E402
from tests.testbed.vm import open_vm  # noqa: E402
from tests.testbed.vmqemu import Machine  # noqa: E402

SWAP_MIB = 96
#: Of the heartbeat, of the leak, and of the services.
MEDIANS = ("longest_gap_s", "at_rest_gap_s", "stalled_s", "seconds", "longest_pass_s", "passes_per_s")
POLICY = {"sensitivity": "medium", "scopes": [{"node": True}]}


def one(session: object, guard: str, *, swap: bool, zipapp: Path, limit_s: float, verbose: bool) -> dict[str, float]:
    vm = open_vm(session, Machine(slow_disk=True, swap=swap))
    try:
        vm_pressure.start_guard(vm, guard, zipapp, POLICY)
        vm_pressure.prepare(vm, swap_mib=SWAP_MIB if swap else 0)
        at_rest = vm_pressure.rest(vm)
        figures = {**vm_pressure.leak_until_ended(vm, mib_per_s=3, timeout_s=limit_s), **at_rest}
        if guard == "fastoom" and not figures["hung"]:
            found = vm_pressure.decisions(vm)
            figures["decisions"] = sum(event["action"] == "killed" for event in found)
            if verbose:
                print(vm.run(["journalctl", "-u", "fastoom", "--no-pager", "-o", "cat"])[1], file=sys.stderr)
        print(f"{'swap' if swap else 'no swap'} {guard} {json.dumps(figures)}", file=sys.stderr, flush=True)
        return figures
    finally:
        vm.close()


def line(guard: str, rows: list[dict[str, float]], *, swap: bool) -> str:
    """Medians (nan of a host that hung), and over all trials how many leaks outlived their time, hosts hung, and
    others ended."""
    middle = "".join(f"{statistics.median(row.get(key, math.nan) for row in rows):>14.2f}" for key in MEDIANS)
    lived, hung = sum(not row["hog_dead"] for row in rows), sum(row["hung"] for row in rows)
    hurt = sum(row["innocents"] for row in rows)
    return f"{'yes' if swap else 'no':<6}{guard:<13}{middle}{lived:>11}{hung:>7}{hurt:>11}   {json.dumps(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--guards", nargs="+", choices=vm_pressure.GUARDS, default=list(vm_pressure.GUARDS))
    parser.add_argument("--swap", choices=("yes", "no", "both"), default="both")
    parser.add_argument("--limit-s", type=float, default=400, help="a leak that lives longer is given up")
    parser.add_argument("--verbose", action="store_true", help="print FastOOM's log of each trial")
    options = parser.parse_args()
    zipapp = ROOT / "dist" / "osremed-host.pyz"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # then the hosts are taken down
    session = open_session()
    print(f"{'swap':<6}{'guard':<13}{''.join(f'{key:>14}' for key in MEDIANS)}   outlived   hung  innocents")
    try:
        for swap in [word == "yes" for word in ("no", "yes") if options.swap in (word, "both")]:
            rows: dict[str, list[dict[str, float]]] = {guard: [] for guard in options.guards}
            for guard in options.trials * options.guards:  # in turn, so that what else the machine does meets all alike
                more = {"limit_s": options.limit_s, "verbose": options.verbose}
                rows[guard].append(one(session, guard, swap=swap, zipapp=zipapp, **more))
            for guard, trials in rows.items():
                print(line(guard, trials, swap=swap), flush=True)
            gaps = {
                guard: [row["longest_gap_s"] for row in rows[guard]]
                for guard in sorted(rows, key=lambda g: g != "fastoom")
            }
            what = "longest gap of a heartbeat near OOM, 768 MB guest with a slow disk"
            tell(f"{what}, {'with' if swap else 'no'} swap", "s", gaps, {"": 1.0} if swap else {})
            what = "longest pass of a service through its working set near OOM, the same guest"
            felt = {guard: [row["longest_pass_s"] for row in rows[guard] if not row["hung"]] for guard in gaps}
            lived = {guard: samples for guard, samples in felt.items() if samples}
            tell(f"{what}, {'with' if swap else 'no'} swap", "s", lived)
    finally:
        session.close()


if __name__ == "__main__":
    main()
