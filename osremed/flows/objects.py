"""Objects of Prefect as the rules want them: by name, marked with an owner's label, removed by that label only.

What somebody else made under a wanted name is a conflict: told, never touched. Nothing here is needed for a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from prefect import get_client

from osremed.core.record import record
from osremed.flows import object_kinds
from osremed.flows.object_kinds import FLOW, KINDS, Api, Found, Kind

#: Kind -> name -> what is wanted, as `osremed gitops objects -o json` prints it, and deployments beside it.
Wanted = Mapping[str, Mapping[str, Any]]


@record
class ObjectResult:
    """`outcome` is unchanged, created, changed, removed, conflict or failed; when only looking would_create,
    would_change or would_remove. `detail` names what differs: the drift."""

    kind: str
    name: str
    outcome: str
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.outcome in {"conflict", "failed"}

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind, "name": self.name, "outcome": self.outcome, "detail": self.detail}


async def reconcile_objects(owner: str, wanted: Wanted, *, check: bool = False) -> tuple[ObjectResult, ...]:
    """Brings every kind to what is wanted; `check` only tells. One that fails does not hold up the others.

    Raises what Prefect's client raises when the server does not answer at all."""
    label = f"osremed-owner:{owner}"
    ledger = f"osremed_limits_{owner.replace('-', '_')}"
    promised = frozenset(f"{FLOW}/{name}" for name in wanted.get("deployments", ())) if check else frozenset()
    results: list[ObjectResult] = []
    async with get_client() as client:
        api = Api(client.request, label, ledger, promised)
        for kind in KINDS:
            results += await _reconcile_kind(api, kind, wanted.get(kind.name, {}), check)
    return tuple(results)


async def _reconcile_kind(api: Api, kind: Kind, wanted: Mapping[str, Any], check: bool) -> list[ObjectResult]:
    found: dict[str, list[Found]] = {}
    for each in await kind.find(api):
        found.setdefault(each.name, []).append(each)
    if kind.claim is not None and not check:
        await kind.claim(api, frozenset(wanted), frozenset(found))
    results = []
    for name, value in wanted.items():
        try:
            results.append(await _bring(api, kind, name, value, found.get(name, []), check=check))
        except (httpx.HTTPStatusError, LookupError) as error:
            results.append(ObjectResult(kind.name, name, "failed", object_kinds.said(error)))
    doubles = [each for name in wanted for each in [each for each in found.get(name, []) if each.owned][1:]]
    gone = [each for name, those in found.items() if name not in wanted for each in those if each.owned]
    return results + [await _take_away(api, kind, each, check) for each in [*doubles, *gone]]


async def _bring(api: Api, kind: Kind, name: str, value: Any, found: Sequence[Found], *, check: bool) -> ObjectResult:
    document = await kind.build(api, name, value)
    ours = [each for each in found if each.owned]
    if found and not ours:
        why = "somebody else made it: rename ours, or remove that one by hand"
        return ObjectResult(kind.name, name, "conflict", why)
    drift = object_kinds.differences(document, ours[0].document) if ours else []
    if ours and not drift:
        return ObjectResult(kind.name, name, "unchanged")
    word = "change" if ours else "create"
    if check:
        return ObjectResult(kind.name, name, f"would_{word}", ", ".join(drift))
    await kind.put(api, document, ours[0] if ours else None)
    return ObjectResult(kind.name, name, f"{word}d", ", ".join(drift))


async def _take_away(api: Api, kind: Kind, found: Found, check: bool) -> ObjectResult:
    if check:
        return ObjectResult(kind.name, found.name, "would_remove")
    try:
        await kind.remove(api, found)
    except httpx.HTTPStatusError as error:
        return ObjectResult(kind.name, found.name, "failed", object_kinds.said(error))
    return ObjectResult(kind.name, found.name, "removed")
