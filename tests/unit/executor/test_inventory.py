from __future__ import annotations

import tempfile

from osremed.executor.inventory import groups_of, hosts_of, remember_names


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
