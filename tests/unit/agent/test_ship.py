"""Events reach the intake at least once and in order; nothing is dropped without a trace."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.agent.ship import BATCH_BYTES, backoff_s, build_batch, told_through
from osremed.core.canonical import canonical_json
from osremed.core.journal import Cursor, Entry, read_journal


def event(number, **attributes):
    document = {"id": f"e{number}", "name": "test.event", "host": "h", "time_ns": 1 + number}
    return {**document, "attributes": {"n": number, **attributes}}


def refused(host):
    return [entry.record for entry in read_journal(os.path.join(host.state, "refused")).entries]


def cursor(host, name="fastoom"):
    return Cursor(os.path.join(host.state, "cursors", name)).load()


def test_events_arrive_in_order_and_are_not_sent_again(host, intake):
    host.write(range(250))
    host.run()
    assert intake.unique() == list(range(250))
    assert [count for *_, count in intake.requests] == [100, 100, 50]
    assert (cursor(host), host.shipper.shipped) == (249, 250)
    host.restart()
    host.run()
    assert len(intake.requests) == 3


def test_the_request_is_the_agreed_one(host, intake):
    host.write([1])
    host.run()
    path, headers, *_ = intake.requests[0]
    assert path == "/v1/events"
    assert headers["Authorization"] == "Bearer a-token"
    assert headers["Content-Type"] == "application/json"
    assert intake.events == [event(1)]


def test_while_the_intake_is_down_events_stay_and_then_arrive_once_each_in_order(host, intake):
    intake.stop()
    host.write(range(5))
    for _ in range(30):
        host.clock.advance(host.shipper.step())
    assert host.spool.spooled == 5
    assert "refused" in host.shipper.last_error
    host.write(range(5, 8))
    host.restart()  # a restart of the agent in between loses nothing either
    intake.start()
    host.run()
    assert [each["attributes"]["n"] for each in intake.events] == list(range(8))
    assert host.shipper.last_error == ""


def test_an_intake_that_dies_before_it_answers_gets_the_events_again(host, intake):
    host.write(range(3))
    deaths = iter(range(2))

    def process_then_die(handler, events):
        if next(deaths, None) is None:
            handler.take(events)
        else:
            intake.events.extend(events)
            handler.connection.close()

    intake.behave = process_then_die
    host.run()
    assert len(intake.events) == 9
    assert intake.unique() == [0, 1, 2]
    assert cursor(host) == 2


def test_a_half_answer_acknowledges_nothing(host, intake):
    host.write([0])

    def half(handler, events):
        intake.behave = None
        handler.send_response(200)
        handler.send_header("Content-Length", "500")
        handler.end_headers()
        handler.wfile.write(b'{"acked":["e0"],')

    intake.behave = half
    host.run(lambda: host.shipper.last_error != "")
    assert cursor(host) == -1
    host.run()
    assert intake.unique() == [0]


def test_a_wrong_token_keeps_the_events_and_says_so_loudly(host, intake, capfd):
    host.token = "stolen"
    host.write([0])
    host.run(lambda: len(intake.requests) >= 3)
    assert (intake.events, cursor(host)) == ([], -1)
    assert capfd.readouterr().err.count("does not accept the token") >= 3
    host.token = "a-token"
    host.run()
    assert intake.unique() == [0]


def test_retry_after_is_honoured(host, intake):
    host.write([0])

    def busy(handler, events):
        intake.behave = None
        handler.answer(503, {}, Retry_After="70")

    intake.behave = busy
    assert host.run() >= 70
    assert len(intake.requests) == 2


def test_failures_are_retried_with_growing_pauses(host, intake):
    host.write([0])
    intake.behave = lambda handler, events: handler.answer(500, {})
    passed_s = [host.run(lambda n=n: len(intake.requests) == n) for n in range(1, 10)]
    assert passed_s[0] == 0
    assert passed_s[8] > 10 * passed_s[1] > 0
    assert max(passed_s) <= 30.2


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_pause_is_between_a_fifth_of_a_second_and_half_a_minute(failures, chance):
    assert 0.2 <= backoff_s(failures, chance) <= 30
    assert backoff_s(failures, chance) <= backoff_s(failures + 1, 1.0)


def test_a_refused_event_is_kept_with_the_reason_and_the_next_ones_go_on(host, intake):
    host.write(range(3))

    def refuse_one(handler, events):
        intake.events.extend(each for each in events if each["id"] != "e1")
        handler.answer(200, {"acked": ["e0", "e2"], "refused": [{"id": "e1", "why": "unknown host"}]})

    intake.behave = refuse_one
    host.run()
    assert (intake.unique(), cursor(host)) == ([0, 2], 2)
    (kept,) = refused(host)
    assert (kept["journal"], kept["seq"], kept["why"], kept["event"]) == ("fastoom", 1, "unknown host", event(1))
    assert (host.shipper.shipped, host.shipper.refused) == (2, 1)


def test_an_event_too_large_to_send_is_kept_with_the_reason(host, intake):
    host.write([0, event(1, text="x" * BATCH_BYTES), 2])
    host.run()
    assert intake.unique() == [0, 2]
    assert refused(host)[0]["why"].startswith("too large to send")
    assert cursor(host) == 2


def test_an_entry_that_is_no_event_is_kept_with_the_reason(host, intake):
    host.write([0, {"hello": 1}, 2])
    host.run()
    assert intake.unique() == [0, 2]
    assert "not an event" in refused(host)[0]["why"]


def test_only_unfit_entries_move_the_cursor_without_a_request(host, intake):
    host.write([{"hello": 1}])
    host.run()
    assert (cursor(host), intake.requests) == (0, [])


def test_a_batch_that_is_too_much_is_halved_until_it_passes(host, intake):
    host.write(range(40))

    def small_only(handler, events):
        if len(events) > 6:
            handler.answer(413, {})
        else:
            handler.take(events)

    intake.behave = small_only
    host.run()
    assert intake.unique() == list(range(40))
    assert refused(host) == []


def test_a_single_event_the_intake_cannot_take_is_kept_with_its_answer(host, intake):
    host.write(range(10))

    def poisoned(handler, events):
        if any(each["id"] == "e7" for each in events):
            handler.answer(400, {"detail": "poison"})
        else:
            handler.take(events)

    intake.behave = poisoned
    host.run()
    assert intake.unique() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [(each["seq"], "poison" in each["why"]) for each in refused(host)] == [(7, True)]


def test_events_left_unanswered_are_sent_again(host, intake):
    host.write(range(4))

    def two_at_a_time(handler, events):
        intake.events.extend(events[:2])
        handler.answer(200, {"acked": [each["id"] for each in events[:2]]})

    intake.behave = two_at_a_time
    host.run()
    assert [each["attributes"]["n"] for each in intake.events] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>welcome</html>",
        b"",
        b"[]",
        b'{"acked":5}',
        b'{"acked":[5]}',
        b'{"acked":[],"refused":[{}]}',
        b"[" * 99_999,
    ],
)
def test_an_answer_that_is_not_the_agreed_one_acknowledges_nothing(host, intake, answer):
    host.write([0])
    intake.behave = lambda handler, events: handler.answer(200, answer)
    host.run(lambda: len(intake.requests) >= 2)
    assert (cursor(host), refused(host), host.spool.spooled) == (-1, [], 1)


def test_a_redirect_is_not_followed(host, intake):
    host.write([0])
    intake.behave = lambda handler, events: handler.answer(307, {}, Location=f"{intake.url}/elsewhere")
    host.run(lambda: len(intake.requests) >= 2)
    assert {path for path, *_ in intake.requests} == {"/v1/events"}
    assert cursor(host) == -1


def test_a_refusal_that_cannot_be_recorded_moves_nothing(host, intake, monkeypatch):
    host.write([{"hello": 1}])

    def disk_full(_record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.refused, "append", disk_full)
    host.run(lambda: "No space" in host.shipper.last_error)
    assert (cursor(host), host.spool.spooled) == (-1, 1)
    monkeypatch.undo()
    host.run()
    assert len(refused(host)) == 1


def test_an_event_counts_as_shipped_once_it_does_not_count_as_spooled_any_more(host, intake, monkeypatch):
    store, seen = Cursor.store, []

    def full_at_first(cursor, seq):
        seen.append((host.shipper.shipped, host.spool.spooled))
        if len(seen) == 1:
            raise OSError(28, "No space left on device", "cursor")
        store(cursor, seq)

    monkeypatch.setattr(Cursor, "store", full_at_first)
    host.write(range(3))
    host.run()
    assert seen == [(0, 3), (0, 3)]
    assert (host.shipper.shipped, host.shipper.last_error) == (3, "")
    assert len(intake.events) == 6  # told again, since nothing says on disk that they were told


def test_a_damaged_line_is_said_counted_and_skipped(host, intake, capfd):
    host.write(range(3))
    path = os.path.join(host.paths.events, "fastoom", f"{0:020d}.jsonl")
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data.replace(b'"n":1', b'"n":8'))
    host.run()
    assert intake.unique() == [0, 2]
    assert host.spool.damaged == 1
    host.write([3])
    host.run()
    assert host.spool.damaged == 1
    assert capfd.readouterr().err.count(f"{path}:2: checksum differs") == 1


def test_damage_at_the_very_end_does_not_count_as_spooled_for_ever(host, intake):
    host.write(range(2))
    path = os.path.join(host.paths.events, "fastoom", f"{0:020d}.jsonl")
    with open(path, "ab") as file:
        file.write(b"junk\n")
    host.run()
    assert (intake.unique(), host.spool.spooled, host.spool.damaged) == ([0, 1], 0, 1)
    host.write([2])
    host.run()
    assert intake.unique() == [0, 1, 2]


def test_what_retention_dropped_before_it_was_told_is_counted_and_said(host, intake, capfd):
    host.write(range(10), segment_bytes=1, max_segments=4)
    host.run()
    assert (intake.unique(), host.spool.lost) == ([6, 7, 8, 9], 6)
    assert "dropped by retention" in capfd.readouterr().err


def test_a_journal_that_was_replaced_is_told_from_its_start(host, intake):
    host.write(range(5))
    host.run()
    shutil.rmtree(os.path.join(host.paths.events, "fastoom"))
    host.run()
    host.write([90, 91])
    host.run()
    assert intake.unique() == [0, 1, 2, 3, 4, 90, 91]


def test_a_journal_that_appears_later_is_followed(host, intake):
    host.write(range(2))
    host.run()
    host.write([7, 8], journal="agent")
    host.run()
    assert intake.unique() == [0, 1, 7, 8]
    assert (cursor(host), cursor(host, "agent")) == (1, 1)


def test_one_journal_that_is_refused_does_not_hold_up_the_order_of_another(host, intake):
    host.write(range(0, 300, 2), journal="a")
    host.write(range(1, 300, 2), journal="b")
    host.run()
    numbers = intake.unique()
    assert sorted(numbers) == list(range(300))
    assert [n for n in numbers if n % 2] == sorted(n for n in numbers if n % 2)
    assert [n for n in numbers if not n % 2] == sorted(n for n in numbers if not n % 2)


entries = st.lists(st.integers(0, 400), max_size=12).map(
    lambda sizes: [Entry(seq, event(seq, text="x" * size)) for seq, size in enumerate(sizes)]
)


@given(entries, st.integers(1, 12), st.integers(120, 900))
def test_a_batch_is_within_its_limits_in_order_and_accounts_for_every_entry(given_entries, max_events, max_bytes):
    batch = build_batch(given_entries, max_events=max_events, max_bytes=max_bytes)
    assert len(batch.sent) <= max_events
    assert len(batch.body) <= max_bytes
    assert list(batch.seen) == given_entries[: len(batch.seen)]
    assert [entry for entry in batch.seen if entry.seq not in batch.unfit] == list(batch.sent)
    if batch.sent:
        assert batch.body == canonical_json({"events": [entry.record for entry in batch.sent]})
    else:
        assert batch.body == b""
    assert batch.seen or not given_entries  # there is always progress


@given(entries, st.sets(st.integers(0, 12)))
def test_the_cursor_never_passes_an_event_that_was_not_settled(given_entries, settled_seqs):
    batch = build_batch(given_entries)
    through = told_through(batch, frozenset(f"e{seq}" for seq in settled_seqs))
    assert all(entry.seq in settled_seqs for entry in given_entries if entry.seq <= through)
    assert through == len(given_entries) - 1 or through + 1 not in settled_seqs
