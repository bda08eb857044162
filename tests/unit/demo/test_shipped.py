"""Where a story looks for the collection, and what it says where there is none."""

import os
from pathlib import Path

import pytest

from osremed.core.errors import BadInput, ExitCode, NotFound
from osremed.demo import shipped
from osremed.runbook.catalog import load_catalog
from osremed.runbook.guardpolicy import restricting
from osremed.runbook.modes import mode_of

ROOT = Path(__file__).resolve().parents[3]
INSIDE = "ansible_collections/osremed/host"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As in a site-packages folder, of somebody with a home of his own."""
    monkeypatch.setattr(shipped, "_CHECKOUT", str(tmp_path / "site-packages"))
    monkeypatch.setattr(shipped, "_HERE", str(tmp_path / "site-packages/osremed/demo"))
    monkeypatch.setattr(shipped, "_USUAL", (str(tmp_path / "usual"),))
    (tmp_path / "site-packages/osremed/demo/runbooks/near-oom").mkdir(parents=True)
    (tmp_path / "site-packages/osremed/demo/runbooks/near-oom/runbook.yaml").touch()
    return tmp_path


def test_a_checkout_has_all_of_it_wherever_it_is_called_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shipped.find_shipped("./collections")
    assert (found.runbooks, found.collections) == (str(ROOT / "runbooks"), str(ROOT / "collections"))


def test_a_release_has_its_runbooks_in_the_package(installed):
    (installed / "mine" / INSIDE).mkdir(parents=True)
    found = shipped.find_shipped(str(installed / "mine"))
    assert found.runbooks == str(installed / "site-packages/osremed/demo/runbooks")
    assert found.collections == str(installed / "mine")


def test_a_collection_where_ansible_puts_it_is_found(installed):
    (installed / "usual" / INSIDE).mkdir(parents=True)
    assert shipped.find_shipped(str(installed / "mine")).collections == str(installed / "usual")


def test_without_the_collection_the_place_and_the_command_that_installs_it_are_said(installed):
    with pytest.raises(BadInput, match=r"osremed\.host is not here") as raised:
        shipped.find_shipped("./mine")
    assert (raised.value.exit_code, raised.value.where) == (ExitCode.BAD_INPUT, "./mine")
    assert "ansible-galaxy collection install" in raised.value.hint


def test_an_installation_without_runbooks_says_so(installed):
    (installed / "site-packages/osremed/demo/runbooks/near-oom/runbook.yaml").unlink()
    with pytest.raises(NotFound, match="no runbooks"):
        shipped.find_shipped("./mine")


def test_a_story_lets_one_runbook_act_by_a_policy_as_a_site_would(tmp_path):
    there = shipped.Shipped(str(ROOT / "runbooks"), str(ROOT / "collections"), "host.pyz")
    for _again in (1, 2):
        found = shipped.acting(there, str(tmp_path), "near-oom")
    assert (found.collections, found.zipapp) == (there.collections, "host.pyz")
    catalog = load_catalog(found.runbooks)
    restrict = restricting(lambda: os.path.join(os.path.dirname(found.runbooks), "policies"), lambda: {"all": {"h"}})
    auto = {name for name, entry in catalog.items() if mode_of(entry.runbook, restrict("h", name)).auto}
    assert auto == {"near-oom"}
