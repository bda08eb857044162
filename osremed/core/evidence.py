"""Evidence and Bundle: what was collected, with a hash for each item and a named gap for what could not be."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from osremed.core.canonical import canonical_json, sha256_hex
from osremed.core.errors import BadInput
from osremed.core.files import read_bytes, write_atomic
from osremed.core.reading import Missing, Reason
from osremed.core.record import record

_MANIFEST = "manifest.json"


@record
class Bundle:
    """`items`: collector name -> its JSON document; `gaps`: collector name -> why there is none."""

    host: str
    collected_ns: int
    items: Mapping[str, Any]
    gaps: Mapping[str, Missing]


def write_bundle(directory: str, bundle: Bundle) -> str:
    """Writes one file an item, then the manifest; returns the manifest's SHA-256, the bundle's name. A bundle without a
    manifest was not finished and does not load."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    files = {}
    for name, item in bundle.items.items():
        _check_name(name, directory)
        data = canonical_json(item)
        write_atomic(os.path.join(directory, f"{name}.json"), data, mode=0o600)
        files[name] = {"sha256": sha256_hex(data), "bytes": len(data)}
    manifest = canonical_json(
        {
            "host": bundle.host,
            "collected_ns": bundle.collected_ns,
            "items": files,
            "gaps": {name: gap.as_json() for name, gap in bundle.gaps.items()},
        }
    )
    write_atomic(os.path.join(directory, _MANIFEST), manifest, mode=0o600)
    return sha256_hex(manifest)


def _check_name(name: str, where: str) -> None:
    if os.path.basename(name) != name or not name or f"{name}.json" == _MANIFEST:
        raise BadInput(f"{name!r} cannot name an item of evidence", where=where)


def load_bundle(directory: str) -> Bundle:
    """The bundle, every hash checked. BadInput if it is unfinished, altered or not a bundle."""
    path = os.path.join(directory, _MANIFEST)
    try:
        manifest = json.loads(read_bytes(path))
        items = {}
        for name, facts in manifest["items"].items():
            _check_name(name, path)
            item_path = os.path.join(directory, f"{name}.json")
            data = read_bytes(item_path)
            if sha256_hex(data) != facts["sha256"]:
                raise BadInput("evidence was altered: its hash differs from the manifest", where=item_path)
            items[name] = json.loads(data)
        gaps = {
            name: Missing(Reason(gap["missing"]), gap["source"], gap["detail"])
            for name, gap in manifest["gaps"].items()
        }
        return Bundle(manifest["host"], manifest["collected_ns"], items, gaps)
    except OSError as error:
        raise BadInput(f"no evidence bundle: {error.strerror}", where=error.filename or path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"not an evidence bundle: {error!r}", where=path) from error
