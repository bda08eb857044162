"""What the timeline's verbs say to people, in every language: the words change, names, figures and columns stay."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
import re
import time

import pytest

from osremed.core.columns import width
from osremed.timeline import verbs
from osremed.timeline.ranksverb import ranks
from osremed.timeline.render import calls_lines, gpus_text, incidents_text, table, trace_lines
from osremed.timeline.traceverbs import diff, trace
from osremed.verbs.catalogue import LANGUAGES
from tests.support.cuda_trace import job
from tests.unit.spoken import spoken

GAP = {"missing": "no_data", "detail": "asked for nothing"}
METRICS = {
    "vram_used_bytes": 40 << 30,
    "vram_total_bytes": 80 << 30,
    "sm_util_percent": 97,
    "temperature_celsius": GAP,
    "power_milliwatts": 300_000,
    "recovery_action": 0,
}
PROCESS = {"pid": 7, "name": "nothing", "used_bytes": 40 << 30, "container": "abcdef0123456789", "pod": "web-0"}
GPUS = {
    "inventory": {"gpus": 2, "driver_version": "560.1"},
    "gpus": [{"index": 0, "name": "H100", "bdf": "0000:18:00", "metrics": METRICS, "processes": [PROCESS]}],
    "unreadable": {"1": GAP},
    "hung": {"-1": {"pid": 9, "process_state": "D", "wchan": "nv_wait"}},
}
INCIDENTS = [
    {
        "code": 48,
        "bdf": "0000:18:00",
        "count": 3,
        "severity": "fatal",
        "action": "RESET",
        "action_source": "catalogue",
        "label": "DBE",
        "followers": {45: 2},
        "injected": True,
    },
    {"bdf": "0000:19:00", "count": 1, "text": "probe failed", "root_code": 13},
]
CALLS = {
    "gaps": ["late"],
    "stepped_down": True,
    "processes": [
        {
            "pid": 7,
            "name": "app",
            "held_bytes": 3 << 30,
            "allocations": 12,
            "refused": 1,
            "gaps": ["lost"],
            "places": [
                {"python": ["a.py:3"], "device": 0, "library": "/x/libtorch.so", "bytes": 1 << 30, "count": 4}
                | {"function": "cudaMalloc"},
                {"python": [], "device": GAP, "library": "", "bytes": 1 << 20, "count": 1, "function": "cuMemAlloc"},
            ],
        }
    ],
}


def texts() -> dict[str, str]:
    lines = [*calls_lines(CALLS), *calls_lines(GAP), *trace_lines({"last": {"alert": "idle", **GAP}})]
    lines += trace_lines({"last": {"alert": "idle", "pid": 7, "path": "/t/x.json"}})
    unread = {"inventory": {"missing": "no_data", "source": "nvml", "detail": "no driver"}}
    return {
        "gpus": gpus_text(GPUS),
        "unread": gpus_text(unread),
        "calls": "\n".join(lines),
        "incidents": incidents_text(INCIDENTS, 9),
        "none": incidents_text([], 9),
    }


TOLD = {
    "en": {
        "gpus": """\
driver 560.1, 2 GPUs
gpu  name  address     memory    of        SM    temp  power  asks for  processes
  0  H100  0000:18:00  40.0 GiB  80.0 GiB  97 %  ?     300 W  nothing           1
GPU 1 UNREADABLE: no_data: asked for nothing
the inventory HANGS: process 9 in state D, waits in nv_wait
  GPU 0: nothing[7] 40.0 GiB, container abcdef012345, pod web-0""",
        "unread": """\
no GPU can be read: no_data: nvml (no driver)""",
        "calls": """\
GAP late
GAP calls of CUDA are too many to follow them all
app[7] holds 3.0 GiB of device memory; 12 allocations seen, 1 refused
  1.0 GiB on device 0 in 4: a.py:3, cudaMalloc by libtorch.so
  1.0 MiB in 1: no Python line, cuMemAlloc by unknown code
  GAP lost
CALLS NOT FOLLOWED: no_data (asked for nothing): growth of memory has no lines
no trace for idle: no_data (asked for nothing)
trace for idle, of process 7: /t/x.json""",
        "incidents": """\
