"""What every module of the collection has, and what names them all."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml
from ansible_collections.osremed.host.plugins.doc_fragments.attributes import ModuleDocFragment

from osremed.runbook.actions import ACTIONS

HOST = Path(__file__).resolve().parents[3] / "collections/ansible_collections/osremed/host"
MODULES = sorted(path.stem for path in (HOST / "plugins/modules").glob("*.py"))


def test_the_action_group_holds_every_module():
    runtime = yaml.safe_load((HOST / "meta/runtime.yml").read_text())
    assert runtime["action_groups"]["all"] == MODULES


def test_the_readme_names_every_module():
    readme = (HOST / "README.md").read_text()
    assert [name for name in MODULES if f"`osremed.host.{name}`" not in readme and f"`{name}`" not in readme] == []


def options_of(module):
    """Documented options with those of the fragments."""
    documents = [yaml.safe_load(module.DOCUMENTATION)]
    for name in documents[0].get("extends_documentation_fragment", []):
        fragment = name.removeprefix("osremed.host.attributes").lstrip(".").upper() or "DOCUMENTATION"
        documents.append(yaml.safe_load(getattr(ModuleDocFragment, fragment)))
    return {key: facts for document in documents for key, facts in (document.get("options") or {}).items()}


@pytest.mark.parametrize("name", sorted({action.module.rpartition(".")[2] for action in ACTIONS.values()}))
def test_an_action_names_a_module_that_takes_its_arguments_and_can_be_undone_if_it_says_so(name):
    module = importlib.import_module(f"ansible_collections.osremed.host.plugins.modules.{name}")
    action = next(action for action in ACTIONS.values() if action.module == f"osremed.host.{name}")
    taken, returned = set(options_of(module)), yaml.safe_load(module.RETURN)
    assert action.arguments | set(action.engine_arguments) <= taken
    assert "previous" in returned
    assert ({"undo_id", "undo_dir", "confirm_within"} <= taken) is (action.reversible and action.recorded)
    assert ("always empty" not in str(returned["previous"]["description"]).lower()) is action.reversible
    if action.reversible:
        assert "as_seen" in returned
