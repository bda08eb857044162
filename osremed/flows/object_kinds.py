"""The kinds of objects Prefect has, each as four functions over its HTTP API: find, build, put, remove.

Variables, automations and deployments carry the owner's label as a tag. Concurrency limits have no tags: their names
are kept in a variable of the owner's, written before a limit is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from osremed.core.record import record

FLOW = "osremed-gitops"  #: the flow whose deployment is the look at Git
_PAGE = 200  #: Prefect gives no longer pages
_ANCHOR = "2026-01-01T00:00:00Z"


@record
class Api:
    """Prefect's client for requests, the owner's label, and the variable with the names of the owner's limits.
    `promised` are deployments that only looking has not made."""

    request: Callable[..., Awaitable[Any]]
    label: str
    ledger: str
    promised: frozenset[str] = frozenset()

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of the answer. httpx.HTTPStatusError for a refusal."""
        answer = await self.request(method, path, json=body)
        return answer.json() if answer.content else None

    async def all_of(self, path: str, **narrowed: Any) -> list[dict[str, Any]]:
        """Every page of a filter."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.ask("POST", path, {**narrowed, "limit": _PAGE, "offset": len(found)})
            found += page
            if len(page) < _PAGE:
                return found


@record
class Found:
    """An object as Prefect has it; `owned` tells whether it carries our label."""

    name: str
    key: str
    owned: bool
    document: Mapping[str, Any]


@record
class Kind:
    """`build` makes the document that `put` sends; `claim` (wanted names, found names) notes which
    of them are ours, before they are made."""

    name: str
    find: Callable[[Api], Awaitable[Sequence[Found]]]
    build: Callable[[Api, str, Any], Awaitable[dict[str, Any]]]
    put: Callable[[Api, Mapping[str, Any], Found | None], Awaitable[None]]
    remove: Callable[[Api, Found], Awaitable[None]]
    claim: Callable[[Api, frozenset[str], frozenset[str]], Awaitable[None]] | None = None


def said(error: Exception) -> str:
    """What Prefect answered, on one line."""
    text = error.response.text if isinstance(error, httpx.HTTPStatusError) else str(error)
    return " ".join(text.split())[:300]


#: Lists that are sets in Prefect: it answers with them in any order.
_SETS = frozenset({"after", "expect", "for_each"})


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Dotted paths at which `found` is not what is wanted. Keys that only `found` has are Prefect's own, but where
    the names are free (parameters, labels, a variable's value) nothing may be there that nobody wants."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = [name for name in wanted if name not in found]
        if path.rpartition(".")[2] in {"match", "match_related", "parameters", "value"}:
            names += [name for name in found if name not in wanted]
        for name in wanted:
            if name in found:
                names += differences(wanted[name], found[name], f"{path}.{name}" if path else name)
        return [name if not path or "." in name else f"{path}.{name}" for name in names]
    if path.rpartition(".")[2] in _SETS and isinstance(found, list):
        found = sorted(found)
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [each for a, b in zip(wanted, found, strict=True) for each in differences(a, b, path)][:1]
    return [] if wanted == found and isinstance(wanted, bool) == isinstance(found, bool) else [path or "value"]


def _tagged(api: Api, documents: Sequence[Mapping[str, Any]]) -> list[Found]:
    return [
        Found(each["name"], each["id"], api.label in each["tags"], each)
        for each in sorted(documents, key=lambda each: str(each["created"]))
    ]


# Variables


async def _find_variables(api: Api) -> list[Found]:
    return [each for each in _tagged(api, await api.all_of("/variables/filter")) if each.name != api.ledger]


async def _build_variable(api: Api, name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "tags": [api.label]}


async def _put_variable(api: Api, document: Mapping[str, Any], found: Found | None) -> None:
    await api.ask(*(("PATCH", f"/variables/{found.key}") if found else ("POST", "/variables/")), document)


async def _remove_variable(api: Api, found: Found) -> None:
    await api.ask("DELETE", f"/variables/{found.key}")


# Concurrency limits


async def _ledger(api: Api) -> tuple[str, list[str]]:
    for each in await api.all_of("/variables/filter"):
        if each["name"] == api.ledger and api.label in each["tags"]:
            return each["id"], list(each["value"])
    return "", []


async def _write_ledger(api: Api, key: str, names: Sequence[str]) -> None:
    document = {"name": api.ledger, "value": sorted(names), "tags": [api.label]}
    if key:
        await api.ask("PATCH", f"/variables/{key}", document)
    else:
        await api.ask("POST", "/variables/", document)


async def _find_limits(api: Api) -> list[Found]:
    _key, ours = await _ledger(api)
    limits = await api.all_of("/v2/concurrency_limits/filter")
    return [Found(each["name"], each["id"], each["name"] in ours, each) for each in limits]


async def _claim_limits(api: Api, wanted: frozenset[str], found: frozenset[str]) -> None:
    """Ours is what was and still is there, and what is about to be made. A name that is gone is free for others."""
    key, ours = await _ledger(api)
    names = (found & set(ours)) | (wanted - found)
    if names != set(ours):
        await _write_ledger(api, key, sorted(names))


async def _build_limit(_api: Api, name: str, value: Any) -> dict[str, Any]:
    rate = float(value.get("release_per_second", 0.0))
    return {"name": name, "limit": value["slots"], "slot_decay_per_second": rate, "active": True}


async def _put_limit(api: Api, document: Mapping[str, Any], found: Found | None) -> None:
    path = f"/v2/concurrency_limits/{found.key}" if found else "/v2/concurrency_limits/"
    await api.ask("PATCH" if found else "POST", path, document)


async def _remove_limit(api: Api, found: Found) -> None:
    await api.ask("DELETE", f"/v2/concurrency_limits/{found.key}")
    key, ours = await _ledger(api)
    await _write_ledger(api, key, [name for name in ours if name != found.name])


# Automations


async def _find_automations(api: Api) -> list[Found]:
    return _tagged(api, await api.all_of("/automations/filter"))


async def _block(api: Api, name: str) -> str:
    kind, _slash, block = name.partition("/")
    found = await _one(api, f"/block_types/slug/{quote(kind)}/block_documents/name/{quote(block)}")
    if found is None:
        raise LookupError(f"Prefect has no block {name}")
    return str(found["id"])


async def _one(api: Api, path: str) -> Any:
    try:
        return await api.ask("GET", path)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 404:
            return None
        raise


async def _act(api: Api, action: Mapping[str, Any]) -> dict[str, Any]:
    (word, given), *_rest = action.items()
    if word == "run_deployment":
        flow, _slash, name = given["deployment"].partition("/")
        found = await _one(api, f"/deployments/name/{quote(flow)}/{quote(name)}")
        if found is None and given["deployment"] not in api.promised:
            raise LookupError(f"Prefect has no deployment {given['deployment']}")
        selected = {"source": "selected", "deployment_id": found["id"] if found else None}
        return {"type": "run-deployment", **selected, "parameters": given.get("parameters", {})}
    if word == "set_state":
        return {"type": "change-flow-run-state", "state": given["state"], "message": given.get("message", "")}
    if word == "call_webhook":
        block = await _block(api, given["block"])
        return {"type": "call-webhook", "block_document_id": block, "payload": given.get("payload", "")}
    if word == "notify":
        block, texts = await _block(api, given["block"]), {key: given[key] for key in ("subject", "body")}
        return {"type": "send-notification", "block_document_id": block, **texts}
    return {"type": word.replace("_", "-")}


async def _build_automation(api: Api, name: str, value: Any) -> dict[str, Any]:
    asked = value["trigger"]
    trigger = {
        "type": "event",
        "posture": {"happen": "Reactive", "stay_away": "Proactive"}[asked["when"]],
        "match": asked.get("match", {}),
        "match_related": asked.get("related", {}),
        **{key: sorted(set(asked.get(key, ()))) for key in sorted(_SETS)},
        "threshold": asked.get("threshold", 1),
        "within": float(asked["within"]),
    }
    actions = [await _act(api, each) for each in value["actions"]]
    told = {"description": value.get("description", ""), "enabled": value.get("enabled", True)}
    return {"name": name, **told, "tags": [api.label], "trigger": trigger, "actions": actions}


async def _put_automation(api: Api, document: Mapping[str, Any], found: Found | None) -> None:
    await api.ask(*(("PUT", f"/automations/{found.key}") if found else ("POST", "/automations/")), document)


async def _remove_automation(api: Api, found: Found) -> None:
    await api.ask("DELETE", f"/automations/{found.key}")


# Deployments: only this program's own flows. A repository of rules names no code.


async def _find_deployments(api: Api) -> list[Found]:
    return _tagged(api, await api.all_of("/deployments/filter", flows={"name": {"any_": [FLOW]}}))


async def _build_deployment(api: Api, name: str, value: Any) -> dict[str, Any]:
    flow = await api.ask("POST", "/flows/", {"name": FLOW})
    schedule = {"interval": float(value["interval_s"]), "anchor_date": _ANCHOR, "timezone": "UTC"}
    told = {"description": value["description"], "tags": [api.label], "paused": False}
    schedules = [{"schedule": schedule, "active": True}]
    return {"name": name, "flow_id": flow["id"], **told, "schedules": schedules, "enforce_parameter_schema": False}


async def _put_deployment(api: Api, document: Mapping[str, Any], _found: Found | None) -> None:
    await api.ask("POST", "/deployments/", document)  # Prefect brings the one of this name to it


async def _remove_deployment(api: Api, found: Found) -> None:
    await api.ask("DELETE", f"/deployments/{found.key}")


#: Deployments before automations, which may name them.
KINDS: tuple[Kind, ...] = (
    Kind("variables", _find_variables, _build_variable, _put_variable, _remove_variable),
    Kind("limits", _find_limits, _build_limit, _put_limit, _remove_limit, _claim_limits),
    Kind("deployments", _find_deployments, _build_deployment, _put_deployment, _remove_deployment),
    Kind("automations", _find_automations, _build_automation, _put_automation, _remove_automation),
)
