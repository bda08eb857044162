"""What people say to a canary, and what it answers when it was told nonsense."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from osremed.core.errors import BadInput, ExitCode
from osremed.core.journal import Journal
from osremed.flows import canary_verbs as verbs
from osremed.flows.settings import ControlPaths
from osremed.runbook.canary import Ended, HostEnded, Planned, WaveBegan
from osremed.runbook.catalog import load_entry
from osremed.runbook.fanout import _line, begin
from osremed.runbook.model import RunState

HOSTS = frozenset({"a", "b", "c"})
INVENTORY = SimpleNamespace(hosts=HOSTS, groups={"web": frozenset({"b", "a"}), "none": frozenset()})


def test_hosts_are_a_group_by_name_or_names_in_the_order_they_are_given():
    assert verbs._hosts(INVENTORY, "web") == ("a", "b")
    assert verbs._hosts(INVENTORY, "c, a,c") == ("c", "a")


@pytest.mark.parametrize("wanted", ["wbe", "a,x", "none", ""])
def test_a_host_that_is_not_there_and_a_group_of_nobody_are_errors_and_never_everybody(wanted):
    with pytest.raises(BadInput, match="names no host"):
        verbs._hosts(INVENTORY, wanted)


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_attributes_are_an_object(text):
    with pytest.raises(BadInput, match=r"JSON|object"):
        verbs._attributes(text)


def test_a_stopped_canary_is_shown_with_where_it_stopped_and_is_not_exit_code_0(tmp_path):
    paths, entry = ControlPaths(str(tmp_path)), load_entry("runbooks/near-oom/runbook.yaml")
    planned = Planned("0" * 16, "near-oom", entry.digest, ("a", "b"), {}, 0.0, 0.0, "ann")
    begin(paths.canaries, planned, entry)
    journal = Journal(f"{paths.canaries}/{'0' * 16}/journal")
    for line in (WaveBegan(("a",)), HostEnded("a", "f" * 16, RunState.UNDONE, "no help"), Ended("1 of 1")):
        journal.append(_line(line))
    journal.close()
    answer = verbs.canary_show(canary_id="0" * 16, state=str(tmp_path))
    assert answer.exit_code is ExitCode.FAILED
    assert answer.document["untouched"] == ("b",)
    assert "stopped in wave 1: 1 of 1" in answer.text
