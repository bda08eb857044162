"""A control plane on a namespace host: its archive, its plays, and events sent to its intake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

from tests.nspawn.fleet import ROOT, Fleet

OSREMED = "/opt/osremed/control/current/bin/osremed"
TOKEN = "a-token-that-is-not-to-be-seen-anywhere-8d1f"
PASSWORD = "and-no-more-than-this-one-27c5"
ODD = 'p"a\\s$s`x y'
#: A target that nobody answers for: what waits for it waits.
NOTIFY = {
    "apiVersion": "osremed/v1", "kind": "Notifications", "targets": {"ops": {"chat": {"url_from": "OPS_URL"}}},
    "rules": [{"on": "run", "to": ["ops"]}],
}  # fmt: skip
#: Asks the intake from the host itself: words are the URL, the token and the event.
POST = """import json, sys, urllib.error, urllib.request
url, token, event = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request(url, json.dumps({"events": [json.loads(event)]}).encode(), headers)
try:
    print(urllib.request.urlopen(request, timeout=20).read().decode())
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.code}))
"""


#: Asks over TLS: words are the URL, Authorization and body (empty: GET). Says status, text and headers.
ASK = """import json, sys, urllib.error, urllib.request
url, who, body = sys.argv[1:]
headers = {"Content-Type": "application/json", "Accept": "text/html", **({"Authorization": who} if who else {})}
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, body.encode() or None, headers), timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.code, answer.read().decode(), dict(answer.headers)]))
"""
#: What Prefect says to who opens its stream of events: words are the URL and user:password.
LISTEN = """import asyncio, json, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], subprotocols=["prefect"]) as opened:
        await opened.send(json.dumps({"type": "auth", "token": sys.argv[2]}))
        print(await opened.recv())
asyncio.run(main())
"""


def make_plane(bed, host, directory, *options, **given):
    """One host in the group osremed_control, and the archive for it, built with `options`; its plays have `given`."""
    asked = ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    there = host.run(f"/usr/bin/python3 {asked[0]} {json.dumps(asked[1])}").stdout.strip()
    python = sys.executable if there == "{}.{}".format(*sys.version_info) else f"python{there}"
    archive = directory / "control.tar"
    argv = [sys.executable, str(ROOT / "tools/build_wheelhouse.py"), "--python", python, "--output", str(archive)]
    subprocess.run([*argv, *options], check=True, timeout=300, stdout=subprocess.DEVNULL)
    fleet = Fleet(bed, [host], directory)
    document = json.loads(fleet.inventory.read_text())
    fleet.inventory.write_text(json.dumps({"osremed_control": document["osremed"]}))
    runbooks = directory / "runbooks"
    shutil.copytree(ROOT / "runbooks", runbooks)
    inventory = directory / "fleet.yml"
    hosts = {f"h{number}": {"ansible_host": f"192.0.2.{number}"} for number in range(1, 10)}
    inventory.write_text(json.dumps({"osremed": {"hosts": hosts}}))
    return SimpleNamespace(
        bed=bed, host=host, fleet=fleet, archive=archive, runbooks=runbooks, inventory=inventory, given=given
    )


def play(plane, *words, **variables):
    given = {
        "control_plane_standby": True, "control_plane_console_url": "https://osremed.example",
        "control_plane_prefect_url": "https://prefect.example",
        "control_plane_wheelhouse": str(plane.archive), "control_plane_token": TOKEN,
        "control_plane_prefect_settings": {"PREFECT_ODD": ODD}, "control_plane_prefect_auth": f"osremed:{PASSWORD}",
        "control_plane_notify": NOTIFY, "control_plane_notify_secrets": {"OPS_URL": ODD},
        "control_plane_runbooks_from": str(plane.runbooks), "control_plane_inventory_from": str(plane.inventory),
        **plane.given, **variables,
    }  # fmt: skip
    ended = plane.fleet.play("control_plane", *words, version="", timeout_s=400, **given)
    return SimpleNamespace(code=ended.code, text=ended.text, told=ended.told, recap=ended.recap[plane.host.name])


def ask(plane, path, who="", body=""):
    """Over TLS with the authority's certificate, from another machine."""
    url = f"https://{plane.host.address}:8443{path}"
    ended = _elsewhere(plane, "-I", "-c", ASK, url, who, body)
    assert ended.returncode == 0, ended.stderr
    status, text, headers = json.loads(ended.stdout)
    return SimpleNamespace(status=status, text=text, headers=headers)


def listen_to_prefect(plane, who):
    """What it answers first on its websocket."""
    ended = _elsewhere(plane, "-c", LISTEN, f"wss://{plane.host.address}:8443/api/events/out", who)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def _elsewhere(plane, *words):
    environ = {"SSL_CERT_FILE": str(plane.authority.certificate), "PATH": os.environ["PATH"]}
    return plane.bed.controller([sys.executable, *words], env=environ)


def post(host, token, *, until=0.0, told=None):
    """What the intake says to an event, asked again while it is not there or does not take events yet."""
    event = {"id": f"test-{time.monotonic_ns()}", "name": "nothing.asks.for.this", "host": "h9", "attributes": {}}
    event.update(told or {}, time_ns=time.time_ns())
    words = [POST, "http://127.0.0.1:4280/v1/events", token, json.dumps(event)]
    script = "/usr/bin/python3 -c " + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    while True:
        ended = host.run(script, check=False, timeout_s=40)
        said = json.loads(ended.stdout) if ended.returncode == 0 else {"status": ended.stderr[-300:]}
        if "status" not in said or time.monotonic() > until:
            return {**said, "event": event["id"]}
        time.sleep(1)
