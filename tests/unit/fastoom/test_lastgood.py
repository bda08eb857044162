"""The policy that was good last stands in for the host's own, and for no other."""

from __future__ import annotations

import json
import os

import pytest

from osremed.core.errors import BadInput
from osremed.core.log import Log
from osremed.core.paths import host_paths
from osremed.fastoom.lastgood import last_good_path, starting_policy

LOG = Log("test", level="error")


@pytest.fixture
def paths(tmp_path):
    os.makedirs(tmp_path / "etc/osremed")
    return host_paths(str(tmp_path))


def write(path, sensitivity):
    document = {"apiVersion": "osremed/v1", "kind": "FastoomPolicy", "sensitivity": sensitivity}
    with open(path, "w", encoding="utf-8") as out:
        json.dump(document, out)


def test_the_hosts_own_policy_that_is_broken_or_gone_is_replaced_by_what_was_good_last(paths):
    write(paths.fastoom_policy, "low")
    good = starting_policy(paths.fastoom_policy, paths, LOG).policy
    os.unlink(paths.fastoom_policy)
    state = starting_policy(paths.fastoom_policy, paths, LOG)
    assert state.policy.sha256 == good.sha256
    assert "fastoom.json" in state.error


def test_another_policy_that_is_named_must_be_right_itself_and_is_not_kept(paths, tmp_path):
    write(paths.fastoom_policy, "low")
    own = starting_policy(paths.fastoom_policy, paths, LOG).policy
    with pytest.raises(BadInput, match=r"typo\.json"):
        starting_policy(str(tmp_path / "typo.json"), paths, LOG)
    write(tmp_path / "trial.json", "high")
    assert starting_policy(str(tmp_path / "trial.json"), paths, LOG).policy.sensitivity == "high"
    os.unlink(paths.fastoom_policy)
    assert starting_policy(paths.fastoom_policy, paths, LOG).policy.sha256 == own.sha256
    assert last_good_path(str(tmp_path / "trial.json"), paths) == ""
