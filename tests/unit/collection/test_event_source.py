"""The event source of ansible-rulebook on real journals: nothing lost, whatever happens to it or to them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from osremed.core.event import Event
from osremed.core.journal import Journal

FOLDER = (
    Path(__file__).resolve().parents[3]
    / "collections/ansible_collections/osremed/host/extensions/eda/plugins/event_source"
)
_spec = importlib.util.spec_from_file_location("osremed_eda_events", FOLDER / "events.py")
events = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(events)


@pytest.fixture
def host(tmp_path, monkeypatch):
    find = events.find_journals

    def counted(options, known):
        find(options, known)
        made.looks += 1

    monkeypatch.setattr(events, "find_journals", counted)

    class Host:
        directory, cursors = tmp_path / "events", tmp_path / "cursors"
        looks = 0  #: how often the source has looked for journals: each of its rounds begins with that

        def write(self, *ids, journal="fastoom", name="memory.near_oom", **settings):
            written = Journal(str(self.directory / journal), **settings)
            for each in ids:
                written.append(Event(each, name, "node-1", 5, {"level": "high", "text": "ä\ud800"}).as_json())
            written.close()

        def args(self, **given):
            return {"directories": [str(self.directory)], "cursor_dir": str(self.cursors), "poll_s": 0.01, **given}

        def take(self, count, **given):
            """Runs main() until `count` events were taken and nothing more comes; their ids."""
            return asyncio.run(self._take(count, given))

        async def _take(self, count, given):
            queue = asyncio.Queue()
            task = asyncio.create_task(events.main(queue, self.args(**given)))
            taken = []
            try:
                while len(taken) < count:
                    taken.append(await asyncio.wait_for(queue.get(), 60))
                taken += await asyncio.wait_for(self.rest(queue), 60)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self.last = taken
            return [event["id"] for event in taken]

        async def rest(self, queue):
            """What still comes until the source has been through all journals once more and has kept its cursors."""
            taken, wanted = [], self.looks + 2
            while self.looks < wanted:
                while not queue.empty():
                    taken.append(queue.get_nowait())
                await asyncio.sleep(0.01)
            return taken

    made = Host()
    made.directory.mkdir()
    return made


def test_every_event_is_told_once_and_what_comes_later_too(host):
    host.write("a", "b")
    host.write("c", journal="agent", name="change.reverted")
    assert sorted(host.take(3)) == ["a", "b", "c"]
    event = next(each for each in host.last if each["id"] == "a")
    assert (event["name"], event["host"], event["attributes"]["level"]) == ("memory.near_oom", "node-1", "high")
    assert (event["meta"]["source"]["type"], event["meta"]["seq"]) == ("osremed.host.events", 0)
    host.write("d")
    assert host.take(1) == ["d"]
    assert host.take(0) == []


def test_events_that_were_not_taken_come_again(host):
    host.write("a", "b", "c")

    async def take_one_and_die():
        queue = asyncio.Queue()
        task = asyncio.create_task(events.main(queue, host.args()))
        await asyncio.wait_for(queue.get(), 60)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(take_one_and_die())
    assert host.take(3) == ["a", "b", "c"]


def test_a_queue_that_takes_one_at_a_time_and_shows_only_put_gets_all(host):
    host.write(*(f"e{number}" for number in range(40)))

    async def run():
        queue = asyncio.Queue(maxsize=1)
        wrapped = SimpleNamespace(put=queue.put, queue=queue)  # as ansible-rulebook wraps it
        task = asyncio.create_task(events.main(wrapped, host.args()))
        taken = [(await asyncio.wait_for(queue.get(), 60))["id"] for _ in range(40)]
        assert await asyncio.wait_for(host.rest(queue), 60) == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return taken

    assert asyncio.run(run()) == [f"e{number}" for number in range(40)]
    assert host.take(0) == []


def test_a_new_segment_and_a_new_journal_are_found_while_it_runs(host):
    async def run():
        queue = asyncio.Queue()
        task = asyncio.create_task(events.main(queue, host.args()))
        seen = []
        for step in range(5):
            await asyncio.to_thread(host.write, f"s{step}", journal=f"j{step % 2}", segment_bytes=1)
            seen.append((await asyncio.wait_for(queue.get(), 60))["id"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seen

    assert asyncio.run(run()) == [f"s{step}" for step in range(5)]
    assert len(list((host.directory / "j0").glob("*.jsonl"))) == 3


def test_a_damaged_line_is_said_and_left_out(host, caplog):
    host.write("a", "b", "c")
    (segment,) = (host.directory / "fastoom").glob("*.jsonl")
    lines = segment.read_bytes().split(b"\n")
    segment.write_bytes(b"\n".join([lines[0], lines[1].replace(b"node-1", b"node-2"), lines[2], lines[0][:20]]))
    assert host.take(2) == ["a", "c"]  # and the torn last line is not there yet
    assert "damaged line" in caplog.text
    assert host.take(0) == []


def test_what_retention_dropped_is_said(host, caplog):
    host.write("a")
    assert host.take(1) == ["a"]
    host.write("b", "c", "d", "e", segment_bytes=1, max_segments=2)
    assert host.take(1)[-1] == "e"
    assert "dropped by retention" in caplog.text


def test_a_journal_that_was_replaced_is_told_from_its_beginning(host):
    host.write("a", "b", "c")
    assert len(host.take(3)) == 3
    shutil.rmtree(host.directory / "fastoom")
    host.write("x")
    assert host.take(1) == ["x"]


def test_only_wanted_names_are_told_and_the_others_are_passed_over(host):
    host.write("a")
    host.write("b", journal="agent", name="change.reverted")
    assert host.take(1, names=["change.*"]) == ["b"]
    assert host.take(0) == []  # the cursor has passed the other one


def test_a_new_rulebook_may_begin_with_what_comes_next(host):
    host.write("old")

    async def run():
        queue = asyncio.Queue()
        task = asyncio.create_task(events.main(queue, host.args(begin="newest")))
        await asyncio.wait_for(host.rest(queue), 60)  # else "new" may be there before it looks at all
        await asyncio.to_thread(host.write, "new")
        event = await asyncio.wait_for(queue.get(), 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return event["id"]

    assert asyncio.run(run()) == "new"


def test_a_journal_may_be_named_itself_as_that_of_the_intake(host):
    host.write("a", journal="intake")
    assert host.take(1, directories=[str(host.directory / "intake")]) == ["a"]


def test_a_damaged_cursor_tells_all_again(host):
    host.write("a")
    host.take(1)
    (cursor,) = host.cursors.iterdir()
    cursor.write_text("what")
    assert host.take(1) == ["a"]


@pytest.mark.parametrize(
    "bad",
    [
        {"cursor_dir": None}, {"cursor_dir": "relative"}, {"directories": []}, {"directories": ["x"]},
        {"directories": "/x"}, {"begin": "middle"}, {"poll_s": 0}, {"poll_s": "1"}, {"poll_s": True}, {"names": [""]},
        {"topic": "x"},
    ],
)  # fmt: skip
def test_bad_arguments_are_named_and_the_schema_refuses_them_too(host, bad):
    args = host.args(**bad)
    with pytest.raises(ValueError, match="events: "):
        events.options_of(args)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(args, json.loads((FOLDER / "schemas/events.json").read_text()))


def test_the_documentation_names_what_the_code_and_the_schema_take(host):
    documented = yaml.safe_load(events.DOCUMENTATION)["options"]
    schema = json.loads((FOLDER / "schemas/events.json").read_text())
    assert set(documented) == set(schema["properties"]) == events._KEYS
    defaults = {name: facts["default"] for name, facts in documented.items() if "default" in facts}
    assert defaults == {name: facts["default"] for name, facts in schema["properties"].items() if "default" in facts}
    taken = events.options_of({"cursor_dir": "/c"})._asdict()
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in taken.items()} == {
        "cursor_dir": "/c",
        **defaults,
    }


def test_it_can_be_tried_by_hand(host):
    host.write("a")
    argv = [sys.executable, "-u", str(FOLDER / "events.py"), str(host.directory), str(host.cursors)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUTF8": "1"}) as tried:
        try:
            assert json.loads(tried.stdout.readline())["id"] == "a"
        finally:
            tried.kill()
