"""A switch is turned only as its owner declared it, and is taken back to the same bytes."""

from __future__ import annotations

import json

import pytest
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.modules import service_switch

CONFIG = b'{"name": "gateway",  "cache_s": 0, "z": [1, 2]}'


@pytest.fixture
def host(tmp_path):
    """`turn(**options)` calls the module; `declare(**changes)` writes the declaration anew."""

    class Host:
        config = tmp_path / "web.json"
        declared = tmp_path / "switches.json"

        def declare(self, **changes):
            row = {"name": "cache", "file": str(self.config), "key": "cache_s", "on": 1, "off": 0, **changes}
            document = {"apiVersion": "osremed/v1", "kind": "ServiceSwitches", "switches": [row]}
            self.declared.write_text(json.dumps(document))

        def turn(self, *, check=False, **options):
            given = {"name": "cache", "state": "on", "declared": str(self.declared), "undo_dir": str(tmp_path / "undo")}
            absent = dict.fromkeys(("restore", "expect_sha256", "undo_id", "confirm_within"))
            given["agent_status"] = str(tmp_path / "agent.json")
            return service_switch.change({**absent, **given, **options}, check)

    Host.config.write_bytes(CONFIG)
    found = Host()
    found.declare()
    return found


def test_it_sets_the_declared_value_and_leaves_the_other_keys_and_their_order(host):
    assert host.turn()["changed"]
    assert list(json.loads(host.config.read_bytes()).items()) == [("name", "gateway"), ("cache_s", 1), ("z", [1, 2])]
    assert not host.turn()["changed"]


def test_check_mode_tells_the_change_and_makes_none(host):
    told = host.turn(check=True)
    assert told["changed"]
    assert '"cache_s": 1' in told["diff"]["after"]
    assert host.config.read_bytes() == CONFIG


def test_what_it_returns_takes_it_back_to_the_same_bytes(host):
    done = host.turn(undo_id="r-1")
    assert done["undo_registered"]
    host.turn(**done["previous"])
    assert host.config.read_bytes() == CONFIG


def test_what_somebody_changed_since_is_left_alone(host):
    seen = host.turn(check=True)["as_seen"]
    host.config.write_text('{"cache_s": 0, "new": 1}')
    with pytest.raises(ActionFailed, match="changed by someone else"):
        host.turn(**seen)
    assert host.config.read_text() == '{"cache_s": 0, "new": 1}'


@pytest.mark.parametrize(
    ("changes", "config", "what"),
    [
        ({"name": "other"}, CONFIG, "0 times, not once"),
        ({"file": "web.json"}, CONFIG, "not an absolute path"),
        ({"key": "ttl"}, CONFIG, "has no key ttl"),
        ({"on": 0}, CONFIG, "not two different"),
        ({"off": None}, CONFIG, "not two different"),
        ({}, b'{"cache_s": 7}', "neither on nor off"),
        ({}, b'{"cache_s": true}', "neither on nor off"),
        ({}, b"[]", "not a JSON object"),
        ({}, b"cache_s=0", "is not JSON"),
    ],
)
def test_what_is_not_declared_soundly_or_is_set_otherwise_is_refused_and_untouched(host, changes, config, what):
    host.declare(**changes)
    host.config.write_bytes(config)
    with pytest.raises(ActionFailed, match=what):
        host.turn()
    assert host.config.read_bytes() == config


def test_it_never_goes_through_a_link(host, tmp_path):
    (tmp_path / "secret").write_bytes(CONFIG)
    host.config.unlink()
    host.config.symlink_to(tmp_path / "secret")
    with pytest.raises(ActionFailed, match="symbolic link"):
        host.turn()
    assert (tmp_path / "secret").read_bytes() == CONFIG
