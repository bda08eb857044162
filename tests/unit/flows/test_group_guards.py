"""The operator of the dispatcher and of a run by hand asks the policies that lie beside the runbooks."""

from __future__ import annotations

import os
from types import SimpleNamespace

from osremed.flows.settings import ControlPaths
from osremed.flows.verbs import operator_of

POLICY = """\
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {name: pace, title: Slowly, owners: [sre]}
hosts: db
guards: {cooldown: 2h}
"""


def test_policies_of_the_live_set_count_when_the_link_to_it_is_swapped(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "runbooks").mkdir(parents=True)
    (tmp_path / "new/policies").mkdir()
    (tmp_path / "new/policies/pace.yaml").write_text(POLICY)
    (tmp_path / "live").symlink_to("old")
    executor = SimpleNamespace(groups={"all": frozenset({"db-1", "web-1"}), "db": frozenset({"db-1"})})
    operator = operator_of(executor, ControlPaths(str(tmp_path)), str(tmp_path / "live/runbooks"))
    assert operator.restrict("db-1", "near-oom") == ()
    os.unlink(tmp_path / "live")
    (tmp_path / "live").symlink_to("new")
    (found,) = operator.restrict("db-1", "near-oom")
    assert (found.policy, found.guards.cooldown) == ("pace", 7200.0)
    assert operator.restrict("web-1", "near-oom") == ()
