"""Values of the kernel's are taken back like files: only what is still ours, and no crash leaves it half done."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from osremed.agent import undo, undo_values
from osremed.agent.sweep import Sweeper
from osremed.agent.undo import Result
from osremed.agent.undo_record import list_undo
from osremed.core.canonical import sha256_hex
from osremed.core.clock import FakeClock
from osremed.core.errors import BadInput
from osremed.core.journal import read_journal
from osremed.core.log import Log
from osremed.sensors import procfs

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "support" / "undo_records").glob("*.json"))
WORD = {
    Result.REVERTED: "restored",
    Result.ALREADY_PREVIOUS: "nothing_to_do",
    Result.CONFLICT: "conflict",
}


@pytest.fixture
def tree(tmp_path):
    directory = tmp_path / "kernel"
    directory.mkdir()
    return directory


def filled(node, tree):
    """The example with its placeholders replaced."""
    places = {
        "@PID@": os.getpid(),
        "@START@": procfs.stat(os.getpid()).value.start_time_ticks,
        "@UID@": os.getuid(),
        "@GID@": os.getgid(),
    }
    if isinstance(node, dict):
        return {key: filled(value, tree) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(each, tree) for each in node]
    return places.get(node, node.replace("@ROOT@", str(tree))) if isinstance(node, str) else node


def put(paths, tree, example):
    """Files and record of an example on the host."""
    for name, text in example["files"].items():
        (tree / name).write_text(text)
    for name, target in example.get("links", {}).items():
        os.symlink(target, tree / name)
    document = filled(example["record"], tree)
    Path(paths.undo, "u1.json").write_text(json.dumps(document))
    return document


def held(tree):
    paths = [path for path in tree.iterdir() if not path.name.startswith(".") and not path.is_symlink()]
    return {path.name: path.read_text() for path in paths}


def links(tree):
    return {path.name: os.readlink(path) for path in tree.iterdir() if path.is_symlink()}


def example(name):
    return json.loads((EXAMPLES[0].parent / f"{name}.json").read_text())


def events(paths):
    return [entry.record for entry in read_journal(os.path.join(paths.events, "agent")).entries]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken_back_as_it_says(paths, tree, path):
    given = json.loads(path.read_text())
    put(paths, tree, given)
    if given["outcome"] == "refused":
        with pytest.raises(BadInput, match="not an undo record"):
            undo.revert(paths, "u1", why="asked", clock=FakeClock())
        assert os.listdir(paths.undo).count("u1.json") == 1
    else:
        done = undo.revert(paths, "u1", why="asked", clock=FakeClock())
        assert WORD[done.result] == given["outcome"]
        left = {name for name in os.listdir(paths.undo) if not name.startswith(".")}
        assert left == ({"u1.conflict"} if given["outcome"] == "conflict" else set())
        assert links(tree) == given.get("links_after", {})
    assert held(tree) == given.get("files_after", given["files"])


def test_a_change_of_values_that_is_not_confirmed_in_time_is_taken_back_and_told(paths, tree):
    document = put(paths, tree, example("restored"))
    clock = FakeClock()
    document["deadline_ns"] = clock.wall_ns() + 60 * 10**9
    document["created_ns"] = clock.wall_ns()
    Path(paths.undo, "u1.json").write_text(json.dumps(document))
    sweeper = Sweeper(paths, clock, Log("test"))
    assert sweeper.sweep() == []
    clock.advance(61)
    (done,) = sweeper.sweep()
    assert done.path == f"{tree}/a"
    (event,) = events(paths)
    assert event["name"] == "change.reverted"
    assert [each["current"] for each in event["attributes"]["values"]] == ["4 5 6", "60"]  # newest first


def test_a_value_behind_a_link_is_not_written(paths, tree, tmp_path):
    (tmp_path / "real").write_text("60\n")
    os.symlink(tmp_path / "real", tree / "a")
    document = put(paths, tree, {**example("restored"), "files": {"b": "4 5 6\n"}})
    with pytest.raises(OSError, match="symbolic links"):
        undo.revert(paths, "u1", why="asked", clock=FakeClock())
    assert (tmp_path / "real").read_text() == "60\n"
    assert [each.undo_id for each in list_undo(paths.undo).pending] == [document["undo_id"]]


def test_a_process_that_ends_between_look_and_write_is_not_followed_to_its_pid(paths, tree, monkeypatch):
    put(paths, tree, example("guard_lives"))
    answers = iter([True, False])
    monkeypatch.setattr(undo_values, "_lives", lambda guard: next(answers))
    done = undo.revert(paths, "u1", why="asked", clock=FakeClock())
    assert done.result is Result.ALREADY_PREVIOUS
    assert "0" not in (tree / "a").read_text()


@pytest.mark.parametrize("name", ["restored", "with_file", "conflict"])
def test_sigkill_at_any_write_is_finished_by_the_next_try(paths, tree, name):
    given = example(name)
    for kill_at in range(20):
        put(paths, tree, given)
        pid = os.fork()
        if pid == 0:
            _die_at_system_call(kill_at)
            undo.revert(paths, "u1", why="asked", clock=FakeClock())
            os._exit(0)
        ended = os.WIFEXITED(os.waitpid(pid, 0)[1])
        if Path(paths.undo, "u1.json").exists():
            done = undo.revert(paths, "u1", why="asked", clock=FakeClock())
            assert WORD[done.result] in (given["outcome"], "nothing_to_do")
        assert held(tree) == given["files_after"]
        for left in Path(paths.undo).glob("u1.*"):
            left.unlink()
        if ended:
            assert kill_at >= 3
            return
    raise AssertionError("never ended")


def _die_at_system_call(kill_at):
    """SIGKILL right after the given write, rename or unlink. (Before a write a file of the kernel's is not empty; the
    regular file that stands in for it is.)"""
    count = iter(range(100))
    for name in ("write", "rename", "unlink", "replace"):
        real = getattr(os, name)

        def counted(*args, real=real, **kwargs):
            result = real(*args, **kwargs)
            if next(count) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, name, counted)


def test_one_value_that_cannot_be_put_back_does_not_keep_the_others_applied(paths, tree, tmp_path):
    given = example("restored")
    (tmp_path / "real").write_text("4 5 6\n")
    os.symlink(tmp_path / "real", tree / "b")
    put(paths, tree, {**given, "files": {"a": "60\n"}})
    for _ in range(2):
        with pytest.raises(OSError, match="symbolic links"):
            undo.revert(paths, "u1", why="asked", clock=FakeClock())
        assert (held(tree), (tmp_path / "real").read_text()) == ({"a": "10\n"}, "4 5 6\n")
    assert [each.undo_id for each in list_undo(paths.undo).pending] == ["u1"]


def test_a_file_that_cannot_be_put_back_does_not_keep_the_values_applied(paths, tree):
    given = example("with_file")
    unwritable = "/proc/version"
    given["record"]["file"].update(path=unwritable, applied_sha256=sha256_hex(Path(unwritable).read_bytes()))
    put(paths, tree, given)
    with pytest.raises(OSError, match="osremed-new"):
        undo.revert(paths, "u1", why="asked", clock=FakeClock())
    assert (tree / "a").read_text() == given["files_after"]["a"] != given["files"]["a"]
    assert [each.undo_id for each in list_undo(paths.undo).pending] == ["u1"]
