"""A wake-up counts only with a signature of the secret; it is a wake-up and nothing more."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from starlette.testclient import TestClient

from osremed.flows import webhook

SECRET = "0123456789abcdef0123456789abcdef"
BODY = b'{"ref": "refs/heads/main"}'
GOOD = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
OTHER = hmac.new(b"another secret", BODY, hashlib.sha256).hexdigest()


@pytest.fixture
def post():
    woken = []
    client = TestClient(webhook.webhook_app(SECRET, lambda: woken.append(True)))

    def post(headers, body=BODY):
        answer = client.post("/v1/wake", content=body, headers=headers)
        return answer.status_code, len(woken)

    return post


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": f"sha256={GOOD}"},
        {"X-Gitea-Signature": GOOD},
        {"X-Forgejo-Signature": GOOD, "X-Gitea-Signature": GOOD, "X-Hub-Signature-256": f"sha256={GOOD}"},
        {"X-Gitlab-Token": SECRET},
    ],
)
def test_the_forms_of_the_code_hosts_wake(post, headers):
    assert post(headers) == (202, 1)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature-256": f"sha256={OTHER}"},
        {"X-Hub-Signature-256": GOOD},
        {"X-Hub-Signature-256": f"sha1={GOOD}"},
        {"X-Hub-Signature-256": ""},
        {"X-Gitea-Signature": OTHER},
        {"X-Gitea-Signature": GOOD, "X-Hub-Signature-256": f"sha256={OTHER}"},
        {"X-Gitea-Signature": OTHER, "X-Gitlab-Token": SECRET},
        {"X-Gitlab-Token": ""},
        {"X-Gitlab-Token": "a guess"},
        {"X-Gitlab-Token": "\xff\xfe"},
    ],
)
def test_without_a_good_signature_nothing_wakes(post, headers):
    assert post({name: value.encode("latin-1") for name, value in headers.items()}) == (401, 0)


def test_a_signature_of_another_body_does_not_count(post):
    assert post({"X-Gitea-Signature": GOOD}, b"{}") == (401, 0)


def test_a_body_without_end_is_not_read_to_its_end(post, monkeypatch):
    monkeypatch.setattr(webhook, "_MAX_BODY_BYTES", 1000)
    assert post({"X-Gitea-Signature": GOOD}, b"x" * 1001) == (413, 0)


def test_many_calls_at_once_are_one_wake_up(post):
    assert [post({"X-Gitea-Signature": GOOD}) for _ in range(5)] == [(202, 1)] * 5
