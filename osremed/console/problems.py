"""Errors over HTTP: problem+json (RFC 9457) with the same what, where and hint as on the command line."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from osremed.core.errors import BadInput, ExitCode, NotFound, OsremedError, Unavailable

_STATUS = (
    (BadInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)

MEDIA_TYPE = "application/problem+json"

#: As OpenAPI shows it.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "what went wrong, in one line"},
        "status": {"type": "integer"},
        "where": {"type": "string", "description": "file, argument or host"},
        "hint": {"type": "string", "description": "what to do"},
        "code": {"type": "string", "description": "the kind of error; docs/reference/errors.md has all"},
        "exit_code": {"type": "integer", "description": "exit code of the command line for the same error"},
    },
}


def problem(status: int, title: str, *, headers: dict[str, str] | None = None, **more: object) -> JSONResponse:
    body = {"type": "about:blank", "title": title, "status": int(status), **{k: v for k, v in more.items() if v != ""}}
    return JSONResponse(body, status_code=int(status), headers=headers, media_type=MEDIA_TYPE)


def status_of(error: OsremedError) -> HTTPStatus:
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def as_problem(error: OsremedError | OSError) -> JSONResponse:
    if isinstance(error, OsremedError):
        more = {"where": error.where, "hint": error.hint, "code": error.code, "exit_code": int(error.exit_code)}
        return problem(status_of(error), error.what, headers=None, **more)
    status = HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, PermissionError) else HTTPStatus.INTERNAL_SERVER_ERROR
    kind, code = (
        ("unavailable.privilege", ExitCode.UNAVAILABLE)
        if isinstance(error, PermissionError)
        else ("failed.system", ExitCode.FAILED)
    )
    what, where = error.strerror or str(error), str(error.filename or "")
    return problem(status, what, where=where, code=kind, exit_code=int(code))
