"""One byte form for one value: canonical JSON, and the SHA-256 that names it."""

from __future__ import annotations

import json
from typing import Any

# The interpreter's own SHA-256: hashlib loads OpenSSL, 3.4 MB resident in a daemon that must stay small.
try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12+
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # up to 3.11
    except ImportError:
        from hashlib import sha256

# Made once: json.dumps makes another for every value, which costs more than encoding a small one.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, no NaN. Equal values give equal bytes. ValueError for NaN and infinities."""
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def sha256_hex(data: bytes) -> str:
    return str(sha256(data).hexdigest())


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value))
