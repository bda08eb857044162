# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
import re
from dataclasses import replace

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.heaps.growth import compare, recorded_sentence, sentence
from osremed.panorama.heaps.java import parse_histogram, readable
from osremed.panorama.heaps.model import (
    ArenaRow,
    HeapReport,
    HolderRow,
    NoHeap,
    Pause,
    Recording,
    RootPath,
    Snapshot,
    TypeRow,
)
from osremed.panorama.heaps.native_classes import _plain_name
from osremed.panorama.heaps.render import render_heaps
from tests.unit.spoken import spoken

MIB = 1 << 20


def snapshot(at_s: float, resident: int, types=(), holders=(), **others) -> Snapshot:
    values = {"arenas": (), "pause": None, "gaps": ()} | others
    return Snapshot(
        "CPython 3.11.7", "read", at_s, resident, resident, 1.0, tuple(types), tuple(holders), torn_reads=0, **values
    )


def holder(items: int, path: str = "app.CACHE", address: int = 1) -> HolderRow:
    return HolderRow(path, "dict", items, items * 1000, "Session", address)


BEFORE = snapshot(10.0, 100 * MIB, [TypeRow("Session", 1000, 100_000, 0)], [holder(10_000)])


def test_growth_is_per_second_by_count_and_mean_size():
    after = snapshot(14.0, 140 * MIB, [TypeRow("Session", 5000, 600_000, 0)], [holder(50_000)])
    growth = compare(BEFORE, after)
    assert (growth.window_s, growth.bytes_per_s) == (4.0, 10 * MIB)
    assert (growth.types[0].count_per_s, growth.types[0].bytes_per_s) == (1000.0, 4000 * 120 / 4)
    assert (growth.holders[0].items_per_s, growth.holders[0].bytes_per_s) == (10_000.0, 10_000_000.0)


def test_means_that_differ_by_chance_are_no_growth():
    after = snapshot(14.0, 100 * MIB, [TypeRow("Session", 1000, 200_000, 0)], [holder(10_000)])
    assert compare(BEFORE, after).types == ()
    assert "did not grow in 4.0 s" in sentence("app", 7, after, compare(BEFORE, after))


def test_one_large_object_that_grows_is_growth():
    before = snapshot(0.0, MIB, [TypeRow("bytearray", 1, 50_000, 50_000)])
    after = snapshot(1.0, 9 * MIB, [TypeRow("bytearray", 1, 8_050_000, 8_050_000)])
    assert compare(before, after).types[0].bytes_per_s == 8_000_000


def test_of_a_sample_no_growth_by_type_is_told_but_that_of_containers():
    after = snapshot(14.0, 140 * MIB, [TypeRow("Session", 5000, 600_000, 0)], [holder(50_000)])
    growth = compare(BEFORE, replace(after, coverage=0.5))
    assert growth.types == ()
    assert growth.holders[0].items_per_s == 10_000.0


def test_a_type_that_may_have_been_below_the_last_row_did_not_grow_from_nothing():
    def sizes(*mib):
        return [TypeRow(f"chunks {index}", each, each * MIB, 0) for index, each in mib]

    before = snapshot(0.0, 100 * MIB, sizes(*((index, 40 - index) for index in range(20))))
    after = snapshot(8.0, 100 * MIB, sizes(*((index, 40 - index) for index in range(19)), (77, 21)))
    assert compare(before, after, rows=20).types == ()
    assert [row.name for row in compare(before, after, rows=21).types] == ["chunks 77"]


def test_what_shrinks_is_not_listed():
    after = snapshot(14.0, 90 * MIB, [TypeRow("Session", 900, 90_000, 0)], [holder(9_000)])
    assert compare(BEFORE, after).types == ()
    assert compare(BEFORE, after).holders == ()


def test_nameless_containers_are_told_apart_by_address():
    before = snapshot(0.0, MIB, (), [holder(1000, "", 1), holder(2000, "", 2)])
    after = snapshot(1.0, MIB, (), [holder(1000, "", 1), holder(9000, "", 2)])
    (row,) = compare(before, after).holders
    assert row.items == 9000
    said = sentence("app", 7, after, compare(before, after))
    assert "a dict that no module names" in said


def test_the_sentence_says_who_how_much_and_where():
    after = snapshot(14.0, 140 * MIB, (), [holder(50_000)])
    assert sentence("app", 7, after, compare(BEFORE, after)) == (
        "app (pid 7, CPython 3.11.7) grows by 10.0 MiB/s, held in app.CACHE: dict of Session, 50,000 items, +10,000/s."
    )
    assert sentence("app", 7, after, None).startswith(
        "app (pid 7, CPython 3.11.7) holds 140.0 MiB of heap; most of it in"
    )


def test_a_type_is_named_where_no_holder_is_known():
    before = snapshot(0.0, MIB, [TypeRow("byte[]", 10, 1000, 0)])
    after = snapshot(1.0, 2 * MIB, [TypeRow("byte[]", 10_010, 1_001_000, 0)])
    assert "most in byte[]: +10,000 objects/s" in sentence("java", 7, after, compare(before, after))


