"""The settings: strict, with the place of each fault and what to do, and never a key in them."""

from __future__ import annotations

import json
import os

import pytest

from osremed.core.errors import BadInput
from osremed.opinion.policy import load_policy
from tests.support.console_state import ROOT

WHOLE = """\
apiVersion: osremed/v1
kind: SecondOpinion
endpoint: https://models.example/v1
model: small-1
key_from: OPINION_KEY
limits: {tokens: 8000, answer_tokens: 500, within: 30s, calls_a_day: 5, tokens_a_day: 40000}
share:
  evidence: [event, findings, panorama]
  tools: [runs_show, events]
  runbooks: true
  names: hidden
  redact: ['case-[0-9]+']
"""


@pytest.fixture
def load(tmp_path):
    def read(text):
        path = tmp_path / "opinion.yaml"
        path.write_text(text)
        return load_policy(str(path))

    return read


def test_what_is_not_said_is_hidden_and_not_shared(load):
    policy = load("apiVersion: osremed/v1\nkind: SecondOpinion\nendpoint: http://127.0.0.1:8000/v1\nmodel: m\n")
    share = policy.share
    assert (share.evidence, share.tools, share.runbooks) == ([], [], False)
    assert (share.names, share.paths, share.hosts) == ("hidden", "hidden", "hidden")
    assert policy.key() is None


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("model: small-1", "modle: small-1", 4, "modle"),
        ("key_from: OPINION_KEY", "key: sk-123", 5, "unknown key 'key'"),
        ("https://models", "http://models", 3, "neither https nor of this machine"),
        ("https://models", "https://user:pw@models", 3, "password"),
        ("within: 30s", "within: 30", 6, "no unit"),
        ("tokens: 8000", "tokens: 10", 6, "4000"),
        ("answer_tokens: 500", "answer_tokens: 7000", 6, "no room for evidence"),
        ("[event, findings, panorama]", "[event, everything]", 8, "'everything'"),
        ("[runs_show, events]", "[runs_show, unfreeze]", 9, "no reading verb"),
        ("[runs_show, events]", "[ask]", 9, "no reading verb"),
        ("names: hidden", "names: yes", 11, "hidden"),
        ("'case-[0-9]+'", "'('", 12, "no regular expression"),
        ("'case-[0-9]+'", "'x*'", 12, "matches everywhere"),
        ("key_from: OPINION_KEY", "key_from: OPINION_KEY\nkey_file: /k", 1, "keep one"),
    ],
)
def test_a_fault_is_told_with_its_line_and_where_an_example_is(load, old, new, line, says):
    assert old in WHOLE
    with pytest.raises(BadInput) as caught:
        load(WHOLE.replace(old, new))
    assert f"opinion.yaml:{line}:" in caught.value.where
    assert says in caught.value.what
    assert "second-opinion.md" in caught.value.hint


def test_a_key_comes_from_a_credential_a_variable_or_a_file_of_its_owner_alone(load, tmp_path, monkeypatch):
    monkeypatch.setenv("OPINION_KEY", "from-environment")
    assert load(WHOLE).key() == "from-environment"
    (tmp_path / "OPINION_KEY").write_text("from-credential\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(WHOLE).key() == "from-credential"
    path = tmp_path / "key"
    path.write_text("from-file\n")
    of_file = WHOLE.replace("key_from: OPINION_KEY", f"key_file: {json.dumps(str(path))}")
    os.chmod(path, 0o640)
    with pytest.raises(BadInput, match="others may read"):
        load(of_file).key()
    os.chmod(path, 0o600)
    assert load(of_file).key() == "from-file"
    path.write_text("two\nlines")
    with pytest.raises(BadInput, match="not a key"):
        load(of_file).key()


def test_a_key_that_is_nowhere_is_said_with_its_name(load, monkeypatch):
    monkeypatch.delenv("OPINION_KEY", raising=False)
    with pytest.raises(BadInput, match="OPINION_KEY"):
        load(WHOLE).key()


def test_the_example_of_the_howto_is_sound(load):
    text = (ROOT / "docs/howto/second-opinion.md").read_text()
    policy = load(text.split("```yaml\n")[1].split("```")[0])
    assert {"event", "findings"} <= set(policy.share.evidence)
    assert policy.share.names == "hidden"
