"""The reference page of the collection's modules and event source, from what `ansible-doc` says of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = ROOT / "collections" / "ansible_collections" / "osremed" / "host"
_LINK = re.compile(r"\b(?:C|V|O|RV|E|I|B)\(((?:[^()\\]|\\.|\([^()]*\))*)\)")
_MODULE = re.compile(r"\bM\(([a-z0-9_.]+)\)")


def collection_page(made: str) -> str:
    documents = _documents()
    lines = [made, "# Modules of osremed.host", ""]
    for name in sorted(documents):
        lines += _module_section(name, documents[name])
    lines += ["# Event source of osremed.host", "", *_event_source_section()]
    return "\n".join(lines)


def _documents() -> Mapping[str, Any]:
    """Name -> what ansible-doc says, with the fragments merged."""
    names = [f"osremed.host.{path.stem}" for path in (COLLECTION / "plugins" / "modules").glob("*.py")]
    command = [os.path.join(os.path.dirname(sys.executable), "ansible-doc"), "-t", "module", "-j", *sorted(names)]
    environ = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "LC_ALL": "C.UTF-8"}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environ, cwd=ROOT).stdout
    return dict(json.loads(told))


def _module_section(name: str, document: Mapping[str, Any]) -> Iterator[str]:
    doc = document["doc"]
    yield from (f"## {name}", "", f"{_plain(doc['short_description'])}.", "")
    yield from (f"{_plain(text)}\n" for text in _texts(doc["description"]))
    facts = doc["attributes"]
    told = [f"{key.replace('_', ' ')}: {facts[key]['support']}" for key in ("check_mode", "diff_mode", "idempotent")]
    yield from (f"{' · '.join(told)}", "")
    yield from _options(doc["options"])
    yield from ("| returns | type | when | meaning |", "|---|---|---|---|")
    for key, value in sorted((document["return"] or {}).items()):
        yield f"| `{key}` | {_type(value)} | {_cell(value['returned'])} | {_cell(value['description'])} |"
    yield ""
    yield from ("```yaml", document["examples"].strip(), "```", "")


def _options(options: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| option | type | default | meaning |", "|---|---|---|---|")
    yield from _option_rows(options, "")
    yield ""


def _option_rows(options: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, facts in sorted(options.items()):
        default = "required" if facts.get("required") else _default(facts.get("default"))
        yield f"| `{above}{key}` | {_type(facts)} | {default} | {_cell(facts['description'])} |"
        yield from _option_rows(facts.get("suboptions") or {}, f"{above}{key}.")


def _default(value: Any) -> str:
    return "" if value is None else f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _type(facts: Mapping[str, Any]) -> str:
    if facts.get("choices"):
        return ", ".join(f"`{each if isinstance(each, str) else json.dumps(each)}`" for each in facts["choices"])
    return f"list of {facts['elements']}" if facts.get("elements") else str(facts.get("type", "str"))


def _texts(text: Any) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def _cell(text: Any) -> str:
    return _plain(" ".join(_texts(text))).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Ansible's marks as Markdown's."""
    return _LINK.sub(lambda match: f"`{match.group(1)}`", _MODULE.sub(r"`\1`", text))


def _event_source_section() -> Iterator[str]:
    source = (COLLECTION / "extensions" / "eda" / "plugins" / "event_source" / "events.py").read_text(encoding="utf-8")
    blocks = dict(re.findall(r'^([A-Z]+) = r"""\n(.*?)^"""$', source, re.MULTILINE | re.DOTALL))
    doc = yaml.safe_load(blocks["DOCUMENTATION"])
    yield from ("## osremed.host.events", "", f"{_plain(doc['short_description'])}.", "")
    yield from (f"{_plain(text)}\n" for text in doc["description"])
    yield from _options(doc["options"])
    yield from ("```yaml", blocks["EXAMPLES"].strip(), "```", "")
