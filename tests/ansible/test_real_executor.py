"""What only the real executor can show: processes, signals, directories and foreign settings."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osremed.core.action import Call, Status
from osremed.core.errors import BadInput
from osremed.executor import stragglers
from osremed.executor.runner import AnsibleExecutor

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]
ACT = "example.lab.act"
COLLECTIONS = f"{ROOT / 'collections'}{os.pathsep}{Path(__file__).parent / 'collections'}"


def until(condition, within_s=30.0):
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / "work"


def test_a_call_leaves_nothing_behind(inventory, work_dir, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    executor = AnsibleExecutor(inventory, COLLECTIONS, str(work_dir))
    assert executor.run(Call(ACT, {"secret": "hunter2"}, "here", 60)).status is Status.OK
    executor.close()
    assert list(home.iterdir()) == []
    kept = {path.name for path in work_dir.rglob("*") if path.is_file()}
    assert kept == {"ansible.cfg", "hosts", "groups"}, "names of hosts and groups are for completion"
    assert "hunter2" not in "".join((work_dir / name).read_text() for name in kept)
    assert list((work_dir / "calls").iterdir()) == []
    assert work_dir.stat().st_mode & 0o777 == 0o700


def test_a_module_that_ran_out_of_time_does_not_act_later(inventory, work_dir, tmp_path):
    executor = AnsibleExecutor(inventory, COLLECTIONS, str(work_dir))
    late = tmp_path / "late"
    outcome = executor.run(Call(ACT, {"wait_s": 6, "late": str(late)}, "here", 1))
    assert outcome.status is Status.TIMED_OUT
    executor.close()
    until(lambda: stragglers.marked_processes(str(work_dir / "calls")) == (), within_s=4)
    time.sleep(max(0.0, 7 - (outcome.ended_ns - outcome.started_ns) / 1e9))  # past the moment it would have acted
    assert not late.exists()


def test_an_executor_ends_what_a_killed_one_left_running(inventory, work_dir, tmp_path):
    script = (
        "import sys\n"
        "from osremed.core.action import Call\n"
        "from osremed.executor.runner import AnsibleExecutor\n"
        f"AnsibleExecutor({inventory!r}, {COLLECTIONS!r}, {str(work_dir)!r}).run(\n"
        f"    Call({ACT!r}, {{'create': {str(tmp_path / 'began')!r}, 'wait_s': 300}}, 'here', 400))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as controller:
        until((tmp_path / "began").exists)
        controller.kill()
        controller.wait()
    calls = str(work_dir / "calls")
    assert stragglers.marked_processes(calls), "the module was expected to outlive its controller"
    AnsibleExecutor(inventory, COLLECTIONS, str(work_dir)).close()
    assert stragglers.marked_processes(calls) == ()
    assert os.listdir(calls) == []


def test_two_executors_share_a_directory_without_ending_each_other(inventory, work_dir):
    first = AnsibleExecutor(inventory, COLLECTIONS, str(work_dir))
    loop = asyncio.new_event_loop()

    async def both():
        running = asyncio.create_task(asyncio.to_thread(first.run, Call(ACT, {"wait_s": 3}, "here", 60)))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(AnsibleExecutor, inventory, COLLECTIONS, str(work_dir))
        return await running

    assert loop.run_until_complete(both()).status is Status.OK
    loop.close()


def test_signal_handlers_stay_ours(real_executor):
    def handler(number, frame):
        raise AssertionError("not sent in this test")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        real_executor.run(Call(ACT, {}, "here", 60))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_foreign_ansible_settings_have_no_effect(inventory, work_dir, tmp_path, monkeypatch):
    (tmp_path / "ansible.cfg").write_text("[defaults]\ncollections_path = /nonexistent\nlog_path = /nonexistent/log\n")
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "minimal")
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", "/nonexistent")
    monkeypatch.setenv("ANSIBLE_RUN_TAGS", "nothing")
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", "/nonexistent")
    executor = AnsibleExecutor(inventory, COLLECTIONS, str(work_dir))
    assert executor.run(Call(ACT, {"echo": "heard"}, "here", 60)).result["echo"] == "heard"


def test_an_inventory_that_cannot_be_read_is_bad_input(work_dir, tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {hosts: [\n")
    with pytest.raises(BadInput, match="inventory"):
        AnsibleExecutor(str(tmp_path / "hosts.yml"), COLLECTIONS, str(work_dir))
    (tmp_path / "hosts.yml").write_text("all: {hosts: {}}\n")
    with pytest.raises(BadInput, match="names no host"):
        AnsibleExecutor(str(tmp_path / "hosts.yml"), COLLECTIONS, str(work_dir))


def test_a_name_that_is_a_group_too_is_refused(real_executor):
    assert real_executor.run(Call(ACT, {}, "twice", 60)).status is Status.REFUSED


def test_a_host_that_joined_the_inventory_later_is_found(work_dir, tmp_path):
    local = "{ansible_connection: local, ansible_python_interpreter: '{{ ansible_playbook_python }}'}"
    hosts = tmp_path / "hosts.yml"
    hosts.write_text(f"all: {{hosts: {{first: {local}}}}}\n")
    executor = AnsibleExecutor(str(hosts), COLLECTIONS, str(work_dir))
    assert executor.run(Call(ACT, {}, "second", 60)).status is Status.REFUSED
    hosts.write_text(f"all: {{hosts: {{first: {local}, second: {local}}}}}\n")
    assert executor.run(Call(ACT, {}, "second", 60)).status is Status.OK
    hosts.write_text(f"all: {{hosts: {{first: {local}}}}}\n")
    assert executor.run(Call(ACT, {}, "second", 60)).status is Status.REFUSED
