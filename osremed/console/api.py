"""The verbs over HTTP: one route a verb, its request model, its scope; OpenAPI follows from it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from osremed.console import problems
from osremed.console.answers import answer_model
from osremed.console.binding import (
    Places,
    call,
    exposed,
    method_and_path,
    name_of,
    open_args,
    request_model,
)
from osremed.console.limits import Buckets
from osremed.console.tokens import Caller, Gate
from osremed.core.errors import OsremedError
from osremed.verbs.model import Verb

PREFIX = "/v1"
_KEY = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=128, description="said twice, it is one run, or one canary"
    ),
]
#: For pages that can be kept: they carry their own style and script, and reach nothing, this server least of all.
REPORT_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; "
    "sandbox allow-scripts"
)


class Refused(Exception):
    """Ends a request with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Door:
    """Who calls, whether the scope allows it, and whether it is not too often."""

    def __init__(self, gate: Gate, calls: Buckets | None = None, failures: Buckets | None = None) -> None:
        self._gate = gate
        self._calls = calls or Buckets(per_s=50.0, burst=200)
        self._failures = failures or Buckets(per_s=0.5, burst=20)
        self._models = Buckets(per_s=0.1, burst=5)

    def enter(self, token: str | None, scope: str, client: str) -> Caller:
        """The Caller. Refused with 401, 403 or 429."""
        caller = self._gate.caller(token) if token else None
        if caller is None:
            wait_s = self._failures.take(client)
            if wait_s:
                raise Refused(_later(wait_s, "too many requests without a valid token"))
            hint = "osremed console token NAME --scopes read"
            bearer = {"WWW-Authenticate": "Bearer"}
            raise Refused(problems.problem(401, "a valid bearer token is needed", headers=bearer, hint=hint))
        if scope not in caller.scopes:
            what = f"{caller.name} may not: this needs the scope {scope}"
            raise Refused(problems.problem(403, what, hint="its scopes are " + ", ".join(sorted(caller.scopes))))
        wait_s = self._calls.take(caller.name)
        if wait_s:
            raise Refused(_later(wait_s, "too many requests"))
        return caller

    def still(self, token: str | None, scope: str) -> bool:
        """Whether what `enter` let in would be let in now; it counts as no call."""
        caller = self._gate.caller(token) if token else None
        return caller is not None and scope in caller.scopes

    def ask_model(self, caller: Caller) -> None:
        """Refused with 429 when the caller's questions to models are too many: each of them is paid for."""
        wait_s = self._models.take(caller.name)
        if wait_s:
            raise Refused(_later(wait_s, "too many questions to a model"))


def _later(wait_s: float, what: str) -> Response:
    return problems.problem(429, what, headers={"Retry-After": str(max(1, round(wait_s)))})


BEARER = HTTPBearer(auto_error=False, description="A token made by `osremed console token`.")


def client_of(request: Request) -> str:
    """Where the request comes from, as guesses of tokens are counted."""
    return request.client.host if request.client else "local"


def needs(door: Door, scope: str) -> Callable[..., Caller]:
    """The dependency of a route that needs `scope`."""

    def check(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> Caller:
        return door.enter(given.credentials if given else None, scope, client_of(request))

    return check


def _endpoint(verb: Verb, places: Places, door: Door) -> Callable[..., Awaitable[Any]]:
    """An endpoint with the signature FastAPI reads the route's parameters from."""
    method, path = method_and_path(verb)
    in_path = [arg for arg in open_args(verb) if f"{{{arg.dest}}}" in path]
    keyed = any(arg.dest == "key" for arg in open_args(verb))
    without = frozenset(arg.dest for arg in in_path) | ({"key"} if keyed else frozenset())
    model = request_model(verb, without=without)
    parameters = [
        inspect.Parameter(
            arg.dest,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[str, Path(description=arg.help, max_length=256)],
        )
        for arg in in_path
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    if model.model_fields and method == "GET":
        parameters.append(inspect.Parameter("said", keyword, annotation=Annotated[model, Query()]))
    elif model.model_fields:
        optional = not any(field.is_required() for field in model.model_fields.values())
        default = model() if optional else inspect.Parameter.empty
        parameters.append(inspect.Parameter("said", keyword, annotation=model, default=default))
    if keyed:
        parameters.append(inspect.Parameter("key", keyword, annotation=_KEY, default=None))
    parameters.append(inspect.Parameter("request", keyword, annotation=Request))
    who = Annotated[Caller, Depends(needs(door, verb.scope))]
    parameters.append(inspect.Parameter("caller", keyword, annotation=who))

    async def endpoint(**given: Any) -> Any:
        request, caller, said = given.pop("request"), given.pop("caller"), given.pop("said", None)
        key = given.pop("key", None)
        if verb.asks_model:
            door.ask_model(caller)
        arguments = {**(said.model_dump() if isinstance(said, BaseModel) else {}), **given}
        if keyed:
            arguments["key"] = key or ""
        answer = await asyncio.to_thread(call, verb, places, caller.name, arguments)
        if answer.html is not None and "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(answer.html(), headers={"Content-Security-Policy": REPORT_CSP})
        said = {"document": answer.document, "text": answer.text, "exit_code": int(answer.exit_code)}
        return JSONResponse(said)

    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    endpoint.__name__ = name_of(verb)
    return endpoint


def _responses() -> dict[int | str, dict[str, Any]]:
    content = {problems.MEDIA_TYPE: {"schema": problems.SCHEMA}}
    said = {
        400: "the request is not what HTTP asks for",
        401: "no valid token",
        403: "the token's scopes do not allow it",
        404: "what is named does not exist",
        413: "the body is too large",
        422: "an argument is wrong",
        429: "too many requests",
        500: "it was tried and failed",
        503: "a service, privilege or feature is missing",
    }
    return {status: {"description": text, "content": content} for status, text in said.items()}


def verb_routes(places: Places, door: Door) -> APIRouter:
    router = APIRouter(prefix=PREFIX)
    for verb in exposed():
        method, path = method_and_path(verb)
        router.add_api_route(
            path,
            _endpoint(verb, places, door),
            methods=[method],
            operation_id=name_of(verb),
            summary=verb.help,
            description=f"`osremed {' '.join(verb.words)}`. Scope: {verb.scope}.",
            response_model=answer_model(name_of(verb)),
            responses=_responses(),
            tags=[verb.words[0]],
        )
    return router


async def told_as_problem(_request: Request, error: Exception) -> Response:
    """Every error of a verb, as FastAPI's handler of it."""
    if isinstance(error, Refused):
        return error.response
    if isinstance(error, OsremedError | OSError):
        return problems.as_problem(error)
    raise error
