"""The history: small on disk, whole after a crash, and growth that is growth."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import errno
import json
import os
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.agent import history as agent_history
from osremed.agent.history import HistoryKeeper
from osremed.core.clock import FakeClock
from osremed.core.columns import width
from osremed.core.errors import Unavailable
from osremed.core.journal import Journal, _encode, read_journal
from osremed.core.log import Log
from osremed.core.reading import Missing, Reason, Value, missing_from_oserror
from osremed.panorama import history, past
from osremed.panorama import moment as moment_look
from osremed.panorama.alarms import Told
from osremed.panorama.collect import collect_panorama
from osremed.panorama.history import EVERY_S, WIDE_EVERY, Moment, decode, encode, grew, read_history, series
from osremed.panorama.model import DyingRow, ProcessRow
from osremed.panorama.moment import Wide
from tests.unit.spoken import spoken

MIB, SECOND = 1 << 20, 10**9
NOW_NS = 1_700_000_000 * SECOND
A_DAY = 8640
NONE = Missing(Reason.NO_DATA, "x")


def moment(at_s=0, *, anon=100 * MIB, wide=None):
    lines = {"anonymous memory": anon, "free": 7 * MIB, "unaccounted": -3 * MIB}
    return Moment(NOW_NS + at_s * SECOND, 1000 * MIB, lines, wide or {})


def written(directory, moments):
    journal = Journal(str(directory))
    for each in moments:
        journal.append(encode(each))
    journal.close()
    return str(directory)


def read(directory, since_s=86400.0, now_ns=NOW_NS + 1_000 * SECOND):
    return read_history(str(directory), since_s, now_ns)


@given(
    st.dictionaries(st.sampled_from(sorted(history._CODES)), st.integers(-(1 << 40), 1 << 50)),
    st.dictionaries(st.sampled_from(["process", "group", "kernel"]), st.dictionaries(
        st.text(min_size=1, max_size=40), st.tuples(st.text(max_size=40), st.integers(0, 1 << 50)), max_size=6)),
)  # fmt: skip
@settings(deadline=None)
def test_a_moment_comes_back_from_disk_to_the_kib(lines, wide):
    first = Moment(NOW_NS, 1 << 40, lines, wide)
    again = decode(json.loads(json.dumps(encode(first))))
    assert again.lines == {name: count >> 10 << 10 for name, count in lines.items()}
    assert {kind: set(rows) for kind, rows in again.wide.items() if rows} == {
        kind: set(rows) for kind, rows in wide.items() if rows
    }


@given(st.recursive(st.none() | st.integers() | st.text(max_size=4) | st.floats(), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["t", "m", "l", "p", "g", "an"]), inner)))  # fmt: skip
@settings(deadline=None)
def test_any_entry_is_a_moment_or_a_value_error(entry):
    if isinstance(entry, dict):
        try:
            decode(entry)
        except ValueError:
            return


def test_a_day_takes_less_than_five_megabytes_even_with_the_longest_names_and_largest_hosts():
    lines = dict.fromkeys(history._CODES, 15 << 40)
    rows = {f"\u1234{'x' * 200}{index}": (f"\u1234{'y' * 200}{index}", 15 << 40) for index in range(20)}
    wide = {"process": rows, "group": rows, "kernel": rows}
    narrow = len(_encode(10**7, encode(Moment(NOW_NS, 15 << 40, lines, {}))))
    broad = len(_encode(10**7, encode(Moment(NOW_NS, 15 << 40, lines, wide))))
    day = A_DAY * narrow + A_DAY // WIDE_EVERY * (broad - narrow)
    assert encode(Moment(NOW_NS, 15 << 40, lines, wide))["p"]
    assert day <= 5_000_000, (narrow, broad, day)


def test_the_largest_rows_are_the_ones_kept():
    rows = {f"{index}/7": (f"p{index}", index * MIB) for index in range(50)}
    kept = encode(moment(wide={"process": rows}))["p"]
    assert [name for _, name, _ in kept] == [f"p{index}" for index in range(49, 39, -1)]


def test_a_torn_tail_is_skipped_cut_and_said(tmp_path, capfd):
    directory = written(tmp_path / "h", [moment(0), moment(10)])
    (segment,) = [name for name in os.listdir(directory) if name.endswith(".jsonl")]
    with open(os.path.join(directory, segment), "ab") as file:
        file.write(b'{"crc":"00000000","rec":{"t":1')
    assert len(read(directory).value.moments) == 2
    clock = FakeClock(wall_ns=NOW_NS + 20 * SECOND)
    keeper = HistoryKeeper(directory, clock, Log("test"))
    keeper.step()
    assert "torn" in capfd.readouterr().err
    found = read(directory).value
    assert len(found.moments) == 3
    assert found.damaged == ()


def test_a_damaged_entry_is_named_and_the_others_are_read(tmp_path):
    directory = written(tmp_path / "h", [moment(0), moment(10), moment(20)])
    (segment,) = [name for name in os.listdir(directory) if name.endswith(".jsonl")]
    path = os.path.join(directory, segment)
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    lines[1] = lines[1].replace(b'"an":', b'"aq":')
    with open(path, "wb") as file:
        file.write(b"\n".join(lines))
    found = read(directory).value
    assert len(found.moments) == 2
    assert len(found.damaged) == 1
    assert "checksum" in found.damaged[0]


def test_no_history_and_nothing_in_the_span_are_no_data(tmp_path):
    assert read(tmp_path / "none").reason is Reason.NO_DATA
    directory = written(tmp_path / "h", [moment(0)])
    assert read(directory, since_s=60).reason is Reason.NO_DATA


def test_a_pause_of_the_agent_is_a_hole(tmp_path):
    directory = written(tmp_path / "h", [moment(at) for at in (0, 10, 20, 500, 510)])
    assert read(directory).value.holes == 1


def test_growth_is_told_from_the_ends_of_the_span_and_a_spike_is_none():
    steady = [moment(10 * index, anon=100 * MIB) for index in range(60)]
    steady[59] = moment(590, anon=900 * MIB)
    assert grew(history.Past(tuple(steady), (), 0)).rows == ()
    leak = tuple(moment(10 * index, anon=(100 + index) * MIB) for index in range(60))
    (row,) = grew(history.Past(leak, (), 0)).rows
    assert row.name == "anonymous memory"
    assert 50 * MIB <= row.bytes <= 60 * MIB


def test_a_process_counts_from_when_it_was_first_among_the_largest():
    wide = [{"process": {"7/1": ("leak (7)", size * MIB)}} for size in (10, 50, 90)]
    wide[0] = {"process": {"8/1": ("other (8)", MIB)}}
    found = grew(history.Past(tuple(moment(120 * i, wide=each) for i, each in enumerate(wide)), (), 0))
    (row,) = [row for row in found.rows if row.kind == "process"]
    assert (row.name, row.before_bytes, row.after_bytes) == ("leak (7)", 50 * MIB, 90 * MIB)


def test_rows_that_are_no_longer_looked_at_tell_no_growth():
    wide = [{"process": {"7/1": ("leak (7)", size * MIB)}} for size in (10, 50)]
    old = [moment(120 * at, wide=each) for at, each in enumerate(wide)]
    assert [row.kind for row in grew(history.Past((*old, moment(480)), (), 0)).rows] == ["process"]
    assert grew(history.Past((*old, moment(481)), (), 0)).rows == ()


def test_entries_of_an_older_version_are_read():
    entry = encode(moment(wide={"kernel": {"slab, unreclaimable/kmalloc-64": ("kmalloc-64", MIB)}}))
    assert entry["k"] == [["slab, unreclaimable/kmalloc-64", "", 1024]]
    assert decode({**entry, "k": [["kmalloc-64", "", 1024]]}).wide["kernel"] == {"kmalloc-64": ("kmalloc-64", MIB)}


@pytest.mark.parametrize(("ago_s", "told"), [(20, True), (40, False)])
def test_a_history_that_ended_says_nothing_of_now(tmp_path, monkeypatch, proc, ago_s, told):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    monkeypatch.setattr(past, "time", SimpleNamespace(time_ns=lambda: NOW_NS))
    leak = [moment(10 * at - 600 - ago_s, anon=(100 + at) * MIB) for at in range(61)]
    written(tmp_path / "var/lib/osremed/history", leak)
    found = collect_panorama(proc_root=proc.root)
    assert (past.with_history(found).growth is not None) is told


def test_plots_have_few_points_and_the_newest_among_them():
    moments = tuple(moment(10 * index, anon=index * MIB) for index in range(8640))
    plotted = series(history.Past(moments, (), 0))
    assert len(plotted["times_ns"]) <= 240
    assert plotted["lines"]["anonymous memory"][-1] == 8639 * MIB


def test_the_keeper_writes_moments_of_this_host_and_every_twelfth_has_the_largest(tmp_path):
    clock = FakeClock(wall_ns=NOW_NS)
    keeper = HistoryKeeper(str(tmp_path / "h"), clock, Log("test"))
    for _ in range(WIDE_EVERY + 1):
        keeper.step()
        clock.advance(EVERY_S)
    moments = read(tmp_path / "h", now_ns=clock.wall_ns()).value.moments
    assert [bool(each.wide) for each in moments] == [True, *[False] * (WIDE_EVERY - 1), True]
    assert moments[0].lines["anonymous memory"] > 0
    assert moments[0].wide["process"]


def test_a_disk_that_cannot_be_written_is_an_error_that_is_said_once_and_goes_away(tmp_path, capfd):
    blocked = tmp_path / "h"
    blocked.write_text("a file where the directory should be")
    keeper = HistoryKeeper(str(blocked / "x"), FakeClock(wall_ns=NOW_NS), Log("test"))
    keeper.step()
    keeper.step()
    assert keeper.last_error
    assert capfd.readouterr().err.count("no history kept") == 1
    blocked.unlink()
    keeper.step()
    assert keeper.last_error == ""


def test_the_keeper_stops_when_told(tmp_path):
    keeper, stop = HistoryKeeper(str(tmp_path / "h"), FakeClock(wall_ns=NOW_NS), Log("test")), threading.Event()
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 20
    while not os.path.isdir(tmp_path / "h") and time.monotonic() < deadline:
        stop.wait(0.01)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    Journal(str(tmp_path / "h")).close()  # its lock is free again


def test_the_verbs_tell_trend_growth_holes_and_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    now_s = int(time.time())
    base = now_s - NOW_NS // SECOND
    moments = [moment(base - 600 + 10 * index, anon=(100 + index) * MIB) for index in range(40)]
    written(tmp_path / "var/lib/osremed/history", [*moments, moment(base)])
    answer = past.history(since="1h")
    assert "anonymous memory" in answer.text
    assert "1 holes" in answer.text
    assert answer.document["moments"] == 41
    grown = past.grown(since="1h")
    assert "anonymous memory" in grown.text
    assert grown.document["rows"][0]["kind"] == "line"
    assert max(len(line) for line in answer.text.split("\n")) <= 80
    assert answer.text.split("\n")[1] == "  LINE" + " " * 28 + "LOW       HIGH  TREND"


@pytest.mark.parametrize(
    ("language", "head", "line", "hole"),
    [
        ("zh_CN", "  项目" + " " * 27 + "最低       最高  走势", "匿名内存", "1 处空缺：代理没有运行，或无法写入"),
        (
            "zh_TW",
            "  項目" + " " * 27 + "最低       最高  走勢",
            "匿名記憶體",
            "1 處空缺：代理程式沒有執行，或無法寫入",
        ),
    ],
)
def test_the_history_is_told_in_the_language_that_is_spoken_and_its_columns_hold(
    tmp_path, monkeypatch, language, head, line, hole
):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    base = int(time.time()) - NOW_NS // SECOND
    moments = [moment(base - 600 + 10 * index, anon=(100 + index) * MIB) for index in range(40)]
    written(tmp_path / "var/lib/osremed/history", [*moments, moment(base)])
    english = past.history(since="1h").text.split("\n")
    with spoken(language):
        told, grown = past.history(since="1h").text.split("\n"), past.grown(since="1h").text
    assert told[1] == head
    (row,) = (each for each in told if each.startswith(f"  {line} "))
    (same,) = (each for each in english if each.startswith("  anonymous memory "))
    assert row[2 + len(line) :].lstrip() == same[len("  anonymous memory") :].lstrip()
    assert width(row) == width(same)
    assert told[-1].startswith(hole)
    assert hole in grown
    assert line in grown


def test_without_a_history_the_verbs_are_unavailable_and_the_panorama_is_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    with pytest.raises(Unavailable, match="agent"):
        past.history(since="1h")
    assert past.plotted() is None


def test_a_balance_that_cannot_be_read_is_no_moment(tmp_path):
    keeper = HistoryKeeper(str(tmp_path / "h"), FakeClock(), Log("test"), proc_root=str(tmp_path / "no-proc"))
    keeper.step()
    assert keeper.last_error
    assert isinstance(read(tmp_path / "h"), Missing)
    assert not isinstance(read(tmp_path / "h"), Value)


def broken_once(monkeypatch, name):
    """`name` of the keeper raises at its first call; the events of each call."""
    real, calls = getattr(agent_history, name), []

    def raises_first(*given):
        calls.append(given)
        if len(calls) == 1:
            raise ZeroDivisionError("float division by zero")
        return real(*given)

    monkeypatch.setattr(agent_history, name, raises_first)
    return calls


def test_a_look_that_breaks_off_costs_no_moment_and_is_said_until_the_next_look(tmp_path, monkeypatch, capfd):
    broken_once(monkeypatch, "look_of")
    keeper = HistoryKeeper(str(tmp_path / "h"), FakeClock(wall_ns=NOW_NS), Log("test"), events=str(tmp_path / "e"))
    for count in range(1, WIDE_EVERY + 1):
        keeper.step()
        assert len(read(tmp_path / "h").value.moments) == count
        assert "ZeroDivisionError" in keeper.last_error
        assert "raises_first (test_history.py:" in keeper.last_error
    assert capfd.readouterr().err.count("was not judged") == 1
    keeper.step()
    assert keeper.last_error == ""


def test_the_keeper_goes_on_after_what_nobody_foresaw_in_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_history, "EVERY_S", 0.01)
    calls, stop = broken_once(monkeypatch, "light_balance"), threading.Event()
    keeper = HistoryKeeper(str(tmp_path / "h"), FakeClock(wall_ns=NOW_NS), Log("test"))
    said, note = [], keeper._note
    monkeypatch.setattr(keeper, "_note", lambda what, why: (note(what, why), said.append(keeper.last_error)))
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 20
    while len(calls) < 3 and thread.is_alive() and time.monotonic() < deadline:
        stop.wait(0.01)
    stop.set()
    thread.join(20)
    assert "ZeroDivisionError" in said[0]
    assert keeper.last_error == ""
    assert read(tmp_path / "h").value.moments


@pytest.mark.parametrize("full_from", [0, 1])
def test_what_is_to_come_is_judged_at_its_pace_though_no_moment_can_be_kept(tmp_path, monkeypatch, full_from):
    """A full disk makes alarms neither deaf nor hasty, and what waits is offered again at each look."""
    judged = []
    monkeypatch.setattr(agent_history.Alarms, "note", lambda _self, look: judged.append(look) or [])
    keeper = HistoryKeeper(str(tmp_path / "h"), FakeClock(), Log("test"), events=str(tmp_path / "events"))
    for _ in range(full_from):
        keeper.step()
    offered = []
    monkeypatch.setattr(keeper, "_directory", "/proc/no/such")
    monkeypatch.setattr(keeper, "_journal", None)
    monkeypatch.setattr(keeper._outbox, "flush", lambda: offered.append(1))
    for _ in range(2 * WIDE_EVERY + 1 - full_from):
        keeper.step()
    assert keeper.last_error
    assert len(judged) == 3
    assert len(offered) >= 2 * WIDE_EVERY


def growing(mib):
    row = ProcessRow(
        pid=7, start_time_ticks=70, name="import", heap_bytes=mib * MIB, anon_bytes=mib * MIB, swap_bytes=0,
        file_bytes=NONE, shmem_bytes=NONE, cmdline=NONE, oom_score_adj=NONE, cgroup=NONE,
    )  # fmt: skip
    return Wide((row,), (), (DyingRow("/kubepods", 100 * MIB, Value(40)),), {}, {})


def told_of(tmp_path, monkeypatch, looks, wall_steps_s=(), *, root):
    """(index of the look, event, state, seconds) told by a keeper whose looks are these, two minutes apart; the wall
    clock is set by so many seconds before the look."""
    monkeypatch.setattr(agent_history, "WIDE_EVERY", 1)
    monkeypatch.setattr(agent_history, "wide_look", lambda _root: looks[at])
    clock = FakeClock(wall_ns=NOW_NS)
    keeper = HistoryKeeper(str(tmp_path / "h"), clock, Log("test"), root, events=str(tmp_path / "e"))
    events = []
    monkeypatch.setattr(keeper._outbox, "tell", lambda told: events.extend((at, each) for each in told))
    for at in range(len(looks)):
        clock._wall_ns += dict(wall_steps_s).get(at, 0) * SECOND
        keeper.step()
        clock.advance(120)
    told = [(at, each.name, each.attributes["state"], each.attributes.get("seconds")) for at, each in events]
    return told, keeper


LEAK = [growing(100 + 30 * at) for at in range(10)]
ONCE = [(1, "memory.dying_groups", "raised", None), (5, "memory.growth", "raised", 600.0)]


@pytest.mark.parametrize(("at", "seconds"), [(3, -3600), (7, 10 * 86400)])
def test_a_wall_clock_that_is_set_neither_makes_nor_ends_a_leak(tmp_path, monkeypatch, proc, at, seconds):
    told, _ = told_of(tmp_path, monkeypatch, LEAK, [(at, seconds)], root=proc.root)
    assert told == ONCE


def test_a_look_that_is_not_whole_neither_raises_nor_clears_and_is_said(tmp_path, monkeypatch, proc):
    cut = Wide((), (), (), {}, {}, Missing(Reason.TIMED_OUT, "/proc/9/status", "used up"))
    told, keeper = told_of(tmp_path, monkeypatch, [*LEAK[:7], cut, *LEAK[7:]], root=proc.root)
    assert told == ONCE
    assert keeper.last_error == ""
    told, keeper = told_of(tmp_path / "again", monkeypatch, [*LEAK[:7], cut], root=proc.root)
    assert told == ONCE
    assert "used up" in keeper.last_error


@pytest.mark.parametrize("limit", ["_PROCESSES_S", "_GROUPS_S"])
def test_a_wide_look_without_time_enough_says_that_it_is_not_whole(monkeypatch, limit):
    monkeypatch.setattr(moment_look, limit, -1.0)
    assert moment_look.wide_look("/proc").gap.reason is Reason.TIMED_OUT


def test_a_wide_look_that_could_not_open_every_process_is_not_whole(monkeypatch, proc):
    proc.process(7)
    proc.process(8)
    assert moment_look.wide_look(proc.root).gap is None
    real, denied = moment_look.process_table, OSError(errno.EMFILE, "Too many open files")

    def without_descriptors(pids, limit, progress, root):
        progress.gap(missing_from_oserror(denied, f"{root}/8/status"))
        return real(pids[:1], limit, progress, root)

    monkeypatch.setattr(moment_look, "process_table", without_descriptors)
    assert moment_look.wide_look(proc.root).gap.detail == "Too many open files"


def test_memory_events_wait_for_a_journal_that_takes_them(tmp_path, monkeypatch):
    """A directory that cannot be written loses no event: it is there when the directory is."""
    told = iter([[Told("memory.growth", {"pid": 7})], []])
    monkeypatch.setattr(agent_history.Alarms, "note", lambda *_: next(told))
    (tmp_path / "file").write_text("not a directory")
    keeper = HistoryKeeper(str(tmp_path / "history"), FakeClock(), Log("test"), events=str(tmp_path / "file/x"))
    keeper.step()
    (tmp_path / "file").unlink()
    for _ in range(WIDE_EVERY):
        keeper.step()
    (entry,) = read_journal(str(tmp_path / "file/x")).entries
    assert (entry.record["name"], entry.record["attributes"]) == ("memory.growth", {"pid": 7})
