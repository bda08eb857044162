"""What a runbook may give an action its module takes: the two tables know one thing and do not disagree."""

from __future__ import annotations

import importlib

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _cgroup, _sysctl
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed

from osremed.runbook.actions import ACTIONS, STEPS
from osremed.runbook.values import SYSCTLS, VALUES, unfit

V2 = 2


def why(action, **arguments):
    return [told for _name, told in unfit(action, arguments)]


def taken(name, value):
    """Whether the module makes lines of it."""
    try:
        return bool(_cgroup.lines_for(name, value, V2, "max"))
    except ActionFailed:
        return False


def test_every_argument_that_a_runbook_may_give_has_a_row_and_nothing_else_has():
    assert {action: set(rows) for action, rows in VALUES.items()} == {
        name: set(step.arguments) for name, step in STEPS.items()
    }


@pytest.mark.parametrize("name", ACTIONS)
def test_the_module_knows_each_argument_and_every_choice_of_it(name):
    path = ACTIONS[name].module.replace("host.", "host.plugins.modules.")
    module = importlib.import_module(f"ansible_collections.{path}")
    spec = module.argument_spec()
    for argument in ACTIONS[name].arguments:
        wanted = spec[argument]
        for choice in wanted.get("choices", ()):
            assert why(name, **{argument: choice}) == [], (argument, choice)
        if wanted.get("choices"):
            assert why(name, **{argument: "perhaps"}), argument
        if wanted["type"] == "bool":
            assert why(name, **{argument: "perhaps"}), argument
        if wanted["type"] in ("int", "float"):
            assert why(name, **{argument: "many"}), argument
            assert why(name, **{argument: 1e30}), argument
        if wanted.get("default") is not None and wanted["type"] != "dict":
            assert why(name, **{argument: wanted["default"]}) == [], argument


LIMITS = {
    "memory_max": ["max", "16MiB", 16 << 20, "1G", "64T", "1", 1, "lots", "99999999999999999999", True],
    "memory_high": ["max", "512M", "15MiB", -1],
    "memory_low": ["0", 0, "1GiB", "-1"],
    "swap_max": [0, "max", "2GiB", "none"],
    "cpu_weight": [1, 10_000, 0, 10_001, "100", "x"],
    "cpu_max": ["max", "50000", "50000 100000", "1000 1000000000", "999", "1 2 3", "max 1000", "x"],
    "pids_max": [16, "max", 4194304, 4194305, 0, "x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LIMITS.items() for value in values])
def test_a_limit_that_a_runbook_may_set_the_module_takes(name, value):
    if why("cgroup_limits", **{name: value}) == []:
        assert taken(name, value)
    if not taken(name, value):
        assert why("cgroup_limits", **{name: value})


def test_what_the_module_would_take_and_ends_what_is_in_the_group_a_runbook_may_not():
    for name, value in (("memory_max", "1"), ("memory_max", 1), ("pids_max", 1)):
        assert taken(name, value)
        assert why("cgroup_limits", **{name: value})


@pytest.mark.parametrize("path", ["/", "system.slice", "/a//b", "/a/../b", "/a/.", "", "/a\0"])
def test_a_path_that_is_no_group_is_refused_by_both(path):
    assert why("cgroup_limits", cgroup=path)
    with pytest.raises(ActionFailed):
        _cgroup.check_path(path)


def test_a_path_that_is_a_group_is_taken_by_both():
    assert why("cgroup_limits", cgroup="/system.slice/x.service") == []
    assert _cgroup.check_path("/system.slice/x.service")


@pytest.mark.parametrize("name", SYSCTLS)
def test_every_sysctl_that_a_runbook_may_set_the_module_takes(name):
    assert _sysctl.canonical_name(name) == name
    (sample,) = [value for value in (100, 65_536, 1 << 25, 5, 1) if SYSCTLS[name](value) == ""][:1]
    assert _sysctl.check_settings({name: sample}) == {name: str(sample)}
    assert SYSCTLS[name](99_999_999_999_999)
    assert SYSCTLS[name](-1)


@pytest.mark.parametrize("name", ["vm.drop_caches", "kernel.core_pattern", "kernel.modules_disabled", "kernel.panic"])
def test_a_sysctl_that_the_module_refuses_or_nobody_has_bounds_for_a_runbook_may_not_set(name):
    assert "no bounds are known" in why("sysctl", settings={name: 1})[0]
