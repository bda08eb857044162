"""The policy that was good last, kept on disk: a guard that starts again beside a broken one still guards."""

from __future__ import annotations

import os

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.files import read_bytes, write_atomic
from osremed.core.log import Log
from osremed.core.paths import HostPaths
from osremed.fastoom.policy import parse_policy, read_policy_bytes
from osremed.fastoom.status import PolicyState


def last_good_path(policy_path: str, paths: HostPaths) -> str:
    """Empty for any file but the host's own: who names another one means that one, and none that was good before."""
    if os.path.abspath(policy_path) != os.path.abspath(paths.fastoom_policy):
        return ""
    return os.path.join(os.path.dirname(paths.events), "fastoom", "last_good.json")


def keep_last_good(path: str, data: bytes, log: Log) -> None:
    """A disk that will not take it is told, and stops nothing. Nothing is kept at an empty path."""
    if not path:
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_atomic(path, data, mode=0o600)
    except OSError as error:
        log.error("the policy is not kept for the next start", path=path, error=error.strerror)


def starting_policy(policy_path: str, paths: HostPaths, log: Log) -> PolicyState:
    """The policy of the file, or, when the host's own is broken, the one that was good last. BadInput when there is
    neither."""
    data, kept_at = b"", last_good_path(policy_path, paths)
    try:
        data = read_policy_bytes(policy_path)
        policy = parse_policy(data, policy_path)
    except BadInput as error:
        if not kept_at:
            raise
        try:
            kept = parse_policy(read_bytes(kept_at), policy_path)
        except (BadInput, OSError):
            raise error from None
        log.error("policy rejected, the last good one is taken", error=str(error), kept=kept.sha256)
        return PolicyState(kept, str(error), sha256_hex(data) if data else "")
    keep_last_good(kept_at, data, log)
    return PolicyState(policy)
