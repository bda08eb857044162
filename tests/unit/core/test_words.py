"""The small words: canonical JSON, exit codes, readings, records, clocks, outcomes, paths, log lines."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core import errors
from osremed.core.action import Outcome, Status, outcome_from_json
from osremed.core.canonical import canonical_json, digest
from osremed.core.clock import FakeClock, rfc3339
from osremed.core.errors import BadInput, ExitCode, OsremedError
from osremed.core.finding import Finding
from osremed.core.log import Log
from osremed.core.paths import host_paths
from osremed.core.reading import Missing, Reason, Value, missing_from_oserror, reading_as_json
from osremed.core.record import record

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json_is_json_and_stable(value):
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_keys_does_not_show(document):
    assert digest(document) == digest(dict(reversed(document.items())))


def test_canonical_json_has_one_known_form():
    assert canonical_json({"b": [1, 2.0, None], "a": "é"}) == '{"a":"é","b":[1,2.0,null]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_cannot_say_has_no_canonical_form(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


def test_exit_codes_are_unique_and_fit_a_byte():
    codes = [int(code) for code in ExitCode.__members__.values()]
    assert len(set(codes)) == len(codes)
    assert all(0 <= code <= 255 for code in codes)


def test_every_error_has_an_exit_code_that_is_not_success():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OsremedError)]
    assert len(kinds) >= 4
    assert all(isinstance(kind.exit_code, ExitCode) and kind.exit_code != ExitCode.OK for kind in kinds)


def test_an_error_says_where_what_and_what_to_do():
    assert (
        str(BadInput("no such key", where="f.json:3:1", hint="remove it"))
        == "f.json:3:1: no such key\n  hint: remove it"
    )
    assert str(BadInput("no such key")) == "no such key"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, Reason.DENIED),
        (errno.EPERM, Reason.DENIED),
        (errno.ENOENT, Reason.GONE),
        (errno.ESRCH, Reason.GONE),
        (errno.ENOSYS, Reason.UNSUPPORTED),
        (errno.ETIMEDOUT, Reason.TIMED_OUT),
        (errno.EIO, Reason.NO_DATA),
    ],
)
def test_a_failed_call_is_missing_with_its_reason(number, reason):
    missing = missing_from_oserror(OSError(number, os.strerror(number)), "/proc/1/x")
    assert (missing.reason, missing.source, missing.detail) == (reason, "/proc/1/x", os.strerror(number))


def test_an_absent_file_can_mean_an_older_kernel():
    error = OSError(errno.ENOENT, "No such file or directory")
    assert missing_from_oserror(error, "x", absent=Reason.UNSUPPORTED).reason is Reason.UNSUPPORTED


def test_a_reading_in_json_is_the_value_or_says_that_it_is_missing():
    assert reading_as_json(Value(0)) == 0
    assert reading_as_json(Missing(Reason.DENIED, "s", "d")) == {"missing": "denied", "source": "s", "detail": "d"}
    assert str(Missing(Reason.DENIED, "s", "d")) == "denied: s (d)"


def test_a_missing_reading_has_no_value_to_take_for_zero():
    assert not hasattr(Missing(Reason.NO_DATA, "s"), "value")


def test_records_do_not_change():
    @record
    class Point:
        x: int

    with pytest.raises(dataclasses.FrozenInstanceError):
        Point(1).x = 2
    if sys.version_info >= (3, 10):
        assert not hasattr(Point(1), "__dict__")


def test_a_fake_clock_moves_only_when_told():
    clock = FakeClock()
    before = clock.wall_ns(), clock.monotonic_ns()
    assert (clock.wall_ns(), clock.monotonic_ns()) == before
    clock.advance(0.25)
    assert (clock.wall_ns() - before[0], clock.monotonic_ns() - before[1]) == (250_000_000, 250_000_000)


def test_times_are_utc_with_milliseconds():
    assert rfc3339(1_700_000_000_123_999_999) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize("status", Status)
def test_an_outcome_comes_back_from_json(status):
    outcome = Outcome(status, True, {"previous": {"a": 1}}, "-a\n+b\n", "why", 1, 2)
    assert outcome_from_json(json.loads(json.dumps(outcome.as_json()))) == outcome


def test_only_what_may_have_run_is_ambiguous():
    assert {status for status in Status if Outcome(status).ambiguous} == {
        Status.TIMED_OUT,
        Status.CANCELLED,
        Status.UNREACHABLE,
    }


def test_a_finding_in_json_names_its_evidence():
    document = Finding("hog", "s", 0.9, ("panorama",), "frees 1 GiB").as_json()
    assert document["evidence"] == ["panorama"]


def test_one_variable_moves_every_path(monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", "/somewhere")
    assert all(path.startswith("/somewhere/") for path in host_paths())
    monkeypatch.delenv("OSREMED_PREFIX")
    assert host_paths().run == "/run/osremed"


LOGGER = "from osremed.core.log import Log; log = Log('t'); log.info('hello', n=1, text='a b\\n'); log.debug('hidden')"


def test_a_log_line_is_one_line_with_its_values_quoted():
    done = subprocess.run([sys.executable, "-c", LOGGER], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith('Z info t hello n=1 text="a b\\n"\n')


def test_a_full_or_closed_stderr_neither_blocks_nor_raises():
    program = (
        "import os\nfrom osremed.core.log import Log\nlog = Log('t')\nreading, writing = os.pipe()\n"
        "os.dup2(writing, 2)\n"
        "for _ in range(2000): log.error('x' * 200, bad=float('nan'), loop={(1, 2): 3})\n"
        "os.close(2)\nlog.error('closed')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_the_level_comes_from_the_caller(capfd):
    Log("t", level="error").warning("hidden")
    Log("t", level="error").error("shown")
    assert "hidden" not in capfd.readouterr().err
