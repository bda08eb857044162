"""One machine of the soak: what runs on it, and the questions asked of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.testbed.vm import Vm, VmError

INTAKE_PORT = 4280
UNITS = ("osremed-fastoom", "osremed-agent", "osremed-timeline", "osremed-hotspot")
_COMMAND = ["/usr/bin/python3", "-ISB", "/opt/osremed/agent/current/osremed"]
#: It serves, holds some memory, and must see the end.
_GATEWAY = """
import http.server
kept = bytearray(40 << 20)
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\\n")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Answers).serve_forever()
"""
_HOG = """
import sys, time
kept = []
while True:
    kept.append(b"x" * (1 << 20))
    time.sleep(1 / float(sys.argv[1]))
"""
#: What the soak wants to know, in one start of an interpreter: a login costs an emulated machine half a second.
_OBSERVE = """
import json, os, re, sys
sys.path.insert(0, "/opt/osremed/agent/current/osremed")
from osremed.core.journal import read_journal
def process(pid):
    try:
        status = open(f"/proc/{pid}/status").read()
        start = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None
    return {"pid": pid, "start_ticks": int(start), "rss_kib": int(re.search(r"VmRSS:\\s+(\\d+)", status)[1])}
def unit(name):
    import subprocess
    pid = int(subprocess.run(["systemctl", "show", "-P", "MainPID", name], capture_output=True, text=True).stdout or 0)
    return process(pid) if pid else None
found = {"units": {name: unit(name) for name in sys.argv[2:]}}
found["oom_kills"] = int(re.search(r"^oom_kill (\\d+)$", open("/proc/vmstat").read(), re.M)[1])
found["uptime_s"] = float(open("/proc/uptime").read().split()[0])
if sys.argv[1] == "events":
    root, found["events"] = "/var/lib/osremed/events", {}
    for name in os.listdir(root):
        told = read_journal(os.path.join(root, name))
        rows = [{key: entry.record.get(key) for key in ("id", "name", "attributes")} for entry in told.entries]
        found["events"][name] = {"rows": rows, "damaged": list(told.damaged), "first_seq": told.first_seq}
print(json.dumps(found))
"""


class SoakHost:
    """`vm` under the name the inventory has. The way to the intake is a forward of our own ssh: the machines of the
    test bed have no other network."""

    def __init__(self, vm: Vm, name: str, intake_port: int) -> None:
        self.vm, self.name = vm, name
        vm.forward_to_here(INTAKE_PORT, intake_port)

    def prepare(self) -> None:
        """What is there before osremed: the service that must live, and the probe of it."""
        for path, text in (("gateway", _GATEWAY), ("hog", _HOG), ("observe", _OBSERVE)):
            self.vm.write(f"/usr/local/lib/{path}.py", text.encode())
        probes = [{"name": "gateway", "url": "http://127.0.0.1:8080/", "every_s": 1, "slow_ms": 1500}]
        policy = {"apiVersion": "osremed/v1", "kind": "HotspotPolicy", "probes": probes}
        self.vm.write("/etc/osremed/hotspot.json", json.dumps(policy).encode())
        self.start_unit("gateway", "/usr/local/lib/gateway.py")
        ask = ["/usr/bin/python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/', timeout=9)"]
        self.until(lambda: self.vm.run(ask)[0] == 0, "the gateway answers", 60)

    def start_unit(self, name: str, program: str, *words: str) -> int:
        """A transient service; its pid."""
        self.vm.check(["systemd-run", "--quiet", f"--unit={name}", "/usr/bin/python3", "-ISB", program, *words])
        return self.main_pid(name)

    def main_pid(self, unit: str) -> int:
        return int(self.vm.check(["systemctl", "show", "-P", "MainPID", unit]).strip() or 0)

    def osremed(self, *words: str) -> Any:
        """The document of a verb; None while it cannot answer."""
        code, out = self.vm.run([*_COMMAND, *words, "-o", "json"])
        return json.loads(out) if code == 0 and out.startswith("{") else None

    def observe(self, *, events: bool = False) -> dict[str, Any]:
        """Units (pid, start, memory), the kernel's kills, and with `events` every journal of events."""
        argv = ["/usr/bin/python3", "-ISB", "/usr/local/lib/observe.py", "events" if events else "-"]
        found: dict[str, Any] = json.loads(self.vm.check([*argv, "gateway", *UNITS], timeout_s=120))
        return found

    def events_named(self, name: str) -> list[dict[str, Any]]:
        journals = self.observe(events=True)["events"].values()
        return [row for journal in journals for row in journal["rows"] if row["name"] == name]

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        """The first true answer. A host that does not answer a question has not answered yes."""

        def asked() -> Any:
            try:
                return condition()
            except (VmError, subprocess.SubprocessError, ValueError):
                return None

        return self.vm.until(asked, f"{self.name}: {what}", timeout_s)

    def kernel_line(self, text: str) -> None:
        """A line in the kernel's log, as a process writes one."""
        self.vm.check(["sh", "-c", 'printf "%s\\n" "$0" > /dev/kmsg', text])

    def set_clock(self, ahead_s: float) -> None:
        self.vm.check(["date", "-s", f"@{time.time() + ahead_s:.3f}"])

    def link(self, *, up: bool) -> None:
        assert self.vm.qmp is not None
        self.vm.qmp.execute("set_link", name="n0", up=up)
