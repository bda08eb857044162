"""What leaves: no secret, no hidden name, and a shape in which a place is the same place as before."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.opinion.documents import Document, exists, fitted
from osremed.opinion.policy import Share
from osremed.opinion.veil import HIDDEN, Veil
from tests.support.cost import cpu_s

OPEN = Share(names="shown", paths="shown", hosts="shown")


def veiled(document, share=OPEN, hosts=()):
    veil = Veil(share, hosts)
    veil.learn(document)
    return veil.over(document)


@pytest.mark.parametrize(
    "text",
    [
        "mysqld --password=hunter2 -u root",
        "mysqld --password hunter2",
        "password=[hunter2]",
        "DB_PASSWORD=hunter2 ./run",
        "curl -H 'Authorization: Bearer hunter2hunter2'",
        "Bearer hunter2hunter2",
        "postgres://app:hunter2@db/x",
        '{"api_key": "hunter2"}',
        "api-key: 'hunter2 hunter2'",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nhunter2",
        "xoxb-hunter2hunter2",
        "ghp_hunter2hunter2hunter2",
        "sk-hunter2hunter2hunter2",
        "eyJhunter2hunter2.eyJhunter2hunter2.hunter2",
    ],
)
def test_what_looks_like_a_secret_is_hidden_wherever_it_stands(text):
    sent = json.dumps(veiled({"a": [text], text: 1}))
    assert "hunter2" not in sent
    assert HIDDEN in sent


@pytest.mark.parametrize(
    "document",
    [
        {"password": "hunter2"},
        {"db_password": ["hunter2"]},
        {"credentials": {"value": "hunter2"}},
        {"options": ["--token", "hunter2"]},
        {"environment": {"GITHUB_TOKEN": "hunter2"}},
    ],
)
def test_what_is_named_a_secret_is_hidden(document):
    assert "hunter2" not in json.dumps(veiled(document))


def test_figures_and_plain_words_are_not_secrets():
    plain = {"tokens": 12, "token_count": 7, "summary": "the cache holds 3 tokens/s; I/O is 40 %", "missing": None}
    assert veiled(plain, Share()) == plain


def test_a_hidden_name_is_the_same_stand_in_everywhere_and_comes_back():
    document = {
        "processes": [{"pid": 7, "name": "billing", "cmdline": "billing --for acme"}, {"pid": 8, "name": "cron"}],
        "summary": "billing (pid 7) on web-17 holds /srv/acme/heap, see billing-notes",
        "host": "web-17",
        "threads": [{"name": "acme-worker", "seconds": 2}],
    }
    veil = Veil(Share())
    veil.learn(document)
    sent = veil.over(document)
    told = json.dumps(sent)
    assert not [word for word in ("billing", "acme", "web-17", "cron") if word in told]
    name = sent["processes"][0]["name"]
    assert sent["summary"].startswith(f"{name} (pid 7) on host-1 holds path-1")
    lifted = veil.lifted(f"{name} and path-1 of host-1, not name-99")
    assert lifted == "billing and /srv/acme/heap of web-17, not name-99"


@pytest.mark.parametrize("known", ["web-17", "web-17.prod.corp.example"])
def test_a_host_is_hidden_by_its_short_name_and_with_its_domain_however_it_is_known(known):
    text = "kernel of web-17: peer web-17.prod.corp.example. It is web-170 that answers, at 10.0.0.1"
    veil = Veil(Share(), [known, "10.0.0.2"])
    told = veil.text(text)
    assert not [word for word in ("web-17 ", "web-17:", "corp", "example", "10.0") if word in told], told
    assert ". It is web-170 that answers" in told
    assert veil.lifted(told) == text


def test_a_process_that_calls_itself_a_stand_in_confuses_nobody():
    document = {"processes": [{"pid": 1, "name": "name-2"}, {"pid": 2, "name": "real"}, {"pid": 3, "name": "path"}]}
    document["text"] = "name-2 and real and path at /x/y"
    veil = Veil(Share())
    veil.learn(document)
    sent = veil.over(document)
    assert veil.lifted(sent["text"]) == document["text"]
    assert [veil.lifted(each["name"]) for each in sent["processes"]] == ["name-2", "real", "path"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "pid", "cmdline", "path", "processes", "token", "x"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_no_document_breaks_it_and_what_left_can_be_sent(document):
    veil = Veil(Share())
    veil.learn(document)
    json.dumps(veil.over(document), ensure_ascii=True)


def test_a_document_nested_without_end_is_cut():
    deep = {"x": 1}
    for _ in range(900):
        deep = {"x": [deep]}
    assert "…" in json.dumps(veiled(deep, Share()), ensure_ascii=False)


@pytest.mark.parametrize(
    "piece",
    ["eyJ-", "-", "password ", "://a:", "/a", "bearer ", "-----BEGIN ", "--token ", "1.1.", "web-17.", "web-17._"],
)
def test_hostile_text_takes_time_in_proportion_to_its_length(piece):
    def seconds(length):
        text, veil = piece * (length // len(piece)), Veil(Share(), ["web-17"])
        return cpu_s(lambda: veil.text(text))

    seconds(1000)
    short, long = min(seconds(20_000) for _ in range(3)), seconds(200_000)
    assert long < 60 * max(short, 0.002)


def test_a_citation_is_an_id_or_a_place_that_is_there():
    documents = [Document("a", {"rows": [{"n/x": 1}], "~": 0})]
    assert all(exists(each, documents) for each in ("a", "a#/rows/0", "a#/rows/0/n~1x", "a#/~0"))
    wrong = (
        "",
        "b",
        "a#",
        "a#rows",
        "a#/rows/1",
        "a#/rows/-1",
        "a#/rows/0/n/x",
        f"a#/rows/{chr(0x661)}",
        "#/rows",
        "a#/rows/0/n~1x/y",
    )
    assert [each for each in wrong if exists(each, documents)] == ["a#"]


def test_documents_share_the_room_and_what_has_none_is_named():
    documents = (
        Document("small", {"a": 1}),
        Document("rows", [{"n": number, "text": "x" * 50} for number in range(1000)]),
        Document("wide", {f"key-{number}": "x" * 50 for number in range(1000)}),
    )
    kept, left_out = fitted(documents, 10_000)
    assert [each.id for each in kept] == ["small", "rows"]
    assert left_out == ("wide",)
    assert kept[0] == documents[0]
    assert "lists end after" in kept[1].cut
