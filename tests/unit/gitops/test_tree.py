"""A hostile repository: refused with place and hint, and nothing of it is written outside the mirror."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from osremed.core.errors import BadInput
from osremed.gitops import live
from osremed.gitops.gate import judge, judge_apart
from osremed.gitops.git import GitFailed, fetch, open_mirror
from osremed.gitops.scaffold import SCAFFOLD

RUNBOOK = "runbooks/near-oom/runbook.yaml"


def _link(repository):
    (repository.directory / "runbooks/near-oom/cases/secret.yaml").symlink_to("/etc/shadow")


def _folder_link(repository):
    (repository.directory / "policies/etc").symlink_to("../../../../etc")


def _submodule(repository):
    (repository.directory / "runbooks/sub").mkdir()
    repository.git("init", "--quiet", "runbooks/sub")
    repository.git("-C", "runbooks/sub", "commit", "--quiet", "--no-gpg-sign", "--allow-empty", "-m", "Inner")


def _tree_of(repository, *path):
    """A tree object that git's own porcelain would not make: its file lies at `path`, taken as it is."""
    blob = repository.git("hash-object", "-w", RUNBOOK)
    line = f"100644 blob {blob}\t{path[-1]}\n"
    for name in reversed(path[:-1]):
        argv = ["git", "-C", str(repository.directory), "mktree"]
        tree = subprocess.run(argv, input=line, text=True, check=True, capture_output=True, timeout=30).stdout.strip()
        line = f"040000 tree {tree}\t{name}\n"
    argv = ["git", "-C", str(repository.directory), "mktree"]
    return subprocess.run(argv, input=line, text=True, check=True, capture_output=True, timeout=30).stdout.strip()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_link, "a symbolic link"),
        (_folder_link, "a symbolic link"),
        (_submodule, "a submodule"),
        (lambda repository: repository.write("runbooks/near-oom/a b.yaml", "x"), "letters, digits"),
        (lambda repository: repository.write("runbooks/-rf/runbook.yaml", "x"), "letters, digits"),
        (lambda repository: repository.write("runbooks/..x/runbook.yaml", "x"), "letters, digits"),
        (
            lambda repository: repository.write(
                b"runbooks/\xff\xfe/runbook.yaml".decode("utf-8", "surrogateescape"), "x"
            ),
            "letters, digits",
        ),
        (
            lambda repository: (
                repository.write("runbooks/NEAR-oom/runbook.yaml", "x")
                or repository.write("runbooks/near-OOM/runbook.yaml", "x")
            ),
            "in case only",
        ),
        (lambda repository: repository.write("policies/huge.yaml", b"x" * (300 << 10)), "at most 262144"),
        (lambda repository: [repository.write(f"runbooks/r{n}/README.md", "x") for n in range(60)], "at most 50"),
    ],
)
def test_a_tree_with_something_else_than_plain_small_files_is_refused(control, repository, alice, make, word):
    good = control.look()
    make(repository)
    repository.commit("Hostile", alice)
    status = control.look(limits={"files": 50})
    assert (status.reason, status.set) == ("BadTree", good.set), status.message
    assert word in status.message
    assert os.listdir(control.home.path("sets")) == [good.set]


@pytest.mark.parametrize("path", [("runbooks", "..", "..", "x"), ("runbooks", ".git", "config"), ("..", "x")])
def test_paths_that_leave_the_tree_are_refused(tmp_path, control, repository, path):
    tree = _tree_of(repository, *path)
    commit = repository.git("commit-tree", tree, "-p", "HEAD", "-m", "Climb out")
    repository.git("update-ref", "refs/heads/main", commit)
    before = {*os.listdir(tmp_path), "gitops"}
    status = control.look(verify={"mode": "none"})
    assert status.reason in {"FetchFailed", "BadTree", "TooMuchRemoved"}, status.message
    assert not live.live_digest(control.home)
    assert {*os.listdir(tmp_path)} == before


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("level == 'high'", "level == 9 ** 9 ** 9", "uses **"),
        ("event.sensitivity == 'low'", "(range(100000000) | list | length) == 1", "calls something"),
        ("event.sensitivity == 'low'", "event.name.__class__.__mro__ | length == 1", "name with an underscore"),
        ("cooldown: 10m", "cooldown: &a [*a, *a]", "anchors and aliases"),
        ("cooldown: 10m", "cooldown: !!python/object:os.system x", "is not allowed"),
        ("name: near-oom", "name: other", "lies in folder"),
        ("owners: [sre]", "owners: [sre]\n  password: hunter2-hunter2", "unknown key 'password'"),
    ],
)
def test_rules_that_would_escape_or_run_for_ever_are_refused(tmp_path, old, new, word):
    for path, content in SCAFFOLD.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content.replace("event.level in ['medium', 'high']", "event.level == 'high'"))
    text = (tmp_path / RUNBOOK).read_text()
    assert old in text
    (tmp_path / RUNBOOK).write_text(text.replace(old, new, 1))
    for name in ("README.md", "CODEOWNERS"):
        (tmp_path / name).unlink()
    problems = judge(str(tmp_path)).problems
    assert any(word in problem.what or word in problem.hint for problem in problems), problems


