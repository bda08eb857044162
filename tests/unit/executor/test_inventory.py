from __future__ import annotations

from osremed.executor.inventory import hosts_of


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
