"""A daemon obeys a file that is right as a whole, else what was good last, and says which."""

from __future__ import annotations

import json

import pytest

from osremed.core.canonical import sha256_hex
from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.core.policyfile import PolicyFile, policy_keys


def parse(data, path):
    return policy_keys(data, path, "TestPolicy")["figure"] if b"figure" in data else _fail(path)


def _fail(path):
    raise BadInput("no figure", where=path)


def text(figure):
    return json.dumps({"apiVersion": "osremed/v1", "kind": "TestPolicy", "figure": figure}).encode()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "policy.json"


@pytest.fixture
def opened(tmp_path, place):
    def open_it():
        return PolicyFile(str(place), str(tmp_path / "state/last_good.json"), parse, 0, Log("test", level="error"))

    return open_it


def test_without_a_file_the_defaults_count(opened):
    policy = opened()
    policy.start()
    assert (policy.settings, policy.sha256, policy.error) == (0, "", "")


def test_a_file_counts_from_the_start_and_its_removal_brings_the_defaults_back(opened, place):
    place.write_bytes(text(3))
    policy = opened()
    policy.start()
    assert (policy.settings, policy.sha256) == (3, sha256_hex(text(3)))
    place.unlink()
    assert policy.reload()
    assert (policy.settings, policy.sha256) == (0, "")


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff", b'{"figure": 1}', b"[" * 100_000])
def test_a_wrong_file_changes_nothing_and_is_named(opened, place, broken):
    place.write_bytes(text(3))
    policy = opened()
    policy.start()
    place.write_bytes(broken)
    assert not policy.reload()
    assert (policy.settings, policy.sha256) == (3, sha256_hex(text(3)))
    assert policy.rejected_sha256 == sha256_hex(broken)
    assert str(place) in policy.error
    place.write_bytes(text(4))
    assert policy.reload()
    assert policy.document() == {
        "policy_path": str(place),
        "policy_optional": True,
        "policy_sha256": sha256_hex(text(4)),
        "policy_error": "",
        "policy_rejected_sha256": "",
    }


def test_a_start_beside_a_wrong_file_takes_what_was_good_last(opened, place):
    place.write_bytes(text(3))
    opened().start()
    place.write_bytes(b"{")
    again = opened()
    again.start()
    assert (again.settings, again.sha256) == (3, sha256_hex(text(3)))
    assert again.rejected_sha256 == sha256_hex(b"{")


def test_a_first_start_with_a_wrong_file_is_refused_and_so_is_one_after_the_file_was_taken_away(opened, place):
    place.write_bytes(text(3))
    policy = opened()
    policy.start()
    place.unlink()
    policy.reload()
    place.write_bytes(b"{")
    with pytest.raises(BadInput):
        opened().start()


def test_a_file_that_is_a_folder_is_refused_as_one(opened, place):
    place.mkdir()
    policy = opened()
    with pytest.raises(BadInput, match="cannot be read"):
        policy.start()
