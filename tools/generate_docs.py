"""Writes docs/reference from the code: verbs, exit codes, the runbook schema and its page, the collection's modules.
`--check` only compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from collection_page import collection_page

from osremed import __version__
from osremed.cli.manual import manual
from osremed.cli.verbs import all_codes
from osremed.console.app import build_app
from osremed.console.binding import Places
from osremed.console.dashboard import dashboard
from osremed.core.codes import EXITS, GROUPS
from osremed.runbook.actions import COLLECTORS, PROBES, STEPS
from osremed.runbook.document import json_schema, part_schema
from osremed.runbook.values import SYSCTLS, VALUES
from osremed.verbs.table import VERBS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
_MADE = "<!-- made by `make docs`; edit the code instead -->\n"


def verbs_page() -> str:
    lines = [_MADE, "# Verbs", ""]
    for verb in VERBS:
        lines += [f"## osremed {' '.join(verb.words)}", "", f"{verb.help[0].upper()}{verb.help[1:]}.", ""]
        for arg in verb.all_args:
            default = f" Default `{arg.default}`." if arg.default not in (None, "") else ""
            required = " Required." if arg.required else ""
            lines.append(f"- `{arg.name}`: {arg.help}.{default}{required}")
        if verb.route:
            lines.append(f"- over HTTP: `{verb.route.replace(' ', ' /v1')}`, scope `{verb.scope}`")
        if verb.args or verb.route:
            lines.append("")
    return "\n".join(lines)


def exit_codes_page() -> str:
    rows = [f"| {int(code)} | {code.name} | {meaning} |" for code, meaning in EXITS.items()]
    return "\n".join([_MADE, "# Exit codes", "", "| code | name | meaning |", "|---|---|---|", *rows, ""])


def errors_page() -> str:
    lines = [_MADE, "# Codes of errors", "", "`osremed explain CODE` says the same. A code is never renamed.", ""]
    codes = all_codes()
    for group, title in (*GROUPS.items(), ("runbook", "Rules of runbooks")):
        lines += [f"## {title}", "", "| code | means | what to do |", "|---|---|---|"]
        rows = [(name, code) for name, code in codes.items() if _group(name) == group]
        lines += [f"| `{name}` | {code.means} | {code.do} |" for name, code in rows]
        lines.append("")
    return "\n".join(lines)


def _group(name: str) -> str:
    first = name.partition(".")[0]
    return first if first in {*GROUPS, "runbook", "exit"} else ""


def _type_of(facts: Mapping[str, Any]) -> str:
    if "$ref" in facts:
        return f"[{facts['$ref'].rpartition('/')[2]}](#{facts['$ref'].rpartition('/')[2].lower()})"
    if "anyOf" in facts:
        return " or ".join(_type_of(each) for each in facts["anyOf"])
    if "const" in facts:
        return f"`{facts['const']}`"
    if "enum" in facts:
        return ", ".join(f"`{each}`" for each in facts["enum"])
    if facts.get("type") == "array":
        return f"list of {_type_of(facts.get('items', {}))}"
    if "examples" in facts:
        return f"duration such as `{facts['examples'][0]}`"
    return str(facts.get("type", "any value"))


def _model_section(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield "| key | value | needed | meaning |"
    yield "|---|---|---|---|"
    brought = facts.get("anyOf", [{}])[0].get("required", [])
    for key, field in facts.get("properties", {}).items():
        needed = "yes" if key in facts.get("required", []) else "yes, or from a part" if key in brought else "no"
        yield f"| `{key}` | {_type_of(field)} | {needed} | {field.get('description', '').replace('|', '/')} |"
    yield ""


_BOUNDS = """\
A literal outside them is a fault (`out-of-bounds`); what an expression makes of the evidence is held to them before the
host is asked, and refuses the run (`bounds`). Faults of the same kind: a `cooldown` below 1s, a `fleet` above 50%, a
`storm` of more than one run a second, and a `timeout` above 1h. Where no `timeout` is written a minute is the bound.
What is not in the table its module checks on the host."""


def runbook_page() -> str:
    schema, part = json_schema(), part_schema()
    lines = [_MADE, "# The runbook", "", schema["description"], ""]
    lines += _model_section("Runbook", schema)
    for name, facts in schema["$defs"].items():
        lines += _model_section(name, facts)
    lines += ["## Part", "", part["description"], "", *list(_model_section("Part", part))[2:]]
    for name, facts in part["$defs"].items():
        lines += _model_section(name, facts) if name not in schema["$defs"] else []
    lines += ["## Actions", "", "| action | module | risk | reversible | arguments |", "|---|---|---|---|---|"]
    for name, action in STEPS.items():
        reversible = "yes" if action.reversible else "no"
        names = ", ".join(f"`{each}`" for each in sorted(action.arguments))
        module = f"`{action.module}`" if action.module else "none: a person does it"
        lines.append(f"| `{name}` | {module} | {action.risk} | {reversible} | {names} |")
    lines += ["", "## Bounds", "", _BOUNDS, "", "| action | argument | is refused if it |", "|---|---|---|"]
    for bounded, rows in VALUES.items():
        lines += [f"| `{bounded}` | `{name}` | {check(None)} |" for name, check in rows.items() if check(None)]
    lines += ["", "Sysctls that a runbook may set:", "", "| sysctl | is refused if it |", "|---|---|"]
    lines += [f"| `{name}` | {check(None)} |" for name, check in SYSCTLS.items()]
    for title, table in (("Collectors", COLLECTORS), ("Probes", PROBES)):
        lines += ["", f"## {title}", ""]
        lines += [f"- `{name}`: {', '.join(f'`{each}`' for each in sorted(args))}" for name, args in table.items()]
    return "\n".join([*lines, ""])


def pages() -> Mapping[str, str]:
    return {
        "verbs.md": verbs_page(),
        "exit-codes.md": exit_codes_page(),
        "errors.md": errors_page(),
        "osremed.1": manual(VERBS, __version__),
        "runbook.md": runbook_page(),
        "collection.md": collection_page(_MADE),
        "runbook.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        "runbook-part.schema.json": json.dumps(part_schema(), indent=2) + "\n",
        "grafana.json": json.dumps(dashboard(), indent=2) + "\n",
        "openapi.json": json.dumps(build_app(Places("", "", "", "", "")).openapi(), indent=2) + "\n",
    }


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, page in pages().items():
        path, text = FOLDER / name, page.rstrip("\n") + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"docs/reference is behind the code: {', '.join(stale)}; run: make docs")
        return 1
    print(f"docs/reference: {len(stale)} pages written" if stale else "docs/reference is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
