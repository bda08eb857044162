"""nginx with the settings that a page of ours shows, in the network of a namespace host."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
import time
from pathlib import Path

#: Asks over TLS with a certificate it knows: words are URL, Authorization and body (empty: GET).
_ASK = """import json, sys, urllib.error, urllib.request
url, who, body = sys.argv[1:]
headers = {"Content-Type": "application/json", **({"Authorization": who} if who else {})}
try:
    with urllib.request.urlopen(urllib.request.Request(url, body.encode() or None, headers), timeout=20) as answer:
        print(json.dumps([answer.status, json.loads(answer.read())]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, None]))
"""
_START_S = 20.0


def missing_here() -> str:
    """What to install; empty when it can run."""
    there = shutil.which("nginx") and shutil.which("openssl")
    return "" if there else "not installed: apt-get install nginx-light openssl"


def block_of(page: str, first: str) -> str:
    """The indented block of a page whose first line begins with `first`."""
    found = re.search(rf"^    {re.escape(first)}.*\n(?:(?:    .*)?\n)*", page, re.MULTILINE)
    assert found is not None, f"no block with {first!r}"
    return textwrap.dedent(found[0])


class Proxy:
    """Started and asked until its session ends."""

    def __init__(self, bed, host, directory: Path, page: str, *, user: str) -> None:
        self._bed, self._address = bed, host.address
        self._certificate, key, users = directory / "osremed.pem", directory / "osremed.key", directory / "users"
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                "1", "-subj", "/CN=control", "-addext", f"subjectAltName=IP:{host.address}"]  # fmt: skip
        subprocess.run([*argv, "-keyout", key, "-out", self._certificate], check=True, capture_output=True)
        name, _, password = user.partition(":")
        hashed = subprocess.run(["openssl", "passwd", "-apr1", password], check=True, capture_output=True, text=True)
        users.write_text(f"{name}:{hashed.stdout}")
        for each in (directory, users):
            each.chmod(0o755)
        shown = block_of(page, "map $http_upgrade")
        files = {
            "/etc/ssl/osremed.pem": self._certificate,
            "/etc/ssl/osremed.key": key,
            "/etc/nginx/osremed.users": users,
        }
        for written, real in files.items():
            assert written in shown, written
            shown = shown.replace(written, str(real))
        own = "".join(
            f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(
            f"daemon off;\nuser root;\npid {directory}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{own}{shown}}}\n"
        )
        inside = bed.within(host.name, shutil.which("nginx"))
        output = directory / "output"
        bed.session.spawn([*inside, "-e", "stderr", "-c", str(directory / "nginx.conf")], output)
        deadline = time.monotonic() + _START_S
        while not (directory / "pid").exists():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)

    def ask(self, port: int, path: str, who: str, body: str = "") -> tuple[int, object]:
        """(status, document) of a request from another machine."""
        environ = {"SSL_CERT_FILE": str(self._certificate), "PATH": os.environ["PATH"]}
        url = f"https://{self._address}:{port}{path}"
        ended = self._bed.controller(["python3", "-I", "-c", _ASK, url, who, body], env=environ)
        assert ended.returncode == 0, ended.stderr
        status, document = json.loads(ended.stdout)
        return status, document
