"""The body and the headers of a signed POST, after standardwebhooks.com: receivers check it with a library. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from osremed.core.canonical import canonical_json
from osremed.core.errors import BadInput
from osremed.notify.message import Message

_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_LEAST_BYTES = 24


def key_of(secret: str) -> bytes:
    """The key of `whsec_<base64>`. BadInput if it is not base64 or shorter than 24 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _LEAST_BYTES:
        hint = "make one with: echo whsec_$(head -c 32 /dev/urandom | base64)"
        raise BadInput("the secret of the webhook is not base64 of at least 24 bytes", hint=hint)
    return key


def body_of(message: Message, link: str) -> bytes:
    document = {
        "apiVersion": "osremed/v1",
        "kind": "Notification",
        "id": message.id,
        "type": f"{message.kind.value}.{message.state.lower()}" if message.state else message.kind.value,
        "time_ns": message.time_ns,
        "host": message.host,
        "severity": message.severity,
        "title": message.title,
        "lines": list(message.lines),
        "runbook": message.runbook,
        "run_id": message.run_id,
        "state": message.state,
        "ends": message.ends,
        "link": link,
        "facts": message.facts,
    }
    return canonical_json(document)


def headers_of(message_id: str, body: bytes, secret: str, now_s: int) -> Mapping[str, str]:
    """Signed for this attempt: a receiver refuses what is older than some minutes. BadInput for an id that is no
    word: it would be a header."""
    if not _ID.fullmatch(message_id):
        raise BadInput(f"{message_id!r} cannot be the id of a message")
    signed = b"%b.%d.%b" % (message_id.encode("ascii"), now_s, body)
    signature = base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode("ascii")
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": f"v1,{signature}",
    }
