"""`tools/soak`: builds nothing, needs root and dist/osremed-host.pyz."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.soak.hosts import SoakHost
from tests.soak.plane import ROOT, Plane
from tests.soak.story import Log, deploy, page, soak
from tests.testbed.state import open_session
from tests.testbed.vm import open_vm
from tests.testbed.vmqemu import Machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/soak", description="Random faults on virtual machines, from a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--log", type=Path, default=ROOT / ".osremed/soak.jsonl")
    parser.add_argument("--page", type=Path, help="also write what came of it as Markdown, such as docs/soak.md")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # then the machines are taken down
    given.log.parent.mkdir(parents=True, exist_ok=True)
    log, session = Log(given.log), open_session()
    plane = Plane(session.directory / "plane")
    try:
        vms = [(f"vm{number}", open_vm(session, Machine(), name=f"vm{number}")) for number in range(given.hosts)]
        plane.write_inventory(vms)
        hosts = [SoakHost(vm, name, plane.intake_port) for name, vm in vms]
        deploy(plane, hosts, ROOT / "dist/osremed-host.pyz")
        log.tell(deployed=[host.name for host in hosts])
        found = soak(plane, hosts, seed=given.seed, minutes=given.minutes, log=log)
    finally:
        plane.close()
        session.close()
    if given.page:
        text = page(log, seed=given.seed, minutes=given.minutes, hosts=given.hosts, found=found)
        given.page.write_text(text, encoding="utf-8")
    print("\n".join(found) if found else "everything held")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