@pytest.mark.parametrize(
    "line",
    [
        "# aws AKIAIOSFODNN7EXAMPLE",
        "# -----BEGIN OPENSSH PRIVATE KEY-----",
        "# https://user:hunter2@example.com/",
        "  webhook_token: abcdef123456",
        "# ghp_0123456789abcdefghijklmnopqrstuvwxyz",
    ],
)
def test_a_plain_secret_in_a_rule_is_a_problem(tmp_path, line):
    (tmp_path / "policies").mkdir()
    text = SCAFFOLD["policies/all.yaml"]
    (tmp_path / "policies/all.yaml").write_text(text + line + "\n")
    problems = judge(str(tmp_path)).problems
    where = f"policies/all.yaml:{len(text.splitlines()) + 1}:1"
    assert [(problem.rule, problem.where) for problem in problems if problem.rule == "secret"] == [("secret", where)]


def test_a_reference_to_a_secret_is_none(tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/all.yaml").write_text('# token: {{ lookup }}\n# password: "$FROM_ENVIRONMENT"\n')
    assert not [problem for problem in judge(str(tmp_path)).problems if problem.rule == "secret"]


def test_a_check_that_needs_too_much_memory_is_a_problem_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("osremed.gitops.gate._MEMORY_BYTES", 24 << 20)
    (tmp_path / "runbooks").mkdir()
    verdict = judge_apart(str(tmp_path))
    assert "within the limits" in verdict.problems[0].what


@pytest.mark.parametrize("ref", ["--upload-pack=touch /tmp/x", "main:..", "refs/heads/a..b", "a b", "", "x.lock"])
def test_a_ref_is_never_taken_for_an_option(tmp_path, ref):
    mirror = open_mirror(str(tmp_path / "mirror"), timeout_s=10)
    with pytest.raises(BadInput):
        fetch(mirror, "file:///nowhere", ref)


def test_hooks_and_helpers_of_a_repository_never_run(control, repository, tmp_path):
    told = tmp_path / "ran"
    control.look()
    for hook in ("post-checkout", "reference-transaction", "post-merge", "fsmonitor-watchman"):
        path = os.path.join(control.home.mirror, "hooks", hook)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as out:
            out.write(f"#!/bin/sh\ntouch {told}\n")
        os.chmod(path, 0o755)
    control.look()
    status = control.look(url=f"ext::touch {told}")
    assert status.reason == "FetchFailed"
    assert not told.exists()


def test_a_git_that_does_not_end_in_time_leaves_nobody_behind(tmp_path):
    """Its transport waits for the network on its own: a fetch a minute would pile them up."""
    told, ssh = tmp_path / "pids", tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nsleep 300 &\necho $$ $! > {told}\nwait\n")
    ssh.chmod(0o755)
    mirror = open_mirror(str(tmp_path / "mirror"), timeout_s=60, ssh_command=str(ssh))
    pids, timeout_s = [], 1
    while len(pids) != 2:  # a slow machine has not called it yet
        timeout_s *= 2
        with pytest.raises(GitFailed, match=f"git fetch did not end within {timeout_s} s"):
            fetch(replace(mirror, timeout_s=timeout_s), "ssh://git.example.com/rules.git", "refs/heads/main")
        pids = told.read_text().split() if told.exists() else []
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("given", ["", "ssh -i key"])
def test_ssh_gives_a_silent_network_up_unless_it_is_said_how_it_is_called(tmp_path, monkeypatch, given):
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/said\nexit 255\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    mirror = open_mirror(str(tmp_path / "mirror"), timeout_s=59.5, ssh_command=given)
    with pytest.raises(GitFailed):
        fetch(mirror, "ssh://git.example.com/rules.git", "refs/heads/main")
    said = (tmp_path / "said").read_text()
    assert said.startswith("-i key " if given else "-o ConnectTimeout=60 -o ServerAliveInterval=60 ")
    assert ("ConnectTimeout" in said) == (not given)
