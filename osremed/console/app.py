"""The console as one ASGI application: API, live runs, pages, health."""
# No deferred annotations: FastAPI reads those of nested functions when they are made.

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials
from sse_starlette import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from osremed import __version__
from osremed.console.api import BEARER, PREFIX, Door, Refused, needs, told_as_problem, verb_routes
from osremed.console.binding import Places, call
from osremed.console.feed import Feed
from osremed.console.limits import Guarded
from osremed.console.mcp import HttpMcp
from osremed.console.metrics import CONTENT_TYPE, exposition, look
from osremed.console.pages import Pages
from osremed.console.problems import problem
from osremed.console.tokens import Caller, Gate
from osremed.core.errors import OsremedError
from osremed.flows.settings import ControlPaths
from osremed.runbook.index import stamp_of
from osremed.runbook.store import RunDirectory
from osremed.verbs.load import find

_POLL_S = 0.25
_SHOW = find(["runs", "show"])


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return problem(400, "the body is not JSON", where=where, code="input", exit_code=2)
    hint = f"what a request may hold: {PREFIX}/openapi.json"
    return problem(422, str(first["msg"]), where=where, hint=hint, code="input", exit_code=2)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))


def build_app(places: Places) -> FastAPI:
    """Serves these places. Nothing is started or written by it; it needs no network."""
    door = Door(Gate(places.state))
    mcp = HttpMcp(places, door)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with mcp.running():
            yield

    app = FastAPI(
        lifespan=lifespan,
        title="osremed",
        version=__version__,
        summary="Near-OOM protection, evidence, and verified, reversible remediation.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(verb_routes(places, door))

    @app.get(f"{PREFIX}/health", operation_id="health", summary="whether the console answers", tags=["health"])
    async def health() -> dict[str, Any]:
        return {"ready": True, "version": __version__}

    @app.get(
        f"{PREFIX}/runs/{{run_id}}/stream",
        operation_id="runs_stream",
        summary="each state of a run as it comes, until it has ended (server-sent events)",
        tags=["runs"],
        response_class=EventSourceResponse,
    )
    async def stream(
        run_id: str,
        request: Request,
        caller: Annotated[Caller, Depends(needs(door, "read"))],
        given: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)],
    ) -> EventSourceResponse:
        async def is_over() -> bool:
            return await request.is_disconnected() or not door.still(given.credentials, "read")

        first = await _run(places, caller, run_id)
        return EventSourceResponse(_states(places, caller, run_id, first, is_over))

    feed = Feed(places)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(_caller: Annotated[Caller, Depends(needs(door, "read"))]) -> Response:
        text = await asyncio.to_thread(lambda: exposition(look(places, feed)))
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    app.router.routes.append(Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]))
    app.router.routes.extend(Pages(places, door, feed).routes())
    for kind in (Refused, OsremedError, OSError):
        app.add_exception_handler(kind, told_as_problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Guarded)
    return app


async def _run(places: Places, caller: Caller, run_id: str) -> dict[str, Any]:
    assert _SHOW is not None
    answer = await asyncio.to_thread(call, _SHOW[0], places, caller.name, {"run_id": run_id})
    document: dict[str, Any] = answer.document
    return document


async def _states(
    places: Places, caller: Caller, run_id: str, first: dict[str, Any], is_over: Callable[[], Awaitable[bool]]
) -> AsyncIterator[dict[str, str]]:
    """`event: run` with the run's document, once a change; ends with the run, or with the token. The run is read when
    its journal was written to: to look at it costs no thread, and those who watch are many."""
    journal = RunDirectory(os.path.join(ControlPaths(places.state).runs, run_id)).journal
    shown, run, stamp = None, first, ""
    while True:
        if run["updated_ns"] != shown:
            shown = run["updated_ns"]
            yield {"event": "run", "id": str(shown), "data": json.dumps(run)}
        if run["state"] in {"SUCCEEDED", "REFUSED", "UNDONE", "UNDO_INCOMPLETE"} or await is_over():
            return
        await asyncio.sleep(_POLL_S)
        before, stamp = stamp, stamp_of(journal)
        if not stamp or stamp != before:
            run = await _run(places, caller, run_id)
