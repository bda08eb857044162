from __future__ import annotations

import tempfile

import pytest

from osremed.executor.inventory import groups_of, hosts_of, remember_names
from osremed.executor.runner import Inventory


def test_hosts_are_told_from_groups_and_local_ones_from_others():
    hosts = hosts_of(
        {
            "_meta": {
                "hostvars": {"a": {"ansible_connection": "local"}, "b": {}, "web": {"ansible_connection": "local"}}
            },
            "all": {"children": ["web", "ungrouped"]},
            "web": {"hosts": ["a", "b", "web"]},
            "ungrouped": {"hosts": ["c"]},
        }
    )
    assert hosts.names == {"a", "b", "c"}
    assert hosts.local == {"a"}


def test_names_are_left_for_shells_a_line_each_and_written_only_when_they_change(tmp_path):
    found = hosts_of({"web": {"hosts": ["b", "a"]}})
    remember_names(str(tmp_path), found)
    assert (tmp_path / "hosts").read_text() == "a\nb\n"
    assert "web" in (tmp_path / "groups").read_text().split()
    before = (tmp_path / "hosts").stat().st_ino
    remember_names(str(tmp_path), found)
    assert (tmp_path / "hosts").stat().st_ino == before
    remember_names(str(tmp_path), hosts_of({"web": {"hosts": ["c"]}}))
    assert (tmp_path / "hosts").read_text() == "c\n"
    remember_names(str(tmp_path / "hosts" / "no-folder"), found)


def test_groups_are_read_whatever_anybody_has_set_for_ansible_and_nothing_is_left_behind(tmp_path, monkeypatch):
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    for folder in (home, scratch):
        folder.mkdir()
    (home / ".ansible.cfg").write_text("[inventory]\nenable_plugins = nothing\n")
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("all: {children: {db: {hosts: {db-1: {}}}, web: {hosts: {web-1: {}}}}}\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ANSIBLE_INVENTORY_ENABLED", "nothing")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    assert groups_of(str(inventory), "")["db"] == {"db-1"}
    assert groups_of(str(inventory), "")["all"] == {"db-1", "web-1"}
    assert (list(scratch.iterdir()), [each.name for each in home.iterdir()]) == ([], [".ansible.cfg"])


class Reader:
    """What `Inventory` needs of an executor: a look that takes so long."""

    def __init__(self, takes_s):
        self.now_s, self.takes_s, self.hosts, self.there, self.looks = 0.0, takes_s, frozenset({"a"}), {"a"}, 0

    def reread_hosts(self):
        self.now_s += self.takes_s
        self.looks += 1
        self.hosts = frozenset(self.there)
        return self.hosts


def test_a_host_that_joined_is_found_at_once_and_soon_after_many_that_nobody_knows():
    reader = Reader(1.0)
    inventory = Inventory(reader, lambda: reader.now_s)
    reader.there.add("b")
    assert "b" in inventory
    reader.there.add("c")
    assert not any(f"made-up-{number}" in inventory for number in range(500))
    reader.now_s += 10
    assert "c" in inventory
    assert reader.looks == 2


@pytest.mark.parametrize("takes_s", [0.5, 60.0])
def test_no_more_than_a_tenth_of_the_time_goes_into_looking(takes_s):
    reader = Reader(takes_s)
    inventory = Inventory(reader, lambda: reader.now_s)
    while reader.now_s < 3600:
        assert "made-up" not in inventory
        reader.now_s += 0.25
    assert reader.looks * takes_s <= 0.1 * reader.now_s + takes_s
