"""The proxy that the role control_plane sets up: nginx with its settings, before a real console and intake."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn

from osremed.agent.config import Endpoint
from osremed.agent.intake import Result, post
from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.limits import MAX_BODY_BYTES
from osremed.console.tokens import make_token
from osremed.flows.intake import Intake, intake_app
from osremed.flows.listening import listen, serving
from osremed.flows.settings import ControlPaths
from osremed.runbook.approvals import write_approval
from osremed.runbook.store import RunStore
from tests.support import certificates, nginx
from tests.support.console_state import ROOT, past
from tests.support.control_plane_texts import told_of

pytestmark = pytest.mark.ansible
TOKEN = "a-token-of-agents-that-is-long-enough-4f1e"
START_S = 60.0


def until(condition, why):
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@contextlib.contextmanager
def console_of(kept):
    """The console on a free port, told that a proxy stands before it."""
    app = build_app(
        Places(kept.state, kept.inventory, str(ROOT / "collections"), str(ROOT / "runbooks"), "/nowhere/source.yaml")
    )
    listener = listen("console", "127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, proxy_headers=True))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        listener.close()


class Proxy:
    """nginx with the role's settings; what lies in /run there lies in `directory` here."""

    def __init__(self, directory, text, authority):
        self.directory, self.authority = directory, authority
        self._argv = [shutil.which("nginx"), "-e", "stderr", "-c", str(directory / "proxy.conf")]
        (directory / "proxy.conf").write_text(text.replace("/run/osremed-proxy", str(directory)))
        self.take("first")

    def take(self, name):
        """Has another certificate, as the unit puts it there, and looks whether nginx would take it."""
        certificate, key = self.authority.issue(name, "127.0.0.1")
        shutil.copy(certificate, self.directory / "certificate")
        shutil.copy(key, self.directory / "key")
        tried = subprocess.run([*self._argv, "-t", "-q"], capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stderr

    @contextlib.contextmanager
    def running(self, port):
        with open(self.directory / "said", "wb") as said:
            child = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stderr=said)
        try:
            until(lambda: answers(port), (self.directory / "said").read_text)
            yield child.pid
        finally:
            child.terminate()
            child.wait(timeout=30)


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """Console and intake behind the proxy; `context` knows who signed the proxy's certificate."""
    if why := nginx.missing_here() or certificates.missing_here():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("plane")
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(past(folder / "past"))
        console = stack.enter_context(console_of(kept))
        intake = Intake(str(folder / "intake"), lambda: True, lambda _number, _event: None)
        listener = listen("intake", "127.0.0.1", 0)
        stack.callback(intake.close)
        stack.enter_context(serving("intake", intake_app(intake, TOKEN), listener))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        told = told_of(
            folder, control_plane_tls=True, control_plane_tls_host="127.0.0.1", control_plane_tls_port=port,
            control_plane_console_port=console, control_plane_intake_port=listener.getsockname()[1],
        )  # fmt: skip
        # nginx started by root has workers that are nobody: pytest's directories let them not in.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osremed-proxy-")))
        directory.chmod(0o755)
        authority = certificates.Authority(folder)
        proxy = Proxy(directory, told["proxy"], authority)
        pid = stack.enter_context(proxy.running(port))
        context = ssl.create_default_context(cafile=str(authority.certificate))
        person = make_token(kept.state, "ana", ("read",), agent=False)
        yield SimpleNamespace(kept=kept, port=port, context=context, person=person, proxy=proxy, pid=pid)


def ask(plane, path, *, token="", body=None, method=None):
    """(status, headers, body) over TLS, of whatever answered."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    asked = urllib.request.Request(f"https://127.0.0.1:{plane.port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(asked, context=plane.context, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def serial(plane):
    with (
        socket.create_connection(("127.0.0.1", plane.port), timeout=30) as plain,
        plane.context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.getpeercert()["serialNumber"]


@contextlib.contextmanager
def stream(plane):
    """The events of the run that waits for an approval: it has not ended."""
    asking = http.client.HTTPSConnection("127.0.0.1", plane.port, context=plane.context, timeout=60)
    try:
        path = f"/v1/runs/{plane.kept.waiting}/stream"
        asking.request("GET", path, headers={"Authorization": f"Bearer {plane.person}"})
        yield asking.getresponse()
    finally:
        asking.close()


def event_of(answer):
    """The next event's data."""
    while not (line := answer.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix(b"data: "))


def test_who_knows_theauthority_is_answered_and_who_does_not_goes_away(plane):
    status, _headers, body = ask(plane, "/v1/health")
    assert (status, json.loads(body)["ready"]) == (200, True)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"https://127.0.0.1:{plane.port}/v1/health", timeout=60)


