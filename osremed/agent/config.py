"""What the agent is told: `/etc/osremed/agent.json`, checked key by key."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.paths import HostPaths
from osremed.core.record import record
from osremed.fastoom import locate

_LOOPBACK = re.compile(r"localhost|::1|127(\.[0-9]{1,3}){3}")
_TOKEN = re.compile(rb"[\x21-\x7e]{1,4096}")
_KEYS = ("intake_url", "token_file", "allow_plain_http", "events_dirs", "history")


@record
class Endpoint:
    """Where batches go: POST `path` on `host`:`port`."""

    https: bool
    host: str
    port: int
    path: str


@record
class AgentConfig:
    """`intake` None: events stay spooled. `events_dirs` empty: the events directory of the host alone. `history`:
    keep a light balance of the memory every ten seconds."""

    intake: Endpoint | None = None
    token_file: str = ""
    events_dirs: tuple[str, ...] = ()
    history: bool = True


def config_path(paths: HostPaths) -> str:
    return os.path.join(os.path.dirname(paths.fastoom_policy), "agent.json")


def state_directory(paths: HostPaths) -> str:
    """The agent's own: cursors and refused events."""
    return os.path.join(os.path.dirname(paths.events), "agent")


def load_config(path: str) -> AgentConfig:
    """The configuration, the token file checked too. BadInput with file:line:column."""
    try:
        located = locate.load(read_bytes(path, limit_bytes=1 << 20), path)
    except OSError as error:
        raise BadInput(f"cannot read the agent's configuration: {error.strerror}", where=path) from error
    document = located.document
    if not isinstance(document, dict):
        raise BadInput("must be a JSON object", where=located.where(()), hint=f"keys: {', '.join(_KEYS)}")
    for key, value in document.items():
        if key not in _KEYS:
            raise BadInput(f"unknown key {key!r}", where=located.where((key,)), hint=f"keys: {', '.join(_KEYS)}")
        _check_type(key, value, located.where((key,)))
    url, token_file = document.get("intake_url", ""), document.get("token_file", "")
    intake = None
    if url:
        where = located.where(("intake_url",))
        intake = parse_endpoint(url, allow_plain_http=document.get("allow_plain_http", False), where=where)
        if not token_file:
            raise BadInput("intake_url needs a token_file", where=where, hint='add "token_file": "/etc/osremed/token"')
        _check_token_file(token_file, located.where(("token_file",)))
    return AgentConfig(intake, token_file, tuple(document.get("events_dirs", ())), document.get("history", True))


def _check_token_file(path: str, where: str) -> None:
    try:
        read_token(path)
    except BadInput as error:
        raise BadInput(f"{error.where}: {error.what}", where=where, hint=error.hint) from None


def _check_type(key: str, value: Any, where: str) -> None:
    if key in ("allow_plain_http", "history"):
        if not isinstance(value, bool):
            raise BadInput(f"{key} must be true or false", where=where)
    elif key == "events_dirs":
        if not isinstance(value, list) or not all(isinstance(each, str) and os.path.isabs(each) for each in value):
            raise BadInput(f"{key} must be a list of absolute paths", where=where)
    elif not isinstance(value, str):
        raise BadInput(f"{key} must be text", where=where)
    elif key == "token_file" and value and not os.path.isabs(value):
        raise BadInput(f"{key} must be an absolute path", where=where)


def parse_endpoint(url: str, *, allow_plain_http: bool = False, where: str = "intake_url") -> Endpoint:
    """Where `url` points, `/v1/events` appended. BadInput for anything but https, or http to the loopback."""
    hint = "write https://host[:port][/base]"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadInput(f"{url!r} is not a URL: {error}", where=where, hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise BadInput(f"{url!r} is not an http or https URL", where=where, hint=hint)
    if " " in url or parts.username is not None or parts.query or parts.fragment:
        raise BadInput("the URL holds spaces, a user, a query or a fragment", where=where, hint=hint)
    https = parts.scheme == "https"
    if not https and not allow_plain_http and not _LOOPBACK.fullmatch(parts.hostname):
        what = f"plain http to {parts.hostname} would show the token to the network"
        raise BadInput(what, where=where, hint='use https, or set "allow_plain_http": true')
    default_port = 443 if https else 80
    return Endpoint(
        https, parts.hostname, default_port if port is None else port, parts.path.rstrip("/") + "/v1/events"
    )


def read_token(path: str) -> str:
    """The bearer token. BadInput unless it is one printable word in a regular file that only its owner can read."""
    try:
        facts = os.stat(path)
        data = read_bytes(path, limit_bytes=8192).strip()
    except OSError as error:
        raise BadInput(f"cannot read the token: {error.strerror}", where=path) from error
    if facts.st_mode & 0o077 or facts.st_uid not in (0, os.geteuid()):
        hint = f"chown it to the agent's user and run: chmod 600 {path}"
        raise BadInput("others can read or own the token file", where=path, hint=hint)
    if not _TOKEN.fullmatch(data):
        raise BadInput("the token is not one printable ASCII word", where=path)
    return data.decode("ascii")
