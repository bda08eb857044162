"""Fixtures: executors with a lab module, and a way to call modules of the collection through the real one."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from osremed.executor.runner import AnsibleExecutor

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = f"{ROOT / 'collections'}{os.pathsep}{Path(__file__).parent / 'collections'}"
ACT = "example.lab.act"


def _support(name):
    """A file of tests/support, whatever the working directory is."""
    spec = importlib.util.spec_from_file_location(f"osremed_tests_{name}", ROOT / "tests" / "support" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fake = _support("fake_executor")
own_sshd = _support("own_sshd")


def act(args, check):
    """The lab module, as a fake."""
    if args.get("fail"):
        return fake.Did(failed=args["fail"], result={"msg": args["fail"], "hint": "as asked"})
    path = args.get("create")
    changed = bool(path) and not os.path.exists(path)
    if changed and not check:
        Path(path).write_text("made\n")
    diff = f"--- before\n+++ {path}\n@@ -0,0 +1 @@\n+made\n" if changed else ""
    result = {"changed": changed, "echo": args.get("echo"), "large": "x" * args.get("large", 0), "pid": 1}
    return fake.Did(changed, result, diff, takes_s=args.get("wait_s", 0.0))


@pytest.fixture(scope="session")
def inventory(tmp_path_factory):
    path = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    path.write_text(
        "all:\n"
        "  hosts:\n"
        "    here: &local\n"
        "      ansible_connection: local\n"
        "      ansible_python_interpreter: '{{ ansible_playbook_python }}'\n"
        "    there: *local\n"
        "    nowhere: {ansible_host: 127.0.0.1, ansible_port: 1, ansible_ssh_timeout: 3}\n"
        "  children:\n"
        "    some: {hosts: {here: {}, there: {}}}\n"
        "    twice: {hosts: {twice: *local}}\n"
    )
    return str(path)


@pytest.fixture(scope="session")
def real_executor(inventory, tmp_path_factory):
    executor = AnsibleExecutor(inventory, COLLECTIONS, str(tmp_path_factory.mktemp("executor")))
    yield executor
    executor.close()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    """A host that is reached over ssh: this one, by a server that the tests start and end."""
    if why := own_sshd.missing_here():
        pytest.skip(why)
    made = own_sshd.Sshd(tmp_path_factory.mktemp("sshd"))
    with made.running():
        yield made


@pytest.fixture(scope="session")
def ssh_executor(sshd, tmp_path_factory):
    """`here` and `there` over ssh; nobody listens at `nowhere`, `stranger` has another key than is known of it."""
    hosts = {
        "here": sshd.variables(),
        "there": sshd.variables(),
        "nowhere": {**sshd.variables(), "ansible_port": 1},
        "stranger": sshd.variables(known="another_known"),
        "closed": sshd.variables(key="another_key"),
    }
    directory = tmp_path_factory.mktemp("over-ssh")
    document = {"all": {"hosts": hosts, "children": {"some": {"hosts": {"here": {}, "there": {}}}}}}
    (directory / "hosts.json").write_text(json.dumps(document))
    executor = AnsibleExecutor(str(directory / "hosts.json"), COLLECTIONS, str(directory / "work"))
    yield executor
    executor.close()


@pytest.fixture(
    params=[
        "fake",
        pytest.param("real", marks=pytest.mark.ansible),
        pytest.param("ssh", marks=pytest.mark.ansible),
    ]
)
def executor(request):
    if request.param != "fake":
        return request.getfixturevalue(f"{request.param}_executor")
    return fake.FakeExecutor({"here", "there", "nowhere"}, {ACT: act}, unreachable={"nowhere"})
