"""Calls that a warm ansible-playbook serves: as any other, without its start, and as ever when nobody serves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from osremed.core.action import Call, Status
from osremed.executor import stragglers
from osremed.executor.runner import AnsibleExecutor

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]
ACT = "example.lab.act"
LAB = str(Path(__file__).parent / "collections")
COLLECTIONS = f"{ROOT / 'collections'}{os.pathsep}{LAB}"


def until(condition, within_s=60.0):
    give_up = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.02)
    return answer


@pytest.fixture
def warm(inventory, tmp_path):
    """An executor whose calls are served, and closed afterwards."""
    executor = AnsibleExecutor(inventory, COLLECTIONS, str(tmp_path / "work"))
    executor.warm_up()
    until(lambda: list((tmp_path / "work/calls").glob("*/warm-*/socket")))
    yield executor
    executor.close()


def running(directory, words):
    """Pids of processes of executors in `directory` whose command line has these words."""
    found = []
    for pid in stragglers.marked_processes(str(directory / "work" / "calls")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words in line:
            found.append(pid)
    return found


def parents(pid):
    """Of a process, the nearest first; none of one that has ended."""
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


class Asked:
    """A call under way in a thread."""

    def __init__(self, executor, create, **args):
        self.outcome = None
        self._create = create

        def ask():
            self.outcome = executor.run(Call(ACT, {"create": str(create), "wait_s": 20, **args}, "here", 60))

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    def began(self):
        until(self._create.exists)

    def ended(self):
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self.outcome


def server_of(tmp_path):
    """It alone works in the directory of its socket; what it forked works elsewhere."""
    serving = running(tmp_path, "warm_playbook.py serve")
    return next(pid for pid in serving if Path(os.readlink(f"/proc/{pid}/cwd"), "socket").exists())


def test_a_call_is_forked_from_the_one_that_is_warm(warm, tmp_path):
    call = Asked(warm, tmp_path / "began")
    call.began()
    server = server_of(tmp_path)
    assert [pid for pid in running(tmp_path, "") if server in parents(pid)]
    assert warm.cancel() == 1
    assert call.ended().status is Status.CANCELLED
    until(lambda: running(tmp_path, "") == [server])


def test_nobody_serves_a_call_with_another_environment(warm, tmp_path, monkeypatch):
    """What Ansible is told by variables it may have read while it was imported."""
    monkeypatch.setenv("SOMETHING", "else")
    call = Asked(warm, tmp_path / "began")
    call.began()
    server = server_of(tmp_path)
    assert [pid for pid in running(tmp_path, "") if server in parents(pid)] == []
    warm.cancel()
    call.ended()


def test_a_server_that_was_killed_takes_its_calls_along_and_the_next_one_runs_without(warm, tmp_path):
    call = Asked(warm, tmp_path / "began", wait_s=5)
    call.began()
    os.kill(server_of(tmp_path), signal.SIGKILL)
    assert call.ended().status in (Status.CANCELLED, Status.FAILED)
    outcome = warm.run(Call(ACT, {"echo": "heard"}, "here", 60))
    assert (outcome.status, outcome.result["echo"]) == (Status.OK, "heard")


def test_when_it_is_closed_nobody_serves_and_nothing_is_left(warm, tmp_path):
    server = server_of(tmp_path)
    assert warm.run(Call(ACT, {}, "here", 60)).status is Status.OK
    warm.close()
    until(lambda: not Path(f"/proc/{server}/cmdline").exists() or not Path(f"/proc/{server}/cmdline").read_bytes())
    assert list((tmp_path / "work" / "calls").iterdir()) == []


def test_an_owner_that_was_killed_leaves_nobody_who_serves(inventory, tmp_path):
    script = (
        "import time\n"
        "from osremed.executor.runner import AnsibleExecutor\n"
        f"AnsibleExecutor({inventory!r}, {COLLECTIONS!r}, {str(tmp_path / 'work')!r}).warm_up()\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as owner:
        until(lambda: list((tmp_path / "work/calls").glob("*/warm-*/socket")))
        server = server_of(tmp_path)
        owner.kill()
    until(lambda: server not in running(tmp_path, "serve"))


def test_without_the_collection_calls_run_as_ever(inventory, tmp_path):
    executor = AnsibleExecutor(inventory, LAB, str(tmp_path / "work"))
    executor.warm_up()
    assert executor.run(Call(ACT, {"echo": "heard"}, "here", 60)).result["echo"] == "heard"
    assert running(tmp_path, "warm_playbook.py") == []
    executor.close()


def test_many_at_once_are_each_answered_with_their_own(warm):
    answers = {}

    def ask(number):
        answers[number] = warm.run(Call(ACT, {"echo": f"said {number}", "fail": ""}, "here", 120)).result.get("echo")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"said {number}" for number in range(6)}


def test_a_module_that_is_changed_later_is_put_together_anew(inventory, tmp_path):
    """An upgrade of the collection below a controller that runs: what it imports now is what reaches the host."""
    shutil.copytree(ROOT / "collections", tmp_path / "collections")
    plugins = tmp_path / "collections/ansible_collections/osremed/host/plugins"
    executor = AnsibleExecutor(inventory, str(tmp_path / "collections"), str(tmp_path / "work"))
    executor.warm_up()
    until(lambda: list((tmp_path / "work/calls").glob("*/warm-*/socket")))
    assert executor.run(Call("osremed.host.psi_info", {}, "here", 60)).status is Status.OK
    module = plugins / "modules/psi_info.py"
    (plugins / "module_utils/_added.py").write_text("WORD = 'added'\n")
    imports = "from ansible_collections.osremed.host.plugins.module_utils._added import WORD\n"
    source = module.read_text().replace("\nfrom ansible", f"\n{imports}from ansible", 1)
    module.write_text(source.replace("module = AnsibleModule(", "raise SystemExit(WORD)\n    module = AnsibleModule("))
    outcome = executor.run(Call("osremed.host.psi_info", {}, "here", 60))
    executor.close()
    assert outcome.status is Status.FAILED
    assert "added" in (outcome.result["module_stderr"] + outcome.result["module_stdout"])


def test_a_child_of_ansible_runner_that_has_ended_is_not_waited_for(warm, monkeypatch):
    import pexpect
    import ptyprocess.ptyprocess
    from ansible_runner import runner

    waited_s = []
    told = SimpleNamespace(**{**vars(time), "sleep": waited_s.append})
    monkeypatch.setattr(ptyprocess.ptyprocess, "time", told)
    child = runner.pexpect.spawn("true")
    child.expect(pexpect.EOF)
    child.close()
    assert (sum(waited_s), child.exitstatus) == (0, 0)
    assert runner.pexpect.spawn is not pexpect.spawn, "who else uses pexpect has it as it is"
