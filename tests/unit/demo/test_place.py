"""A story that waits for a process which has ended says so at once, with the process's last words."""

import sys
import time
from types import SimpleNamespace

import pytest

from osremed.core.errors import OsremedError
from osremed.core.reading import Value
from osremed.demo import place as places


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Without a control group: none is made here."""
    monkeypatch.setattr(places.cgroup, "memory_hierarchy", lambda: Value(SimpleNamespace()))
    with places.open_place(str(tmp_path)) as opened:
        yield opened


def never():
    return None


def test_a_daemon_that_has_died_ends_the_wait_with_its_last_words(place):
    place.start("here-agent", [sys.executable, "-c", "import sys; print('no such port'); sys.exit(7)"])
    began = time.monotonic()
    with pytest.raises(OsremedError, match="the run ends: here-agent ended with 7:\nno such port") as raised:
        place.wait_for("the run ends", never, 600, "here-agent")
    assert time.monotonic() - began < 60
    assert raised.value.where.endswith("logs/here-agent.log")


def test_what_is_waited_for_may_be_the_end_of_the_process(place):
    child = place.start("job", [sys.executable, "-c", ""])
    child.wait()
    assert place.wait_for("the answer", lambda: "here", 600, "job") == "here"


def test_of_a_process_that_was_started_anew_only_the_newest_counts(place):
    place.start("dispatcher", [sys.executable, "-c", ""]).wait()
    place.start("dispatcher", [sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(OsremedError, match=r"ready: not within 0.2 s"):
        place.wait_for("ready", never, 0.2, "dispatcher")
