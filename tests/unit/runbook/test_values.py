"""A runbook without bounds is refused: literals when it is linted, what expressions make before the host is asked."""

from __future__ import annotations

import asyncio

import pytest

from osremed.core.clock import FakeClock
from osremed.runbook.cases import ReplayedHost
from osremed.runbook.lint import lint_text
from osremed.runbook.model import RunState
from osremed.runbook.operate import Operator, drive
from osremed.runbook.store import RunStore
from osremed.runbook.text import parse_text
from tests.support.acting import acts
from tests.unit.runbook.conftest import make_event
from tests.unit.runbook.test_modes import CASE, SOURCE, entry_of

WITH = "    with: {sensitivity: medium}\n"
ACTION = "    action: fastoom_policy\n" + WITH


def changed(action, arguments, more=""):
    assert ACTION in SOURCE
    return SOURCE.replace(ACTION, f"    action: {action}\n    with: {arguments}\n{more}")


def faults(text):
    _book, errors = lint_text(parse_text(text.encode(), "near-oom/runbook.yaml"))
    return [(each.what, each.where) for each in errors]


@pytest.mark.parametrize(
    ("action", "arguments", "told"),
    [
        (
            "sysctl",
            "{settings: {vm.min_free_kbytes: 99999999999}}",
            "99999999999 is not a whole number",
        ),
        ("sysctl", "{settings: {kernel.panic: 1}}", "kernel.panic: no bounds are known for it"),
        ("sysctl", "{settings: {}}", "names no sysctl"),
        ("sysctl", "{settings: {vm.swappiness: 10}, persist: perhaps}", "'perhaps' is neither true nor false"),
        ("cgroup_limits", "{cgroup: /a, memory_max: 1}", "1 is not 'max' or a size from 16MiB to 64TiB"),
        ("cgroup_limits", "{cgroup: /, pids_max: 64}", "'/' is no path of a group"),
        ("cgroup_limits", "{cgroup: /a, cpu_max: 100 100000}", "is neither 'max' nor a quota"),
        ("fastoom_policy", "{sensitivity: extreme}", "'extreme' is none of low, medium, high"),
    ],
)
def test_a_literal_that_is_out_of_bounds_is_a_fault_with_its_place_and_the_bounds(action, arguments, told):
    ((what, where),) = faults(changed(action, arguments))
    assert told in what
    assert where.startswith("near-oom/runbook.yaml:")


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("sysctl", "{settings: {vm.min_free_kbytes: 65536, vm.swappiness: '10'}, persist: false}"),
        ("sysctl", '{settings: {vm.swappiness: "{{ event.wanted }}"}}'),
        ("cgroup_limits", '{cgroup: "{{ event.scope }}", memory_max: 512MiB, cpu_max: 50000 100000}'),
        ("cgroup_limits", '{cgroup: /a, memory_high: "{{ event.limit_bytes }}", pids_max: max}'),
    ],
)
def test_what_is_within_bounds_or_not_known_yet_is_none(action, arguments):
    assert faults(changed(action, arguments)) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cooldown: 10m", "cooldown: 0s", "a cooldown of 0 s is none"),
        ("manual_time: 20m", "manual_time: 59s", "59.00 s is not what a person takes for one repair"),
        ("manual_time: 20m", "manual_time: 25h", "25 h is not what a person takes for one repair"),
        ("fleet: 5%", "fleet: 100%", "100% of the fleet may be changed at once"),
        ("{max_runs: 20, per: 10m}", "{max_runs: 100000, per: 1s}", "100000 runs within"),
        (
            "    confirm_within: 5m\n",
            "    confirm_within: 5m\n    timeout: 2h\n",
            "the timeout of fastoom_policy",
        ),
        (
            "    confirm_within: 5m\n",
            "    confirm_within: 5m\n    timeout: 0s\n",
            "the timeout of fastoom_policy",
        ),
    ],
)
def test_guards_and_timeouts_that_bound_nothing_are_faults(old, new, told):
    ((what, where),) = faults(SOURCE.replace(old, new, 1))
    assert told in what
    assert where.startswith("near-oom/runbook.yaml:")


def test_a_runbook_that_only_looks_may_look_as_often_as_it_likes():
    looks = SOURCE[: SOURCE.index("\nremediate:")] + "\nremediate: []\nverify: []\n"
    assert faults(looks.replace("cooldown: 10m", "cooldown: 0s").replace("fleet: 5%", "fleet: 100%")) == []


def test_what_an_expression_makes_is_held_to_the_bounds_before_the_host_is_asked(tmp_path):
    text = changed("cgroup_limits", '{cgroup: "{{ event.scope }}", memory_max: "{{ event.wanted }}"}')
    asked = []

    class Host(ReplayedHost):
        def run(self, call):
            asked.append(call.module)
            return super().run(call)

    def run_of(wanted, name):
        where = Operator(Host(CASE), RunStore(str(tmp_path / name)), FakeClock(), frozenset({"node-1"}), restrict=acts)
        entry = entry_of(text)
        opened = where.store.create(make_event(wanted=wanted), entry, where.clock)
        try:
            return asyncio.run(drive(where, opened, entry.runbook))
        finally:
            opened.close()

    refused = run_of(4096, "small")
    assert (refused.state, refused.acted) == (RunState.REFUSED, False)
    assert refused.reason == "bounds: memory_max of cgroup_limits: 4096 is not 'max' or a size from 16MiB to 64TiB"
    assert not any("cgroup_limits" in module for module in asked)
    assert run_of(1 << 28, "enough").state is RunState.SUCCEEDED