code  address     count  severity  asks for  by         what
  48  0000:18:00      3  fatal     RESET     catalogue  DBE; followed by 45 x2; WRITTEN BY A PROCESS, not by the driver
-     0000:19:00      1  ?         -         -          probe failed; caused by 13""",
        "none": """\
no GPU error in 9 lines""",
    },
    "zh_CN": {
        "gpus": """\
驱动 560.1，2 个 GPU
GPU  名称  地址        GPU 内存  总量      SM    温度  功耗   要求  进程
  0  H100  0000:18:00  40.0 GiB  80.0 GiB  97 %  ?     300 W  无       1
GPU 1 无法读取：no_data：asked for nothing
设备清单 没有响应：进程 9 处于状态 D，在 nv_wait 中等待
  GPU 0: nothing[7] 40.0 GiB，容器 abcdef012345，pod web-0""",
        "unread": """\
没有可读取的 GPU：no_data: nvml (no driver)""",
        "calls": """\
缺失 late
缺失 CUDA 调用太多，无法全部跟踪
app[7] 占用 3.0 GiB GPU 内存；观察到 12 次分配，1 次被拒绝
  1.0 GiB，设备 0，4 次：a.py:3，cudaMalloc，来自 libtorch.so
  1.0 MiB，1 次：没有 Python 代码行，cuMemAlloc，来自 未知代码
  缺失 lost
未跟踪调用：no_data (asked for nothing)：GPU 内存增长没有对应的代码行
没有 idle 的跟踪：no_data (asked for nothing)
idle 的跟踪，进程 7：/t/x.json""",
        "incidents": """\
代码  地址        数量  严重程度  要求   依据       内容
  48  0000:18:00     3  fatal     RESET  catalogue  DBE；随后出现 45 x2；由某个进程写入，而非驱动
-     0000:19:00     1  ?         -      -          probe failed；由 13 引起""",
        "none": """\
