"""The examples that the host's own agent is held to as well (tests/unit/agent/test_undo_values.py): both take a change
back alike."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _kernelvalue, _undo
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.module_utils._reload import start_ticks
from ansible_collections.osremed.host.plugins.modules import undo

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "support" / "undo_records").glob("*.json"))


def filled(node, tree):
    """The example with its placeholders replaced."""
    pid = os.getpid()
    places = {"@PID@": pid, "@START@": start_ticks(pid), "@UID@": os.getuid(), "@GID@": os.getgid()}
    if isinstance(node, dict):
        return {key: filled(value, tree) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(each, tree) for each in node]
    return places.get(node, node.replace("@ROOT@", str(tree))) if isinstance(node, str) else node


@pytest.fixture
def host(tmp_path):
    class Host:
        tree, undo_dir = tmp_path / "kernel", tmp_path / "undo"

        def put(self, example):
            for name, text in example["files"].items():
                (self.tree / name).write_text(text)
            for name, target in example.get("links", {}).items():
                os.symlink(target, self.tree / name)
            (self.undo_dir / "u1.json").write_text(json.dumps(filled(example["record"], self.tree)))

        def held(self):
            return {path.name: path.read_text() for path in self.tree.iterdir() if not path.is_symlink()}

        def links(self):
            return {path.name: os.readlink(path) for path in self.tree.iterdir() if path.is_symlink()}

        def left(self):
            return {path.name for path in self.undo_dir.iterdir() if path.name != ".lock"}

    made = Host()
    made.tree.mkdir()
    made.undo_dir.mkdir()
    return made


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken_back_as_it_says(host, path):
    given = json.loads(path.read_text())
    host.put(given)
    before = host.held(), host.links()
    if given["outcome"] == "refused":
        for act in (_undo.confirm, _undo.revert):
            with pytest.raises(ActionFailed, match="not an undo record"):
                act(str(host.undo_dir), "u1", False)
        assert host.left() == {"u1.json"}
        return
    assert _undo.revert(str(host.undo_dir), "u1", True)[0] == given["outcome"]
    assert (host.held(), host.links(), host.left()) == (*before, {"u1.json"})  # check mode changed nothing
    assert _undo.revert(str(host.undo_dir), "u1", False)[0] == given["outcome"]
    assert host.left() == ({"u1.conflict"} if given["outcome"] == "conflict" else set())
    assert (host.held(), host.links()) == (given["files_after"], given.get("links_after", {}))


def test_values_are_confirmed_and_shown_in_the_diff(host):
    host.put(json.loads((EXAMPLES[0].parent / "restored.json").read_text()))
    options = {"undo_dir": str(host.undo_dir), "id": "u1", "reload_timeout_s": 1.0}
    shown = undo.revert(options, True)
    assert (shown["result"], shown["path"]) == ("restored", f"{host.tree}/a")
    assert shown["diff"]["before"] == f"{host.tree}/b = 4 5 6\n{host.tree}/a = 60\n"
    assert shown["diff"]["after"] == f"{host.tree}/b = 1 2 3\n{host.tree}/a = 10\n"
    assert undo.confirm(options, False)["result"] == "confirmed"
    assert (host.held()["a"], host.left()) == ("60\n", set())


def test_a_process_that_ends_between_look_and_write_is_not_followed_to_its_pid(host, monkeypatch):
    host.put(json.loads((EXAMPLES[0].parent / "guard_lives.json").read_text()))
    answers = iter([True, False])
    monkeypatch.setattr(_kernelvalue.Guard, "lives", lambda guard: next(answers))
    assert _undo.revert(str(host.undo_dir), "u1", False)[0] == "nothing_to_do"
    assert "0" not in host.held()["a"]


def test_one_value_that_cannot_be_put_back_does_not_keep_the_others_applied(host, tmp_path):
    given = json.loads((EXAMPLES[0].parent / "restored.json").read_text())
    (tmp_path / "real").write_text("4 5 6\n")
    os.symlink(tmp_path / "real", host.tree / "b")
    host.put({**given, "files": {"a": "60\n"}})
    for _ in range(2):
        with pytest.raises(OSError, match="symbolic links"):
            _undo.revert(str(host.undo_dir), "u1", False)
        assert (host.held(), (tmp_path / "real").read_text()) == ({"a": "10\n"}, "4 5 6\n")
    assert host.left() == {"u1.json"}


def test_a_file_that_cannot_be_put_back_does_not_keep_the_values_applied(host):
    given = json.loads((EXAMPLES[0].parent / "with_file.json").read_text())
    unwritable = "/proc/version"
    digest = hashlib.sha256(Path(unwritable).read_bytes()).hexdigest()
    given["record"]["file"].update(path=unwritable, applied_sha256=digest)
    host.put(given)
    with pytest.raises(OSError, match="osremed-new"):
        _undo.revert(str(host.undo_dir), "u1", False)
    assert host.held()["a"] == given["files_after"]["a"] != given["files"]["a"]
    assert host.left() == {"u1.json"}
