"""`hotspot traps --opinion`: the findings, and what a model makes of them, in one answer."""

from __future__ import annotations

import json

import pytest

from osremed.cli.main import main
from osremed.core.answer import Answer
from osremed.core.errors import ExitCode
from osremed.hotspot import verbs
from tests.support.chat_endpoint import Endpoint, documents_in, hypothesis, reply

FOUND = {
    "host": "web-1",
    "findings": [{"name": "spin", "summary": "it spins", "token": "s3cr3t-0123456789"}],
    "gaps": [],
}
SHARE = {"evidence": ["hotspot"]}


@pytest.fixture
def traps(monkeypatch, capsys, tmp_path):
    """traps(settings file, *words) -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(verbs, "traps", lambda **_asked: Answer(FOUND, "spin (90 %): it spins"))

    def run(path, *words):
        given = ["--settings", path, "--state", str(tmp_path / "state")]
        code = main(["hotspot", "traps", *words, *given])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_findings_come_first_and_the_opinion_is_marked(traps, settings):
    with Endpoint([reply(hypotheses=[hypothesis("hotspot#/findings/0")])]) as endpoint:
        path = settings(endpoint.url, share=SHARE)
        code, text, _ = traps(path, "--opinion")
        document = json.loads(traps(path, "--opinion", "-o", "json")[1])
    assert code == 0
    assert text.index("it spins") < text.index("OPINION OF A MODEL")
    assert document["findings"] == FOUND["findings"]
    assert document["opinion"]["hypotheses"][0]["evidence"] == ["hotspot#/findings/0"]
    assert documents_in(endpoint.requests[0])["hotspot"]["findings"][0]["name"] == "spin"
    assert "s3cr3t" not in endpoint.sent


def test_without_the_word_nobody_is_asked(traps, settings):
    with Endpoint([reply()]) as endpoint:
        code, text, _ = traps(settings(endpoint.url, share=SHARE))
    assert (code, text) == (0, "spin (90 %): it spins\n")
    assert endpoint.requests == []


def test_a_model_that_does_not_answer_takes_no_finding_away(traps, settings):
    code, text, _ = traps(settings("http://127.0.0.1:9/v1", share=SHARE), "--opinion")
    assert code == ExitCode.UNAVAILABLE
    assert "it spins" in text


def test_what_is_not_switched_on_or_not_shared_is_an_error(traps, settings):
    for path in ("/nowhere/opinion.yaml", settings("http://127.0.0.1:9/v1", share={"evidence": ["event"]})):
        code, text, told = traps(path, "--opinion")
        assert (code, text) == (ExitCode.BAD_INPUT, "")
        assert path in told
