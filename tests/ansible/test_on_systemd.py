"""service_restart and wheel_release on a namespace host with a real systemd."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.nspawn.conftest import bed, nspawn_hosts  # noqa: F401  fixtures

pytestmark = [pytest.mark.kernel, pytest.mark.ansible]
ROOT = Path(__file__).resolve().parents[2]
#: A release that answers on a port.
SERVE = (
    "import http.server\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', 8099), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
)


def test_services_and_releases_on_a_real_systemd(bed, nspawn_hosts, tmp_path):  # noqa: F811
    inventory = bed.write_inventory(tmp_path / "hosts.json", nspawn_hosts(1))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environ = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "HOME": str(tmp_path),
    }
    argv = ["ansible-playbook", "-i", str(inventory), str(Path(__file__).parent / "systemd/play.yml")]
    ended = bed.controller([*argv, "-e", json.dumps({"serve": SERVE})], timeout_s=240, env=environ, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
