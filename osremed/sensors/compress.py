"""Compression for what daemons keep: Zstandard where the optional library is, else zlib. Each block says which."""

from __future__ import annotations

import importlib
import zlib
from typing import Any


def _optional(name: str) -> Any:
    """The module, or None: the host plane runs on the standard library alone."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


zstandard: Any = _optional("zstandard")
_ZLIB, _ZSTD = b"Z", b"S"


def compress(*parts: bytes) -> bytes:
    """One byte that names the method, then the block, of these one behind the other: they are never held twice. 85 KB/s
    of stacks cost about 0.1 ms a second."""
    if zstandard is not None:
        method, packer = _ZSTD, zstandard.ZstdCompressor(level=3).compressobj(size=sum(map(len, parts)))
    else:
        method, packer = _ZLIB, zlib.compressobj(1)
    return b"".join((method, *map(packer.compress, parts), packer.flush()))


def decompress(block: bytes, *, limit_bytes: int) -> bytes:
    """What was compressed. ValueError for a damaged block, an unknown method, one that needs a library that is not
    here, or more than `limit_bytes`."""
    method, body = block[:1], block[1:]
    if method == _ZLIB:
        return _inflate(body, limit_bytes)
    if method == _ZSTD and zstandard is not None:
        return _unzstd(body, limit_bytes)
    if method == _ZSTD:
        raise ValueError("compressed with Zstandard: install the Python package zstandard to read it")
    raise ValueError(f"unknown compression {method!r}")


def _inflate(body: bytes, limit_bytes: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        data = decoder.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"damaged block: {error}") from None
    if len(data) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes} bytes")
    if not decoder.eof:
        raise ValueError("truncated block")
    return data


def _unzstd(body: bytes, limit_bytes: int) -> bytes:
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= limit_bytes:
            raise ValueError(f"block of {size} bytes, at most {limit_bytes} are allowed")
        return bytes(zstandard.ZstdDecompressor().decompress(body))
    except zstandard.ZstdError as error:
        raise ValueError(f"damaged block: {error}") from None