9 行中没有 GPU 错误""",
    },
}


@pytest.mark.parametrize("language", TOLD)
def test_gpus_errors_calls_and_traces_are_told_in_the_language_that_is_spoken(language):
    with spoken(language):
        assert texts() == TOLD[language]


def test_the_columns_of_a_table_hold_under_headings_of_wide_characters():
    lines = table(("页缓存", "名称", "a"), [("1", "b", "c"), ("1000000", "页", "c")])
    assert [width(line) for line in lines] == [len("1000000  名称  a") + 2] * 3
    assert [width(line[: line.rindex(line[-1])]) for line in lines] == [15] * 3


@pytest.mark.parametrize(
    ("language", "words"),
    [("zh_CN", ("处理：", "排查：", "来源：")), ("zh_TW", ("處理：", "調查：", "來源："))],
)
def test_a_code_is_explained_with_the_catalogues_own_words(language, words):
    english = verbs.xid(code=79)
    with spoken(language):
        told = verbs.xid(code=79)
    assert told.document == english.document
    shown, plain = told.text.splitlines(), english.text.splitlines()
    assert shown[0] == plain[0]
    for line, same, word in zip(shown[1:3], plain[1:3], words):
        assert line == f"  {word}{same.partition(':')[2].strip()}"
    assert shown[-1] == f"  {words[2]}{english.document['source']}"


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        (
            "en",
            [
                "ALERT gpu.idle 0: too long",
                "xid 79 at 0000:18:00: 2 times since the watch began",
                "KERNEL LOG NOT READ: no_data (asked for nothing): only NVML tells of errors",
            ],
        ),
        (
            "zh_CN",
            [
                "告警 gpu.idle 0：too long",
                "xid 79 于 0000:18:00：监视开始以来 2 次",
                "未读取内核日志：no_data (asked for nothing)：只有 NVML 报告错误",
            ],
        ),
        (
            "zh_TW",
            [
                "警示 gpu.idle 0：too long",
                "xid 79 於 0000:18:00：監視開始以來 2 次",
                "未讀取核心日誌：no_data (asked for nothing)：只有 NVML 回報錯誤",
            ],
        ),
    ],
)
def test_the_status_of_the_watch_is_told_in_the_language_that_is_spoken(language, lines, tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    status = {
        **GPUS,
        "updated_ns": time.time_ns(),
        "interval_s": 60,
        "alerts": [{"name": "gpu.idle", "subject": "0", "why": "too long"}],
        "errors": [{"kind": "xid", "code": 79, "bdf": "0000:18:00", "count": 2}],
        "kernel_log": GAP,
    }
    (tmp_path / "run/osremed").mkdir(parents=True)
    (tmp_path / "run/osremed/timeline.json").write_text(json.dumps(status))
    with spoken(language):
        assert verbs.status().text.splitlines()[-3:] == lines


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        ({"followed": 8, "missed": []}, "only NVML tells of errors"),
        ({"followed": 7, "missed": [3]}, "NOBODY SEES XIDS of GPU 3"),
        ({"missing": "unsupported", "source": "x", "detail": "NVML 3"}, "NVML tells of none: unsupported (NVML 3)"),
    ],
)
def test_the_status_says_when_nobody_sees_errors(driver, says, tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    told = {"updated_ns": time.time_ns(), "interval_s": 60, "alerts": [], "errors": [], "kernel_log": GAP}
    (tmp_path / "run/osremed").mkdir(parents=True)
    (tmp_path / "run/osremed/timeline.json").write_text(json.dumps({**GPUS, **told, "driver_events": driver}))
    assert says in verbs.status().text


def test_where_gpu_time_went_is_told_in_the_language_that_is_spoken_and_the_document_stays(tmp_path):
    for number, document in enumerate([*job(steps=6), *job(steps=9)]):
        (tmp_path / f"{number}.json").write_text(json.dumps(document))
    first, second = str(tmp_path / "0.json"), str(tmp_path / "1.json")
    english, change = trace(paths=[first]), diff(before=first, after=second)
    headings = ("time", "calls", "median", "kernel", "launched by", "because of", "where", "change")
    for language in LANGUAGES:
        with spoken(language):
            told, changed = trace(paths=[first]), diff(before=first, after=second)
        assert (told.document, changed.document) == (english.document, change.document)
        for text, same in ((told.text, english.text), (changed.text, change.text)):
            assert len(text.splitlines()) == len(same.splitlines())
            assert re.findall(r"\d+\.\d+", text) == re.findall(r"\d+\.\d+", same)
            assert [word for word in headings if re.search(rf"  {word}(  |$)", text, re.MULTILINE)] == []
        verdict = [line for line in told.text.splitlines() if re.match(r"    \d", line)]
        assert verdict
        assert not [line for line in verdict if "nothing hides" in line or "computing" in line or "idle" in line]
    assert [f"    {text}" in english.text for text in english.document["ranks"][0]["verdict"]].count(False) == 0


def test_ranks_that_wait_for_nobody_are_told_in_the_language_that_is_spoken(tmp_path):
    (tmp_path / "broken").write_text("x")
    english = ranks(paths=[str(tmp_path)])
    assert english.text.startswith("0 ranks, 0 operations\nGAP ")
    assert english.text.endswith("\nnobody waits: no hang in these recordings")
    with spoken("zh_TW"):
        told = ranks(paths=[str(tmp_path)]).text
    assert told.startswith("0 個 rank，0 次操作\n缺少 ")
    assert told.endswith("\n沒有等待者：這些記錄中沒有停擺")


def test_a_good_policy_is_told_in_the_language_that_is_spoken_and_its_settings_stay(tmp_path):
    path = tmp_path / "timeline.json"
    path.write_text(json.dumps({"apiVersion": "osremed/v1", "kind": "TimelinePolicy"}))
    english = verbs.check(file=str(path)).text.splitlines()
    assert english[0] == f"{path}: good"
    for language, word in (("zh_CN", "正确"), ("zh_TW", "正確")):
        with spoken(language):
            assert verbs.check(file=str(path)).text.splitlines() == [f"{path}：{word}", *english[1:]]