def test_reports_and_gaps_are_json_and_text_that_a_terminal_cannot_act_on():
    arena = ArenaRow("[heap]", 100, 3, 60, 30, 10, Value(5), Missing(Reason.NO_DATA, "x", "no head"))
    seen = snapshot(
        0.0,
        MIB,
        [TypeRow("evil\x1b[2J", 1, 10, 0)],
        [holder(2000, "a\u202eb")],
        arenas=(arena,),
        pause=Pause(0.1, Value(0.2)),
        gaps=(Missing(Reason.TIMED_OUT, "mem", "late"),),
    )
    report = HeapReport(7, 99, "app", sentence("app", 7, seen, None), seen, compare(seen, seen), 1.0, 0.5)
    missing = NoHeap(8, "gone\x07", Missing(Reason.GONE, "/proc/8", "it ended"))
    text = render_heaps([report, missing])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert "estimate 100.0 ms, measured 200.0 ms" in text
    document = json.loads(json.dumps([report.as_json(), missing.as_json()]))
    assert document[0]["pause"] == {"estimate_s": 0.1, "measured_s": 0.2}
    assert document[0]["arenas"][0]["fast_bytes"]["missing"] == "no_data"
    assert document[1]["missing"] == "gone"


CHINESE = """\
app (pid 7, CPython 3.11.7) 每秒增长 11.7 MiB，持有者 app.CACHE：dict，元素为 Session，50,000 项，\
每秒 +12,250。其间抽样的 9 个对象中，5 个挂在 app.CACHE（dict, Size: 7）上，创建于 make < serve。
  类型：140.0 MiB，共 140.0 MiB（100%），由 50% 的样本推算
     585.9 KiB        5,000  Session
  持有者：
      47.7 MiB       50,000  app.CACHE  dict，元素为 Session
     878.9 KiB          900  （没有模块指明它）  dict，元素为 Session
  malloc 的 arena：
         100 B            3  [heap]：使用中 60 B，空闲 30 B，顶部 10 B，tcache 5 B，fast bins：未知（no head）
  4.0 秒内的增长：
      11.7 MiB/s    +12,250.0/s  app.CACHE
      97.7 KiB/s       +100.0/s  （没有模块指明它）
     117.2 KiB/s     +1,000.0/s  Session
  记录了 4.0 秒，抽样 9 个对象；目标进程被暂停：估计 100.0 ms，实测：未能测量：no_data: x (late)：
        5  app.CACHE > dict
           创建于 make < serve
  缺失：timed_out: mem (late)
  读取用时 1.00 s，CPU 500.0 ms；process_vm_readv；没有暂停或注入任何东西；\
3 次读取遇到未映射的内存；目标进程被暂停：估计 100.0 ms，实测：200.0 ms

held in:（pid 8）的堆：未读取：gone: /proc/8 (it ended)
"""


def heap_with_everything() -> HeapReport:
    arena = ArenaRow("[heap]", 100, 3, 60, 30, 10, Value(5), Missing(Reason.NO_DATA, "x", "no head"))
    types, pause = [TypeRow("Session", 1000, 100_000, 0)], Pause(0.1, Value(0.2))
    before = snapshot(0.0, 100 * MIB, types, [holder(1000), holder(500, "", 2)])
    seen = snapshot(
        *(4.0, 140 * MIB, [TypeRow("Session", 5000, 600_000, 0)], [holder(50_000), holder(900, "", 2)]),
        arenas=(arena,),
        pause=pause,
        gaps=(Missing(Reason.TIMED_OUT, "mem", "late"),),
    )
    seen = replace(seen, method="process_vm_readv; nothing stopped or injected", torn_reads=3)
    path = RootPath("app.CACHE", "dict", "Size: 7", "Session", "app.CACHE > dict", 5, ("make", "serve"))
    recording, growth = (
        Recording(4.0, 9, (path,), Pause(0.1, Missing(Reason.NO_DATA, "x", "late"))),
        compare(before, seen),
    )
    said = sentence("app", 7, seen, growth) + recorded_sentence(recording)
    return HeapReport(7, 99, "app", said, replace(seen, coverage=0.5), growth, 1.0, 0.5, Value(recording))


def test_a_heap_is_told_in_the_language_that_is_spoken_and_its_names_stay():
    heaps = [heap_with_everything(), NoHeap(8, "held in:", Missing(Reason.GONE, "/proc/8", "it ended"))]
    english = render_heaps(heaps)
    assert english.startswith(f"{heaps[0].sentence}\n  types: ")
    with spoken("zh_CN"):
        told = render_heaps(heaps)
    assert told.splitlines() == CHINESE.splitlines()
    with spoken("zh_TW"):
        traditional = render_heaps(heaps)
    assert "持有者 app.CACHE：dict，元素為 Session，50,000 項，每秒 +12,250。" in traditional
    assert "held in:（pid 8）的堆積：未讀取：" in traditional
    columns = [[line[:27] for line in text.splitlines() if re.match(r" {4,}\d", line)] for text in (english, told)]
    assert columns[0] == columns[1]


def test_a_class_histogram_is_read_with_readable_names():
    text = (
        " num     #instances         #bytes  class name (module)\n"
        "-------------------------------------------------------\n"
        "   1:        509042       60345678  [B (java.base@17.0.15)\n"
        "   2:           300          12000  [[Ljava.lang.String; (java.base@17.0.15)\n"
        "   3:             5            160  app.Session$1\n"
        "Total        600000       90000000\n"
    )
    rows = parse_histogram(text)
    assert [(row.name, row.count, row.bytes) for row in rows] == [
        ("byte[]", 509_042, 60_345_678),
        ("java.lang.String[][]", 300, 12_000),
        ("app.Session$1", 5, 160),
    ]
    assert readable("[J") == "long[]"


def test_names_are_readable_without_a_demangler():
    assert _plain_name("7Session") == "Session"
    assert _plain_name("N3app7SessionE") == "app::Session"
    assert _plain_name("N3app3BoxIiEE") == "N3app3BoxIiEE"
    assert _plain_name("99Session") == "99Session"
