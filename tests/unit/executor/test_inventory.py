from __future__ import annotations

from osremed.executor.inventory import hosts_of, remember_names


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
