"""Only what a service's owner declared is a switch, and its state is what its configuration says."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.agent.switches import parse_switches, switches
from osremed.core.errors import BadInput

TRAP = "frequent-proc-reads"


@pytest.fixture
def declare(paths, tmp_path):
    """Declares one switch for this process; `declare(key=value)` with another value of a key."""

    def write(**changes):
        row = {
            "name": "web-cache",
            "mends": TRAP,
            "cmdline": "py",
            "service": "web",
            "file": str(tmp_path / "web.json"),
            "key": "cache_s",
            "on": 1,
            "off": 0,
            **changes,
        }
        document = {"apiVersion": "osremed/v1", "kind": "ServiceSwitches", "switches": [row]}
        with open(os.path.join(os.path.dirname(paths.fastoom_policy), "switches.json"), "w") as stream:
            json.dump(document, stream)

    return write


def test_one_fits_a_process_by_its_command_line_and_a_trap_by_its_name(declare):
    declare()
    me = str(os.getpid())
    assert [each["name"] for each in switches(trap=TRAP, pid=me)["fitting"]] == ["web-cache"]
    assert switches(trap="lock-contention", pid=me) == {"declared": 1, "fitting": []}
    declare(cmdline="no such program")
    assert switches(trap=TRAP, pid=me)["fitting"] == []


def test_nothing_declared_is_no_gap(paths):
    assert switches(trap=TRAP, pid=str(os.getpid())) == {"declared": 0, "fitting": []}


def test_a_process_that_has_ended_is_a_gap(declare):
    declare()
    assert switches(trap=TRAP, pid="4194305")["missing"] == "gone"


@pytest.mark.parametrize(
    ("config", "state"),
    [('{"cache_s": 0}', "off"), ('{"cache_s": 1}', "on"), ('{"cache_s": 2}', "other"), ('{"cache_s": true}', "other")],
)
def test_the_state_is_what_the_configuration_says(declare, tmp_path, config, state):
    declare()
    (tmp_path / "web.json").write_text(config)
    assert switches()["fitting"][0]["state"] == state


@pytest.mark.parametrize(("config", "reason"), [(None, "gone"), ("[]", "malformed"), ("{", "malformed")])
def test_a_configuration_that_cannot_be_understood_is_missing_with_the_reason(declare, tmp_path, config, reason):
    declare()
    if config is not None:
        (tmp_path / "web.json").write_text(config)
    assert switches()["fitting"][0]["state"]["missing"] == reason


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"file": "web.json"}, "not an absolute path"),
        ({"on": 0}, "two different"),
        ({"on": 1, "off": 1.0}, "two different"),
        ({"on": []}, "two different"),
        ({"cmdline": "("}, "not a regular expression"),
        ({"mends": ""}, "mends is ''"),
        ({"more": 1}, "has not the keys"),
    ],
)
def test_a_declaration_that_is_not_sound_is_refused_with_its_place(declare, changes, what):
    declare(**changes)
    with pytest.raises(BadInput, match=what) as caught:
        switches()
    assert caught.value.where.endswith("switches.json")


@given(st.binary(max_size=200) | st.from_type(dict).map(lambda each: json.dumps(list(each)).encode()))
def test_whatever_the_file_holds_it_is_switches_or_bad_input(data):
    try:
        assert isinstance(parse_switches(data, "x"), tuple)
    except BadInput as error:
        assert error.where == "x"
