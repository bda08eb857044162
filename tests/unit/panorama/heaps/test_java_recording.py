"""A recording of a JVM is ended and its file removed, also when the JVM is slow to answer."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.heaps import java_recording
from osremed.panorama.heaps.collect import Wish, longest_s
from osremed.panorama.heaps.java_recording import recorded

LATE = Missing(Reason.TIMED_OUT, "socket", "no answer")
REFUSED = Missing(Reason.MALFORMED, "socket", "unknown command")


@pytest.fixture
def jvm(tmp_path, monkeypatch):
    """(space, what was asked, answers by the first word of a command; a dump writes its file)."""
    (tmp_path / "7/root/tmp").mkdir(parents=True)
    asked, answers = [], {}

    def command(_space, words, _timeout_s):
        asked.append(words.split()[0])
        if words.startswith("JFR.dump"):
            name = words.partition("filename=")[2].split()[0]
            (tmp_path / "7/root" / name.lstrip("/")).write_bytes(b"no recording")
        return answers.get(asked[-1], Value(""))

    monkeypatch.setattr(java_recording.jattach, "command", command)
    monkeypatch.setattr(java_recording.jattach, "counters", lambda _space: LATE)
    return SimpleNamespace(root=str(tmp_path), pid=7), asked, answers


@pytest.mark.parametrize("late", ["JFR.start", "GC.class_histogram", "JFR.dump"])
def test_what_the_jvm_may_still_do_is_stopped(jvm, late):
    space, asked, answers = jvm
    answers[late] = LATE
    assert recorded(space, "osremed-1", 0.0, 1.0, 0) == LATE
    assert asked[-2:] == [late, "JFR.stop"]
    assert os.listdir(f"{space.root}/7/root/tmp") == []


def test_a_jvm_without_a_recorder_is_not_told_to_stop_one(jvm):
    space, asked, answers = jvm
    answers["JFR.start"] = REFUSED
    assert recorded(space, "osremed-1", 0.0, 1.0, 0).reason is Reason.UNSUPPORTED
    assert asked == ["JFR.start"]


def test_a_stop_without_an_answer_says_what_may_be_left(jvm):
    space, _asked, answers = jvm
    answers["JFR.stop"] = LATE
    assert "the recording osremed-1 and its file may be left" in recorded(space, "osremed-1", 0.0, 1.0, 0).detail


def test_a_reader_has_time_for_every_command_of_a_recording():
    """Two histograms, and the four commands of the recording between them."""
    slow = Wish(growth_s=1.0, limit_s=6.0, consent=True)
    assert longest_s(slow) >= 6 * slow.limit_s + 1.0
    assert longest_s(Wish(growth_s=1.0, limit_s=6.0)) < longest_s(slow)
