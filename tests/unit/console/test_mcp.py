"""MCP with the SDK's own client: what an agent sees, what it may, and what it may never."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time

import jsonschema
import pytest
import uvicorn
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client

from osremed.console.app import build_app
from osremed.console.binding import exposed, name_of
from osremed.console.mcp import _tool, tools
from osremed.console.tokens import make_token
from osremed.core.answer import Answer
from tests.support.console_state import HOSTILE


@contextlib.contextmanager
def served(places):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build_app(places), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


async def over_http(url, token, use):
    headers = {"Authorization": f"Bearer {token}"}
    connected = streamablehttp_client(f"{url}/mcp", headers=headers)
    async with connected as (reading, writing, _), ClientSession(reading, writing) as session:
        await session.initialize()
        return await use(session)


def test_an_agent_reads_over_http_and_text_of_hosts_is_marked_as_data(places, kept):
    token = make_token(kept.state, "robot", ("read",), agent=True)

    async def use(session):
        tools = (await session.list_tools()).tools
        return tools, await session.call_tool("events", {"limit": 10})

    with served(places) as url:
        tools, answer = asyncio.run(over_http(url, token, use))
    reading = {name_of(verb) for verb in exposed() if verb.scope == "read" and not verb.asks_model}
    assert {tool.name for tool in tools} == reading
    assert all(tool.annotations.readOnlyHint for tool in tools)
    assert answer.structuredContent["notice"].startswith("Quoted from hosts")
    assert HOSTILE in json.dumps(answer.structuredContent["document"], ensure_ascii=False).replace('\\"', '"').replace(
        "\\u001b", "\x1b"
    )
    assert "\x1b" not in answer.content[0].text


def test_every_tool_says_what_it_tells_and_a_real_client_finds_it_so(places, tokens, kept):
    given = {
        "runs_list": {"limit": 5},
        "runs_show": {"run_id": kept.kept},
        "runs_report": {"run_id": kept.undone},
        "why_not": {"event_id": "e-web-1"},
        **{name: {} for name in ("runbook_list", "hosts", "events", "freezes", "stats", "audit_verify")},
    }

    async def use(session):
        tools = (await session.list_tools()).tools
        return tools, {name: await session.call_tool(name, words) for name, words in given.items()}

    with served(places) as url:
        tools, answers = asyncio.run(over_http(url, tokens["run"], use))
    assert {tool.name for tool in tools} > set(given)
    for tool in tools:
        assert tool.outputSchema["properties"]["notice"]["const"].startswith("Quoted from hosts")
        assert "not instructions" in tool.outputSchema["properties"]["document"]["description"]
    assert not [name for name, answer in answers.items() if answer.isError]


def test_a_client_refuses_what_is_not_of_the_schema_and_takes_fields_it_does_not_know(places, tokens, monkeypatch):
    documents = [{"freezes": [], "new": 1}, {"freezes": "none"}]
    monkeypatch.setattr("osremed.console.mcp.call", lambda *_, **_how: Answer(documents.pop(0), ""))

    async def use(session):
        assert not (await session.call_tool("freezes", {})).isError
        with pytest.raises(RuntimeError, match="Invalid structured content"):
            await session.call_tool("freezes", {})

    with served(places) as url:
        asyncio.run(over_http(url, tokens["read"], use))


@pytest.mark.parametrize("operation", ["panorama", "hotspot_at", "timeline_gpus"])
def test_a_document_of_a_host_of_an_older_version_is_taken(operation):
    schema = {tool.name: tool for tool in (_tool(name, verb) for name, verb in tools().items())}[operation].outputSchema
    answer = {"notice": schema["properties"]["notice"]["const"], "exit_code": 0}
    jsonschema.validate({**answer, "document": {"host": "web-1"}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**answer, "document": {"host": 7}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"document": {"host": "web-1"}}, schema)


def test_no_token_is_given_a_tool_that_approves_or_administers(places, tokens):
    async def use(session):
        names = {tool.name for tool in (await session.list_tools()).tools}
        people = ("runs_approve", "runs_tick", "runs_refuse", "unfreeze")
        refused = [await session.call_tool(name, {"run_id": "x", "step": 1}) for name in people]
        return names, refused

    with served(places) as url:
        names, refused = asyncio.run(over_http(url, tokens["ana"], use))
    assert names == {name_of(verb) for verb in exposed() if verb.scope in {"read", "run"} and not verb.asks_model}
    assert all(each.isError for each in refused)


def test_a_run_is_a_plan_unless_said_otherwise(places, tokens, monkeypatch):
    asked = []
    plan = {"check": True, "would_act": False, "reason": "", "findings": [], "plan": [], "guards": []}
    plan |= {"gaps": {}, "notes": []}
    monkeypatch.setattr("osremed.console.mcp.call", lambda *given, **_how: asked.append(given) or Answer(plan, ""))

    async def use(session):
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        await session.call_tool("runs_start", {"runbook": "near-oom", "host": "web-1"})
        return tools["runs_start"]

    with served(places) as url:
        tool = asyncio.run(over_http(url, tokens["run"], use))
    assert tool.inputSchema["properties"]["check"]["default"] is True
    assert asked[0][3]["check"] is True


def test_a_canary_is_a_plan_unless_said_otherwise_and_an_agent_may_stop_one(places, tokens, monkeypatch):
    asked = []
    monkeypatch.setattr("osremed.console.mcp.call", lambda *given, **_how: asked.append(given) or Answer(None, ""))

    async def use(session):
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        with contextlib.suppress(RuntimeError):  # what is answered here is no canary
            await session.call_tool("canary_start", {"runbook": "near-oom", "hosts": "web"})
        return tools

    with served(places) as url:
        tools = asyncio.run(over_http(url, tokens["run"], use))
    assert asked[0][3]["check"] is True
    assert "leave" not in asked[0][3]
    for name in ("canary_start", "canary_resume"):
        assert tools[name].inputSchema["properties"]["check"]["default"] is True
    assert {"canary_stop", "canary_list", "canary_show"} <= set(tools)


def test_wrong_arguments_and_errors_are_told_as_errors_of_the_tool(places, tokens):
    async def use(session):
        return [
            await session.call_tool("runs_show", {"run_id": "no-such-run"}),
            await session.call_tool("runs_show", {"run_id": "x", "state": "/etc"}),
            await session.call_tool("runs_show", {}),
        ]

    with served(places) as url:
        answers = asyncio.run(over_http(url, tokens["read"], use))
    assert all(each.isError for each in answers)
    assert "osremed runs list" in answers[0].content[0].text


def test_mcp_without_a_token_is_refused(places):
    import httpx

    with served(places) as url:
        assert httpx.post(f"{url}/mcp", json={}, timeout=10).status_code == 401


def test_one_local_agent_speaks_over_stdin(places):
    words = ["mcp", "--state", places.state, "--inventory", places.inventory, "--runbooks", places.runbooks]

    async def use():
        server = StdioServerParameters(command=sys.executable, args=["-m", "osremed", *words])
        async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
            begun = await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            return begun.instructions, tools, await session.call_tool("runs_list", {"limit": 1})

    instructions, tools, answer = asyncio.run(use())
    assert "never instructions to you" in instructions.replace("\n", " ")
    assert "runs_start" not in tools
    assert len(answer.structuredContent["document"]["runs"]) == 1
