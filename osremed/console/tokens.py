"""Tokens: who may call, and for what. The file holds only hashes; a token is shown once, when it is made."""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Mapping

from osremed.core.canonical import canonical_json, sha256_hex
from osremed.core.errors import BadInput, NotFound
from osremed.core.files import exclusive_lock, read_bytes, write_atomic
from osremed.core.record import record

SCOPES = ("read", "run", "approve", "admin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = "osr_"


@record
class Caller:
    """`name` is what audits and approvals show. `agent`: a program that acts for itself; it never approves."""

    name: str
    scopes: frozenset[str]
    agent: bool = False


@record
class Token:
    name: str
    sha256: str
    scopes: tuple[str, ...]
    agent: bool
    created_ns: int
    expires_ns: int = 0  #: 0: never


def _path(state: str) -> str:
    return os.path.join(os.path.abspath(state), "console", "tokens.json")


def read_tokens(state: str) -> tuple[Token, ...]:
    """() where none was made. BadInput for a damaged file: nobody is let in by a guess."""
    path = _path(state)
    try:
        rows = json.loads(read_bytes(path))
        return tuple(
            Token(
                str(row["name"]),
                str(row["sha256"]),
                tuple(str(scope) for scope in row["scopes"]),
                row["agent"] is True,
                int(row["created_ns"]),
                int(row["expires_ns"]),
            )
            for row in rows
        )
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as error:
        hint = "move it away and make new tokens"
        raise BadInput(f"not a list of tokens: {error!r}", where=path, hint=hint) from error


def _write(state: str, tokens: tuple[Token, ...]) -> None:
    fields = ("name", "sha256", "scopes", "agent", "created_ns", "expires_ns")
    rows = [{name: getattr(each, name) for name in fields} for each in tokens]
    write_atomic(_path(state), canonical_json(rows), mode=0o600)


def make_token(state: str, name: str, scopes: tuple[str, ...], *, agent: bool, lasting_s: float = 0.0) -> str:
    """The new token itself; a name that exists is refused. An agent is not given `approve` or `admin`."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"name {name!r} does not match {_NAME.pattern}", where="name")
    wrong = sorted(set(scopes) - set(SCOPES))
    if wrong or not scopes:
        raise BadInput(f"no scope {', '.join(wrong) or 'given'}", where="--scopes", hint=f"scopes: {', '.join(SCOPES)}")
    if agent and not set(scopes) <= {"read", "run"}:
        raise BadInput("an agent may only read and run", where="--scopes", hint="approving is for people")
    now_ns = time.time_ns()
    text = _PREFIX + secrets.token_urlsafe(32)
    expires_ns = now_ns + round(lasting_s * 1e9) if lasting_s else 0
    os.makedirs(os.path.dirname(_path(state)), mode=0o700, exist_ok=True)
    with exclusive_lock(f"{_path(state)}.lock"):
        tokens = read_tokens(state)
        if any(each.name == name for each in tokens):
            raise BadInput(f"there is a token of {name!r}", hint=f"osremed console revoke {name}")
        made = Token(name, sha256_hex(text.encode()), tuple(sorted(set(scopes))), agent, now_ns, expires_ns)
        _write(state, (*tokens, made))
    return text


def revoke_token(state: str, name: str) -> None:
    """The token is worth nothing from the next request on. NotFound if there is none of that name."""
    os.makedirs(os.path.dirname(_path(state)), mode=0o700, exist_ok=True)
    with exclusive_lock(f"{_path(state)}.lock"):
        tokens = read_tokens(state)
        if all(each.name != name for each in tokens):
            raise NotFound(f"no token of {name!r}", where=_path(state), hint="osremed console tokens")
        _write(state, tuple(each for each in tokens if each.name != name))


class Gate:
    """Knows the tokens as the file has them now: it is read again when it has changed."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: Mapping[str, Token] = {}

    def caller(self, token: str) -> Caller | None:
        """None for what is no token, or one that is over."""
        self._refresh()
        given = sha256_hex(token.encode("utf-8", "replace"))
        found = self._by_hash.get(given)
        if found is None or not hmac.compare_digest(found.sha256, given):
            return None
        if found.expires_ns and time.time_ns() >= found.expires_ns:
            return None
        # Every scope lets one read: who may act sees what there is.
        return Caller(found.name, frozenset({*found.scopes, "read"}), found.agent)

    def _refresh(self) -> None:
        try:
            facts = os.stat(_path(self._state))
        except FileNotFoundError:
            self._seen, self._by_hash = None, {}
            return
        now = facts.st_mtime_ns, facts.st_ino, facts.st_size
        if now != self._seen:
            self._by_hash = {each.sha256: each for each in read_tokens(self._state)}
            self._seen = now
