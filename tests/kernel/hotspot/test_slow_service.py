"""A service of this host that answers late once: the recorder tells it with the second."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from osremed.core.journal import read_journal

pytestmark = pytest.mark.kernel


def test_an_answer_that_comes_late_is_told_with_its_second(prefix: Path) -> None:
    slow_at_ns: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            Handler.asked += 1
            if Handler.asked == 10:
                slow_at_ns.append(time.time_ns())
                time.sleep(2)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    policy = prefix / "etc/osremed/hotspot.json"
    policy.parent.mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        probe = {"name": "web", "url": address, "every_s": 0.1, "slow_ms": 1500}
        policy.write_text(json.dumps({"apiVersion": "osremed/v1", "kind": "HotspotPolicy", "probes": [probe]}))
        command = [sys.executable, "-m", "osremed", "hotspot", "run", "--segment", "2s", "--ceiling", "90%"]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told = _event(prefix / "var/lib/osremed/events/hotspot", recorder)
        finally:
            recorder.terminate()
            assert recorder.wait(timeout=60) == 0
            server.shutdown()
    assert (told["source"], told["worst"]) == ("probe", "web")
    assert slow_at_ns[0] < told["second_ns"] < slow_at_ns[0] + 2 * 10**9


def _event(directory: Path, recorder: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Attributes of the first one that a probe caused."""
    deadline = time.monotonic() + 90
    while True:
        found = read_journal(str(directory)).entries if directory.is_dir() else ()
        for entry in found:
            attributes: dict[str, Any] = entry.record["attributes"]
            if entry.record["name"] == "latency.jitter" and attributes["source"] == "probe":
                return attributes
        assert recorder.poll() is None, "the recorder ended"
        assert time.monotonic() < deadline, [entry.record for entry in found]
        time.sleep(0.1)
