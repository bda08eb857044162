"""One client for all runs, which asks soon again what a busy Prefect refused."""

from __future__ import annotations

import asyncio
import http.server
import threading
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from osremed.flows import client
from osremed.flows.client import SoonAgain, one_client


class Server:
    """Refuses the first `busy` requests with 503; counts them and their connections."""

    def __init__(self, busy=0, headers=None):
        self.asked, self.connections = 0, set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.asked += 1
                server.connections.add(self.client_address)
                self.send_response(503 if server.asked <= busy else 200)
                for name, value in {"Content-Length": "2", **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"[]")

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    made = []

    def make(**options):
        made.append(Server(**options))
        return made[-1]

    yield make
    for each in made:
        each.http.shutdown()
        each.http.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(client, "_FIRST_S", 0.001)
    monkeypatch.setattr(client, "_LONGEST_S", 0.002)


def ask(url):
    async def asking():
        async with httpx.AsyncClient(transport=SoonAgain()) as asks:
            return (await asks.get(url)).status_code

    return asyncio.run(asking())


def test_what_a_busy_server_refused_is_asked_again(server):
    busy = server(busy=3)
    assert (ask(busy.url), busy.asked) == (200, 4)


def test_a_server_that_stays_busy_is_believed_in_the_end(server):
    busy = server(busy=1000)
    assert (ask(busy.url), busy.asked) == (503, 9)


def test_a_server_that_says_when_is_not_pressed(server):
    busy = server(busy=1000, headers={"Retry-After": "5"})
    assert (ask(busy.url), busy.asked) == (503, 1)


def test_all_within_share_one_client_of_four_connections(server):
    up = server()

    async def asking():
        async with one_client():
            given = [get_client() for _ in range(3)]

            async def one(of):
                async with of as entered:
                    await entered._client.get("/health")

            await asyncio.gather(*(one(given[number % 3]) for number in range(40)))
            return given

    with temporary_settings({PREFECT_API_URL: up.url}):
        given = asyncio.run(asking())
    assert given[0] is given[1] is given[2]
    assert up.asked == 40
    assert 1 <= len(up.connections) <= 4


def test_it_is_made_while_prefect_is_away():
    async def making():
        async with one_client():
            return True

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert asyncio.run(making())
