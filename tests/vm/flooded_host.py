"""A machine of the command flood: its service, who asks it, what floods its memory, and what its owner declares."""

from __future__ import annotations

import json
import re
from pathlib import Path

from osremed.demo import flooded as floods
from osremed.demo import workloads
from osremed.demo.flooded import CONFIG, SERVICE
from tests.soak.hosts import SoakHost

PROGRAMS = "/usr/local/lib/flood"
CONFIG_FILE, ASKED = "/etc/ota-gateway/config.json", "/var/tmp/asked"
SLICE, LIMIT_MIB = "ota.slice", 320
PORT = 8080
URL = f"http://127.0.0.1:{PORT}/"
RECORDER = "osremed-hotspot.service"
_UNIT = f"""[Unit]
Description=Says how many devices are connected

[Service]
ExecStart=/usr/bin/python3 -ISB {PROGRAMS}/flood_gateway.py {PORT} {CONFIG_FILE} %d
Slice={SLICE}
"""
#: As installed it looks for traps every five minutes, and tells at the second look.
_TRAPS = """[Service]
ExecStart=
ExecStart=/usr/bin/python3 -I -S -B /opt/osremed/agent/current/osremed hotspot run --traps %ds
"""
_PROBES_PER_S = 2.0
_LOOKING = ("all", "fewer names")  #: levels of the recorder with windows into system calls
_CALM = f"""
import statistics, sys, time, urllib.request
took = []
for _ in range(40):
    began = time.monotonic()
    urllib.request.urlopen("{URL}", timeout=9).read()
    took.append(time.monotonic() - began)
print(1000 * statistics.median(took))
"""
_ANSWERS = f"import urllib.request as u; u.urlopen('{URL}', timeout=9)"


class FloodedHost(SoakHost):
    """What runs in the slice is a service or a part of the flood; who asks it stands outside."""

    def furnish(self) -> None:
        """What is there before osremed, except that the service serves."""
        self.set_clock(0)
        for name in ("flood_gateway", "hold", "poisson"):
            self.vm.copy(Path(workloads.__path__[0]) / f"{name}.py", f"{PROGRAMS}/{name}.py")
        self.vm.write(f"/etc/systemd/system/{SLICE}", f"[Slice]\nMemoryMax={LIMIT_MIB}M\n".encode())

    def serve(self, devices: int, switch: floods.Switch) -> None:
        """The service serves so many devices, with the configuration it had first; its owner declares the switch."""
        self.vm.write(CONFIG_FILE, floods.json_file(CONFIG))
        declared = floods.declaration(switch, r"flood_gateway\.py", CONFIG_FILE)
        self.vm.write("/etc/osremed/switches.json", floods.json_file(declared))
        self.vm.write(f"/etc/systemd/system/{SERVICE}.service", (_UNIT % devices).encode())
        self.vm.check(["sh", "-c", f"systemctl daemon-reload && systemctl restart {SERVICE}"])
        ask = ["/usr/bin/python3", "-IS", "-c", _ANSWERS]
        self.until(lambda: self.vm.run(ask)[0] == 0, f"{SERVICE} answers", 120)

    def calm_ms(self) -> float:
        """Median of 40 answers, one after the other."""
        return float(self.vm.check(["/usr/bin/python3", "-IS", "-c", _CALM], timeout_s=240))

    def record(self, traps_every_s: int) -> None:
        """The recorder starts anew, and looks for traps so often. On an emulated CPU it costs more than it may, and
        soon looks into no system calls any more: that is waited for. A look patches the kernel, and QEMU goes
        round for ever at a call that another CPU is patching, if it is busy enough."""
        self.vm.write(f"/etc/systemd/system/{RECORDER}.d/traps.conf", (_TRAPS % traps_every_s).encode())
        self.vm.check(["sh", "-c", f"systemctl daemon-reload && systemctl restart {RECORDER}"])
        self.until(lambda: self.recorder()["pid"] == self.main_pid(RECORDER), "the recorder records", 120)
        if self.vm.accel == "tcg":
            self.until(lambda: self.recorder()["level"] not in _LOOKING, "the recorder looks into no system calls", 120)

    def recorder(self) -> dict:
        """What it says of itself."""
        return json.loads(self.vm.check(["cat", "/run/osremed/hotspot.json"]))

    def watch(self, slow_ms: float) -> None:
        """The recorder's policy names the service from now on."""
        self.vm.write("/etc/osremed/hotspot.json", floods.json_file(floods.watching(URL, slow_ms, _PROBES_PER_S)))
        self.vm.check(["systemctl", "reload", RECORDER])

    def start_customers(self, name: str, per_s: float) -> None:
        """Poisson arrivals."""
        argv = ["/usr/bin/python3", "-IS", f"{PROGRAMS}/poisson.py", str(PORT), f"{per_s:.3f}", "11", ASKED]
        self.vm.check(["systemd-run", "--quiet", f"--unit=customers-{name}", *argv])

    def hold(self, name: str, *words: object, flood: bool = False) -> None:
        """A process in the slice that holds memory. One of the flood comes back as often as somebody ends it."""
        back = ("Restart=always", "RestartSec=1s", "StartLimitIntervalSec=0", "OOMPolicy=continue") if flood else ()
        flags = [f"--property={each}" for each in back]
        argv = ["/usr/bin/python3", "-ISB", f"{PROGRAMS}/hold.py", *map(str, words)]
        self.vm.check(["systemd-run", "--quiet", f"--unit={name}", f"--slice={SLICE}", *flags, *argv])

    def stop(self, *units: str) -> None:
        self.vm.check(["systemctl", "stop", *units], timeout_s=120)

    def now_ns(self) -> int:
        """By its own clock."""
        return int(self.vm.check(["date", "+%s%N"]))

    def kernel_oom_kills(self) -> int:
        """Of the whole machine, since it started."""
        found = re.search(r"^oom_kill (\d+)$", self.vm.check(["cat", "/proc/vmstat"]), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def read(self, path: str) -> bytes:
        return self.vm.check(["cat", path]).encode()
