"""The configuration is right, or it is refused with its place and what to do."""

from __future__ import annotations

import json

import pytest

from osremed.agent.config import AgentConfig, Endpoint, load_config, parse_endpoint, read_token
from osremed.core.errors import BadInput


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


def written(tmp_path, document):
    path = tmp_path / "agent.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    return str(path)


def test_a_full_configuration(tmp_path, token_file):
    document = {"intake_url": "https://c.example/x/", "token_file": str(token_file), "events_dirs": ["/a"]}
    config = load_config(written(tmp_path, document))
    assert config == AgentConfig(Endpoint(True, "c.example", 443, "/x/v1/events"), str(token_file), ("/a",))


def test_an_empty_object_is_an_agent_without_an_intake(tmp_path):
    assert load_config(written(tmp_path, {})) == AgentConfig()


@pytest.mark.parametrize(
    ("document", "line", "what"),
    [
        ('{\n "intake": 1}', 2, "unknown key 'intake'"),
        ('{\n "allow_plain_http": "yes"}', 2, "true or false"),
        ('{\n "events_dirs": ["relative"]}', 2, "absolute paths"),
        ('{\n "events_dirs": "/a"}', 2, "list"),
        ('{\n "intake_url": 5}', 2, "text"),
        ('{\n "token_file": "token"}', 2, "absolute"),
        ('{\n "intake_url": "https://h"}', 2, "needs a token_file"),
        ('{\n "intake_url": "ftp://h"}', 2, "not an http"),
        ('{"intake_url": "",\n\n "intake_url": ""}', 3, "twice"),
        ("{\n\n broken", 3, "key"),
        ("[]", 1, "JSON object"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, document, line, what):
    path = written(tmp_path, document)
    with pytest.raises(BadInput, match=what) as caught:
        load_config(path)
    assert caught.value.where.startswith(f"{path}:{line}:")


def test_a_file_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        load_config(str(tmp_path / "absent.json"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_plain_http_is_for_the_loopback(host):
    assert parse_endpoint(f"http://{host}:8080").port == 8080


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.com", "localhost.example.com", "127.0.0.1.example.com", "0.0.0.0"]
)
def test_plain_http_to_another_host_must_be_asked_for(host):
    with pytest.raises(BadInput, match="show the token") as caught:
        parse_endpoint(f"http://{host}")
    assert "allow_plain_http" in caught.value.hint
    assert parse_endpoint(f"http://{host}", allow_plain_http=True).host == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "//h",
        "https://",
        "https://u:p@h",
        "https://h?q=1",
        "https://h#f",
        "https://h:x",
        "https://h\r\nX: y",
        "https://h/a b",
        "https://hé",
    ],
)
def test_anything_else_is_not_an_intake(url):
    with pytest.raises(BadInput):
        parse_endpoint(url)


def test_the_token_is_one_word_read_without_its_newline(token_file):
    assert read_token(str(token_file)) == "secret"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620])
def test_a_token_others_can_reach_is_refused(token_file, mode):
    token_file.chmod(mode)
    with pytest.raises(BadInput, match="others can read") as caught:
        read_token(str(token_file))
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"two words", b"a\r\nX-Evil: 1", b"caf\xc3\xa9", b"x" * 5000])
def test_a_token_that_is_not_one_word_is_refused(token_file, content):
    token_file.write_bytes(content)
    with pytest.raises(BadInput, match="not one printable"):
        read_token(str(token_file))


def test_a_missing_token_is_refused_at_the_key_that_names_it(tmp_path):
    path = written(tmp_path, {"intake_url": "https://h", "token_file": str(tmp_path / "none")})
    with pytest.raises(BadInput, match="cannot read the token") as caught:
        load_config(path)
    assert caught.value.where.startswith(f"{path}:3:")
