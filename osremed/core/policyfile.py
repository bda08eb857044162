"""What a daemon obeys while it runs: a JSON file checked whole; whatever is wrong with it, the last good one counts.

No file means the defaults: taking a policy away is a change like any other, and its undo must reach a running daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from osremed.core.answer import Answer
from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.files import read_bytes, write_atomic
from osremed.core.language import filled
from osremed.core.log import Log
from osremed.core.paths import HostPaths

API_VERSION = "osremed/v1"
_LIMIT_BYTES = 1 << 20
T = TypeVar("T")


def policy_keys(data: bytes, path: str, kind: str) -> dict[str, Any]:
    """What the policy sets, without `apiVersion` and `kind`. BadInput for what is not JSON, a key given twice, another
    kind."""
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadInput(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}", where=path) from error
    if not isinstance(document, dict):
        raise BadInput("a policy is a JSON object", where=path)
    for key, wanted in (("apiVersion", API_VERSION), ("kind", kind)):
        if document.pop(key, None) != wanted:
            raise BadInput(f"{key} is not {wanted!r}", where=path, hint=f'write "{key}": "{wanted}"')
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"key {key!r} is given twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def read_policy(path: str) -> bytes:
    """BadInput for what cannot be read."""
    try:
        return read_bytes(path, limit_bytes=_LIMIT_BYTES)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error


def policy_answer(path: str, settings: Mapping[str, Any]) -> Answer:
    """A good policy as it counts, defaults filled in."""
    lines = [filled("{1}: good", path), *(f"  {key:<28} {value}" for key, value in settings.items())]
    return Answer({"path": path, "settings": dict(settings)}, "\n".join(lines))


def beside_fastoom(paths: HostPaths, name: str) -> str:
    """Where the policy of the daemon `name` lies."""
    return os.path.join(os.path.dirname(paths.fastoom_policy), f"{name}.json")


def last_good(paths: HostPaths, name: str) -> str:
    return os.path.join(os.path.dirname(paths.events), name, "last_good.json")


class PolicyFile(Generic[T]):
    """`settings` count. `sha256` names the file they came from, "" the defaults; `error` says why the file that is
    there now does not count, and `rejected_sha256` which bytes that were."""

    def __init__(self, path: str, kept: str, parse: Callable[[bytes, str], T], defaults: T, log: Log) -> None:
        self.path, self._kept, self._parse, self._defaults, self._log = path, kept, parse, defaults, log
        self.settings = defaults
        self.sha256 = self.error = self.rejected_sha256 = ""

    def start(self) -> None:
        """BadInput for a faulty file when none was good before: nobody has ever wanted the defaults here."""
        try:
            self._take(self._read())
        except BadInput as error:
            try:
                data = read_bytes(self._kept, limit_bytes=_LIMIT_BYTES)
                self.settings, self.sha256 = self._parse(data, self.path), sha256_hex(data)
            except (BadInput, OSError):
                raise error from None
            self._refuse(error)

    def reload(self) -> bool:
        """Whether the file that is there now is obeyed; else all stays as it was and `error` says why."""
        try:
            self._take(self._read())
        except BadInput as error:
            self._refuse(error)
            return False
        self._log.info("policy loaded", path=self.path, sha256=self.sha256 or "none: the defaults")
        return True

    def document(self) -> dict[str, Any]:
        """What the status file tells those who changed the policy."""
        return {
            "policy_path": self.path,
            "policy_optional": True,
            "policy_sha256": self.sha256,
            "policy_error": self.error,
            "policy_rejected_sha256": self.rejected_sha256,
        }

    def _read(self) -> bytes | None:
        return read_policy(self.path) if os.path.lexists(self.path) else None

    def _take(self, data: bytes | None) -> None:
        self.rejected_sha256 = "" if data is None else sha256_hex(data)
        self.settings = self._defaults if data is None else self._parse(data, self.path)
        self.sha256, self.error, self.rejected_sha256 = self.rejected_sha256, "", ""
        self._keep(data)

    def _refuse(self, error: BadInput) -> None:
        self.error = str(error)
        self._log.error("policy rejected, the last good one stays", error=self.error, kept=self.sha256)

    def _keep(self, data: bytes | None) -> None:
        """For the next start beside a broken file. A disk that will not take it is told, and stops nothing."""
        try:
            if data is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._kept)
                return
            os.makedirs(os.path.dirname(self._kept), mode=0o700, exist_ok=True)
            write_atomic(self._kept, data, mode=0o600)
        except OSError as failure:
            self._log.error("the policy is not kept for the next start", path=self._kept, error=failure.strerror)
