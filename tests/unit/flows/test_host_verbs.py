"""What another host answers is shown; what it claims to answer is refused, and its text acts on no terminal."""

from __future__ import annotations

import pytest

from osremed.core.action import Outcome, Status
from osremed.core.errors import ExitCode, Unavailable
from osremed.flows import host_verbs
from tests.support.console_state import HOSTILE
from tests.support.look_documents import gpus_document, heat_document

PLACES = {"inventory": "i", "collections": "c", "state": "s"}


@pytest.fixture
def gives(monkeypatch):
    """gives(collector, document): what each host answers from now on; the calls it was asked with."""

    def answer(collector, document):
        calls = []

        class Executor:
            hosts = frozenset({"web-1"})

            def __init__(self, *_where):
                pass

            def run(self, call):
                calls.append(call.args["collectors"])
                return Outcome(Status.OK, "", result={"items": {collector: document}, "gaps": {}})

            def close(self):
                pass

        monkeypatch.setattr(host_verbs, "AnsibleExecutor", Executor)
        return calls

    return answer


def test_a_window_is_asked_whole_and_its_text_is_made_harmless(gives):
    asked = gives("hotspot_at", {**heat_document(), "text": f"hot: {HOSTILE}\nsecond"})
    answer = host_verbs.hotspot_at(host="web-1", around="e-1", window="1m", **PLACES)
    wanted = {"moment": "", "around": "e-1", "window_s": 60, "container": "", "process": ""}
    assert asked == [{"hotspot_at": wanted}]
    assert (answer.exit_code, answer.document["host"], "text" in answer.document) == (ExitCode.OK, "web-1", False)
    assert answer.text.startswith('web-1: hot: "><script>')
    assert "\x1b" not in answer.text
    assert answer.text.endswith("\nsecond")


@pytest.mark.parametrize("document", [{}, {"text": 7, "samples": 1}, {"text": "x", "samples": "many"}, [], "x"])
def test_what_is_no_window_is_not_shown_as_one(gives, document):
    gives("hotspot_at", document)
    with pytest.raises(Unavailable, match="what it gave is"):
        host_verbs.hotspot_at(host="web-1", moment="last", **PLACES)


def test_a_gpu_that_hangs_is_said_and_the_exit_code_tells(gives):
    gives("gpus", gpus_document())
    answer = host_verbs.gpus(host="web-1", **PLACES)
    assert answer.exit_code == ExitCode.UNAVAILABLE
    assert "GPU 1 HANGS" in answer.text
    assert "\x1b" not in answer.text


@pytest.mark.parametrize("wrong", [{"inventory": 7}, {"gpus": [{}]}, {"hung": None}, {"unreadable": {"0": "x"}}])
def test_what_is_not_of_gpus_is_not_shown_as_such(gives, wrong):
    gives("gpus", gpus_document(**wrong))
    with pytest.raises(Unavailable, match="not of GPUs"):
        host_verbs.gpus(host="web-1", **PLACES)
