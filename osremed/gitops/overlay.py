"""The rules as one environment sees them: `environments/<name>/runbooks/<runbook>.yaml` merged over the runbook.

An overlay is `enabled: false`, or `patch:` with only what differs. Mappings merge key by key, null removes a key. Lists
merge by what names their items (the event of a trigger, the finding of a diagnosis, the action of a remedy, the probe
of a verification, the collector), never by position: `diagnose: {page-cache-hog: {confidence: 80%}}`. A runbook that
uses parts is patched with them in it, and uses none in that environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osremed.core.errors import BadInput
from osremed.gitops.shelf import PARTS, checked, is_runbook
from osremed.gitops.tree import Files
from osremed.runbook.parts import parts_used
from osremed.runbook.text import Path, Text, dump, parse_text

#: The key that names an item of each list of a runbook; "" where the only key of the item is its name.
IDENTITY: Mapping[str, str] = {
    "on": "event",
    "collect": "",
    "diagnose": "finding",
    "remediate": "action",
    "verify": "probe",
}


def for_environment(files: Files, environment: str) -> Files:
    """The rules as they are in that environment. BadInput with file:line:column."""
    rules = {path: content for path, content in files.items() if not path.startswith("environments/")}
    if not environment:
        return rules
    folder = f"environments/{environment}/"
    overlays = [path for path in files if path.startswith(folder)]
    if not overlays:
        known = sorted({path.split("/")[1] for path in files if path.startswith("environments/")})
        hint = f"environments here: {', '.join(known) or 'none'}"
        raise BadInput(f"no environment {environment!r}", where="environments", hint=hint)
    for path in sorted(overlays):
        target = _target(path, folder, rules)
        text = parse_text(files[path], path)
        if _enabled(text):
            base = _base(rules, target)
            if base:  # else the gate tells why, where it stands
                rules[target] = dump(_merged(parse_text(base, target).data, text))
        else:
            gone = target.rpartition("/")[0] + "/" if target.startswith("runbooks/") else target
            rules = {name: content for name, content in rules.items() if not name.startswith(gone)}
    return rules


def _base(rules: Files, target: str) -> bytes:
    """What an overlay is laid over: a runbook with its parts in it, so that it names what they brought. Empty where
    they do not fit in."""
    if not is_runbook(target) or not parts_used(rules[target], target):
        return rules[target]
    return checked(rules, target).content


def _target(path: str, folder: str, rules: Files) -> str:
    kind, _slash, name = path[len(folder) :].partition("/")
    stem, dot, ending = name.rpartition(".")
    targets = {
        "runbooks": f"runbooks/{stem}/runbook.yaml",
        "policies": f"policies/{name}",
        "prefect": f"prefect/{name}",
    }
    target = targets.get(kind, "") if dot and ending == "yaml" and "/" not in name else ""
    if target not in rules or target.startswith(PARTS):
        what = f"there is no {target} to lay it over" if target else "not an overlay"
        raise BadInput(what, where=path, hint=f"write {folder}<runbooks, policies or prefect>/<name>.yaml")
    return target


def _enabled(text: Text) -> bool:
    keys = text.data if isinstance(text.data, dict) else {}
    unknown = sorted(set(keys) - {"enabled", "patch"})
    if unknown or not keys:
        place = text.where((unknown[0],), key=True) if unknown else text.where(())
        raise BadInput("an overlay has the keys `enabled` and `patch`", where=place, hint="patch: {guards: {…}}")
    enabled = keys.get("enabled", True)
    if not isinstance(enabled, bool):
        raise BadInput("`enabled` is true or false", where=text.where(("enabled",)))
    if not enabled and "patch" in keys:
        raise BadInput("what is not enabled has no patch", where=text.where(("patch",), key=True))
    return enabled


def _merged(base: Any, overlay: Text) -> Any:
    return merge(base, overlay.data.get("patch", {}), overlay, ("patch",))


def merge(base: Any, patch: Any, text: Text, path: Path) -> Any:
    """`base` with `patch` over it; `text` and `path` tell where the patch stands. BadInput for an unknown item."""
    if isinstance(base, list) and isinstance(patch, dict):
        return _merge_list(base, patch, text, path)
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif key in result:
            result[key] = merge(result[key], value, text, (*path, key))
        else:
            result[key] = value
    return result


def _merge_list(base: list[Any], patch: dict[str, Any], text: Text, path: Path) -> list[Any]:
    identity = IDENTITY.get(str(path[-1]))
    if identity is None:
        raise BadInput("this list has no names to merge by", where=text.where(path), hint="write the whole list")
    names = [_name_of(item, identity) for item in base]
    for key in patch:
        if names.count(key) != 1:
            what = f"{path[-1]} has {'no' if key not in names else 'more than one'} item {key!r}"
            hint = f"items: {', '.join(names)}; to add one write the whole list"
            raise BadInput(what, where=text.where((*path, key), key=True), hint=hint)
    result = []
    for name, item in zip(names, base, strict=True):
        if name not in patch:
            result.append(item)
        elif patch[name] is not None:
            inner = item if identity else item[name]
            merged = merge(inner, patch[name], text, (*path, name))
            result.append(merged if identity else {name: merged})
    return result


def _name_of(item: Any, identity: str) -> str:
    if not isinstance(item, dict) or not item:
        return ""
    return str(item.get(identity, "")) if identity else str(next(iter(item)))
