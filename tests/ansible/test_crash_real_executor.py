"""A controller that is killed at any line of a run, with Ansible as its hands: the next one brings the run to an
allowed end, and the file that was changed is the old or the new one, whole."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from osremed.runbook.model import RunState
from tests.ansible.crash_driver import operator_of
from tests.crash.test_crash import finish
from tests.support import an_agent
from tests.support.console_state import ROOT

pytestmark = pytest.mark.ansible

BOOK = """
apiVersion: osremed/v1
kind: Runbook
metadata: {name: settings, title: Keeps a setting over restarts, owners: [sre]}
mode: auto
on: [{event: test.asked}]
guards: {cooldown: 1m, concurrency: {per_host: 1, fleet: 1}, storm: {max_runs: 9, per: 1m}}
collect: [{fastoom: {}}]
diagnose: [{finding: asked, when: "true", summary: somebody asked}]
remediate:
  - when: finding('asked')
    action: sysctl
    with: {settings: {vm.swappiness: 11}, runtime: false}
    confirm_within: 5m
verify: [{probe: memory.available_ratio, expect: value > LEAST, within: 1s, for: 0s}]
"""
OLD = b"# by hand\nvm.overcommit_ratio = 50\n"
NEVER, ALWAYS = "2", "0"  #: a ratio is above the one never, above the other always
#: raised, admitted, collected, decided, approved, applied, verified, undone or confirmed
LINES = 8
POINTS = [(NEVER, when, number) for number in range(1, LINES + 1) for when in ("before", "after")]
POINTS += [(ALWAYS, "after", LINES - 1), (ALWAYS, "before", LINES), (NEVER, "seen", 0), (ALWAYS, "seen", 0)]
#: Where most is at stake: the change is made and not yet written down, or proven and not yet confirmed.
GATED = ((NEVER, "before", 6), (NEVER, "seen", 0), (ALWAYS, "seen", 0), (ALWAYS, "before", LINES))
MARKED = [point if point in GATED else pytest.param(*point, marks=pytest.mark.long) for point in POINTS]


@pytest.fixture
def there(tmp_path):
    prefix = tmp_path / "host"
    settings = prefix / "etc/sysctl.d/90-osremed.conf"
    settings.parent.mkdir(parents=True)
    settings.write_bytes(OLD)
    (tmp_path / "changed").symlink_to(settings)
    (tmp_path / "settings").mkdir()
    local = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "osremed_prefix": str(prefix),
        "osremed_command": [sys.executable, "-m", "osremed"],
    }  # fmt: skip
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": local, "there": local}}}))
    with an_agent.running(prefix):
        yield SimpleNamespace(directory=tmp_path, settings=settings, undo=prefix / "var/lib/osremed/undo")


def crash(there, least, when, number):
    (there.directory / "settings/runbook.yaml").write_text(BOOK.replace("LEAST", least))
    argv = [sys.executable, "-m", "tests.ansible.crash_driver", str(there.directory), when, str(number)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def recover(there):
    """What the next dispatcher does: finish every unfinished run."""
    operator = operator_of(there.directory)
    finish(operator)
    operator.executor.close()
    return operator.store.runs()[0]


@pytest.mark.parametrize(("least", "when", "number"), MARKED)
def test_a_run_killed_here_is_brought_to_an_allowed_end_by_the_next_controller(there, least, when, number) -> None:
    ended = crash(there, least, when, number)
    assert ended.returncode == -9, ended.stdout + ended.stderr
    runs, settings = recover(there), there.settings.read_bytes()
    if not runs:  # killed before the run existed: its event would be delivered again
        assert (when, number, settings) == ("before", 1, OLD)
        return
    (run,) = runs
    assert run.state in (RunState.SUCCEEDED, RunState.UNDONE), run.reason
    if run.state is RunState.SUCCEEDED:
        assert least == ALWAYS
        assert b"vm.swappiness = 11" in settings
    else:
        assert settings == OLD, "undone means byte for byte"
    assert [path.name for path in there.undo.iterdir() if path.name != ".lock"] == [], "no deadline is left on the host"


def test_without_a_crash_the_run_writes_exactly_these_lines(there) -> None:
    assert crash(there, NEVER, "before", 99).returncode == 0
    operator = operator_of(there.directory)
    operator.executor.close()
    ((run,), _damaged) = operator.store.runs()
    assert run.state is RunState.UNDONE
    assert len(operator.store.happenings(run.run_id)) == LINES
