"""What is specified of each role is what it has: argument_specs against defaults and use. Exits with 1 otherwise."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "collections/ansible_collections/osremed/host/roles"
_TYPES = {"str", "int", "float", "bool", "list", "dict", "path", "raw"}
_KEYS = {"description", "type", "elements", "choices", "default", "required", "no_log", "options"}
_SHARED = "osremed_"  #: variables of all roles: they have no default in any


def problems(roles: Path = ROLES) -> list[str]:
    """One line for each thing that is not so; none when all is well."""
    return [f"role {role.name}: {each}" for role in sorted(roles.iterdir()) if role.is_dir() for each in _of_role(role)]


def _of_role(role: Path) -> Iterator[str]:
    specs, defaults = role / "meta/argument_specs.yml", role / "defaults/main.yml"
    if not specs.is_file():
        yield "no meta/argument_specs.yml"
        return
    main = (yaml.safe_load(specs.read_text(encoding="utf-8")) or {}).get("argument_specs", {}).get("main", {})
    options = main.get("options", {})
    if not main.get("short_description") or not options:
        yield "argument_specs.main needs a short_description and options"
    given = (yaml.safe_load(defaults.read_text(encoding="utf-8")) or {}) if defaults.is_file() else {}
    for name, option in options.items():
        yield from (f"{name}: {each}" for each in _of_option(name, option, given))
    yield from (f"{name}: has a default and is not specified" for name in sorted(set(given) - set(options)))
    text = "\n".join(path.read_text(encoding="utf-8") for path in _sources(role))
    unused = sorted(name for name in options if not re.search(rf"\b{re.escape(name)}\b", text))
    yield from (f"{name}: specified and used nowhere" for name in unused)


def _sources(role: Path) -> list[Path]:
    return [path for part in ("tasks", "vars", "templates") for path in sorted((role / part).rglob("*.*"))]


def _of_option(name: str, option: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    if not option.get("description"):
        yield "no description"
    if option.get("type") not in _TYPES:
        yield f"type {option.get('type')!r} is none of {', '.join(sorted(_TYPES))}"
    if option.get("type") == "list" and "elements" not in option:
        yield "a list without elements"
    if unknown := sorted(set(option) - _KEYS):
        yield f"unknown keys {', '.join(unknown)}"
    if "default" in option and option["default"] != given.get(name):
        yield f"the default is {given.get(name)!r}, specified is {option['default']!r}"
    if "default" in option and "choices" in option and option["default"] not in option["choices"]:
        yield f"the default {option['default']!r} is no choice"
    if name in given and "default" not in option and not name.startswith(_SHARED):
        yield f"its default {given[name]!r} is not specified"


def main() -> int:
    found = problems()
    print("\n".join(found) or "argument_specs agree with the roles")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
