"""A real repository with signed commits, and a control plane that takes its rules from there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from osremed.gitops.document import Sync
from osremed.gitops.live import Home
from osremed.gitops.reconcile import Past, reconcile
from osremed.gitops.scaffold import SCAFFOLD
from tests.support.module_executor import ModuleExecutor

#: The hosts of the fleet.
NAMES = [f"web-{number:02}" for number in range(12)]


class Author:
    """Somebody with an SSH key who commits into a repository."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name, self.key = f"{name}@example.com", directory / f"{name}.key"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(self.key)]
        subprocess.run(argv, check=True, timeout=30)

    @property
    def allowed(self) -> str:
        kind, key, _comment = self.key.with_suffix(".key.pub").read_text().split(" ", 2)
        return f'{self.name} namespaces="git" {kind} {key}\n'


class Repository:
    """A working copy; `commit` signs with the author's key, or not at all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, author: Author | None = None) -> str:
        settings = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
        if author is not None:
            settings += ["-c", "gpg.format=ssh", "-c", f"user.signingkey={author.key}"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "GIT_CONFIG_NOSYSTEM": "1"}
        argv = ["git", "-C", str(self.directory), *settings, *arguments]
        done = subprocess.run(argv, check=True, timeout=30, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    def write(self, path: str, content: str | bytes) -> None:
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.directory / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def commit(self, subject: str, author: Author | None = None) -> str:
        self.git("add", "--all")
        sign = ["-S"] if author is not None else ["--no-gpg-sign"]
        self.git("commit", "--quiet", "--allow-empty", *sign, "-m", subject, author=author)
        return self.git("rev-parse", "HEAD")


class Control:
    """A control plane's state and where its rules come from."""

    def __init__(self, directory: Path, url: str, signers: Path) -> None:
        self.home, self.past = Home(str(directory / "gitops")), Past(str(directory / "intake"), str(directory / "runs"))
        self.document = {
            "apiVersion": "osremed/v1",
            "kind": "RulesSource",
            "url": url,
            "verify": {"allowed_signers": str(signers)},
        }

    def look(self, **changes):
        return reconcile(Sync.model_validate({**self.document, **changes}), self.home, self.past)

    def live(self, path="runbooks/near-oom/runbook.yaml") -> bytes:
        return Path(self.home.live, path).read_bytes()


@pytest.fixture(scope="session")
def alice(tmp_path_factory):
    return Author(tmp_path_factory.mktemp("keys"), "alice")


@pytest.fixture(scope="session")
def mallory(tmp_path_factory):
    return Author(tmp_path_factory.mktemp("keys"), "mallory")


@pytest.fixture
def repository(tmp_path, alice):
    """The rules of `osremed gitops init`, committed and signed by alice."""
    made = Repository(tmp_path / "rules")
    for path, content in SCAFFOLD.items():
        made.write(path, content)
    made.commit("First rules", alice)
    return made


@pytest.fixture
def control(tmp_path, repository, alice):
    signers = tmp_path / "allowed_signers"
    signers.write_text(alice.allowed)
    return Control(tmp_path, f"file://{repository.directory}", signers)


class Fleet:
    """One host root a host; the real module and the real undo records on each."""

    hosts, groups = frozenset(NAMES), {"all": frozenset(NAMES)}

    def __init__(self, directory):
        self.of = {name: ModuleExecutor(str(directory / name), helps=True) for name in NAMES}

    def run(self, call):
        return self.of[call.host].run(call)

    def policy(self, name, part="fastoom"):
        path = os.path.join(self.of[name].root, f"{part}.json")
        return json.loads(open(path, "rb").read()) if os.path.isfile(path) else None

    def undo_records(self):
        found = [name for host in self.of.values() for name in os.listdir(os.path.join(host.root, "undo"))]
        return [name for name in found if name != ".lock"]


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)