def test_plain_http_is_refused_before_any_service_sees_it(plane):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{plane.port}/v1/health", timeout=60)
    with refused.value as answer:
        assert answer.code == 400
        assert b"HTTPS port" in answer.read()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_tls_before_1_2_is_refused_by_the_proxy(plane):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cafile=str(plane.proxy.authority.certificate))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", plane.port), timeout=30) as plain,
        pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("path", ["/v1/health", "/v1/runs", "/no-such-page"])
def test_every_answer_tells_browsers_to_come_over_tls_alone(plane, path):
    assert ask(plane, path)[1].get_all("Strict-Transport-Security") == ["max-age=31536000"]


def test_an_event_told_goes_to_the_intake_and_events_asked_for_come_from_the_console(plane):
    event = {
        "id": "by-proxy",
        "name": "nothing.asks.for.this",
        "host": "h9",
        "attributes": {},
        "time_ns": time.time_ns(),
    }
    body = json.dumps({"events": [event]}).encode()
    status, _headers, said = ask(plane, "/v1/events", token=TOKEN, body=body)
    assert (status, json.loads(said)) == (200, {"acked": ["by-proxy"], "refused": []})
    assert ask(plane, "/v1/events", token="another", body=body)[0] == 401
    assert ask(plane, "/v1/events", token=plane.person)[0] == 200
    assert ask(plane, "/v1/events", token=TOKEN)[0] == 401, "the agents' token is none of the console"
    assert ask(plane, "/v1/alerts", token=TOKEN, body=b'{"alerts": []}')[0] == 200


def test_a_page_sets_its_cookie_for_tls_alone(plane):
    asked = urllib.request.Request(
        f"https://127.0.0.1:{plane.port}/sign-in", f"token={plane.person}".encode(),
        {"Sec-Fetch-Site": "same-origin", "Origin": f"https://127.0.0.1:{plane.port}"},
    )  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=plane.context), Stays())
    with pytest.raises(urllib.error.HTTPError) as went:
        opener.open(asked, timeout=60)
    with went.value as answer:
        assert answer.code == 303, answer.read()
        assert "secure" in answer.headers["Set-Cookie"].lower()


class Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_words):
        return None


def test_a_body_of_the_services_limit_passes_and_one_byte_more_does_not(plane):
    assert ask(plane, "/v1/events", token=TOKEN, body=b" " * MAX_BODY_BYTES)[0] == 422
    assert ask(plane, "/v1/events", token=TOKEN, body=b" " * (MAX_BODY_BYTES + 1))[0] == 413


def test_an_agent_delivers_where_its_host_believes_theauthority_and_nowhere_else(plane, monkeypatch):
    endpoint = Endpoint(True, "127.0.0.1", plane.port, "/v1/events")
    told = {
        "id": "by-agent",
        "name": "nothing.asks.for.this",
        "host": "h9",
        "attributes": {},
        "time_ns": time.time_ns(),
    }
    body = json.dumps({"events": [told]}).encode()
    doubted = post(endpoint, TOKEN, body, timeout_s=60)
    assert (doubted.result, "CERTIFICATE_VERIFY_FAILED" in doubted.detail) == (Result.UNAVAILABLE, True)
    monkeypatch.setenv("SSL_CERT_FILE", str(plane.proxy.authority.certificate))
    assert post(endpoint, TOKEN, body, timeout_s=60).acked == {"by-agent"}
    too_large = post(endpoint, TOKEN, b" " * (MAX_BODY_BYTES + 1), timeout_s=60)
    assert too_large.result is Result.UNFIT, "it tries smaller batches then"


def test_prefect_without_users_is_not_there(plane):
    assert ask(plane, "/api/health")[0] == 404
    assert ask(plane, "/prefect/")[0] == 404


def test_an_event_of_a_stream_arrives_while_the_stream_goes_on(plane):
    with stream(plane) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert event_of(answer)["state"] == "AWAITING_APPROVAL"


def test_a_new_certificate_is_shown_after_a_reload_and_streams_go_on(plane):
    before = serial(plane)
    with stream(plane) as answer:
        event_of(answer)
        plane.proxy.take("renewed")
        os.kill(plane.pid, signal.SIGHUP)
        until(lambda: serial(plane) != before, lambda: "the certificate stays the old one")
        store = RunStore(ControlPaths(plane.kept.state).runs)
        run = store.load(plane.kept.waiting)[0]
        write_approval(store.of(plane.kept.waiting), run, approved=False, by="a test", reason="")
        assert event_of(answer)["state"] == "REFUSED"
