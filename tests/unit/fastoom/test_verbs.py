"""The command line's functions, where no daemon is needed."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from osremed.core.errors import BadInput, ExitCode, NotFound, Unavailable
from osremed.core.language import filled
from osremed.fastoom import verbs
from osremed.fastoom.explain import scope_text
from osremed.fastoom.levels import Change
from osremed.fastoom.levels import event_of as event_of_level
from osremed.fastoom.model import Level, Scope
from osremed.fastoom.record import Recorder
from tests.unit.fastoom.conftest import policy, signals
from tests.unit.fastoom.test_record import event
from tests.unit.spoken import spoken

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def prefix(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    return tmp_path


def write(path: Path, **parts: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"apiVersion": "osremed/v1", "kind": "FastoomPolicy", **parts}))
    return str(path)


def test_check_tells_what_a_good_policy_means(prefix) -> None:
    answer = verbs.check(file=write(prefix / "p.json", sensitivity="high", protect=[{"name": "sshd"}]))
    assert answer.exit_code == ExitCode.OK
    assert answer.document["enter_ratio"] == 0.12
    assert answer.document["protect"] == ["name 'sshd'"]


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        (
            "en",
            [
                "{file}: good, sensitivity high, scopes node",
                "acts at 12.0% available, aims for {aim}, grace 0.5 s; 1 protect, 0 prefer, 0 avoid",
            ],
        ),
        (
            "zh_CN",
            [
                "{file}：正确，灵敏度 high，范围 node",
                "可用量降到 12.0% 时干预，目标 {aim}，宽限 0.5 秒；保护 1 条，优先 0 条，避免 0 条",
            ],
        ),
        (
            "zh_TW",
            [
                "{file}：正確，靈敏度 high，範圍 node",
                "可用量降到 12.0% 時介入，目標 {aim}，寬限 0.5 秒；保護 1 條，優先 0 條，避免 0 條",
            ],
        ),
    ],
)
def test_check_tells_it_in_the_language_that_is_spoken(prefix, language, lines) -> None:
    file = write(prefix / "p.json", sensitivity="high", protect=[{"name": "sshd"}], overrides={"grace_s": 0.5})
    with spoken(language):
        answer = verbs.check(file=file)
    aim = f"{answer.document['target_ratio']:.1%}"
    assert answer.text.splitlines() == [line.format(file=file, aim=aim) for line in lines]
    assert answer.document == verbs.check(file=file).document


def test_check_shows_what_a_policy_would_change_of_the_one_in_force(prefix) -> None:
    wanted = write(prefix / "p.json", sensitivity="high")
    assert '+  "enter_ratio": 0.12,' in verbs.check(file=wanted, diff=True).text
    write(prefix / "etc/osremed/fastoom.json", sensitivity="low")
    changes = verbs.check(file=wanted, diff=True).document["diff"]
    assert {'-  "sensitivity": "low",', '+  "sensitivity": "high",'} <= set(changes)
    assert not [line for line in changes if "sha256" in line or "cooldown_s" in line]
    assert verbs.check(file=write(prefix / "q.json", sensitivity="low"), diff=True).document["diff"] == []
    assert "diff" not in verbs.check(file=wanted).document


def test_check_refuses_a_broken_policy_with_its_place(prefix) -> None:
    with pytest.raises(BadInput) as caught:
        verbs.check(file=write(prefix / "p.json", protekt=[]))
    assert caught.value.exit_code == 2
    assert caught.value.where.startswith(f"{prefix}/p.json:1:")


def test_run_with_a_broken_policy_starts_nothing(prefix) -> None:
    write(prefix / "etc/osremed/fastoom.json", kind="Other")
    with pytest.raises(BadInput):
        verbs.run()
    assert not (prefix / "run").exists()


def test_without_a_daemon_status_is_unavailable_and_events_are_not_found() -> None:
    with pytest.raises(Unavailable):
        verbs.status()
    with pytest.raises(NotFound):
        verbs.events()


def test_events_are_told_in_order_and_damage_is_told_too(prefix) -> None:
    recorder = Recorder(str(prefix / "var/lib/osremed/events/fastoom"), str(prefix / "in_flight.json"))
    first, second, third = event(), event(), event()
    for one in (first, second, third):
        recorder.tell([one])
    recorder.close()
    answer = verbs.events(limit=2)
    assert [one["id"] for one in answer.document["events"]] == [second.id, third.id]
    assert "\n" not in answer.text.splitlines()[0]
    segment = next((prefix / "var/lib/osremed/events/fastoom").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b"memory.near_oom", b"memory.near_ooo", 1))
    assert verbs.events().exit_code == ExitCode.FAILED
    assert "\nDAMAGED: " in verbs.events().text
    with spoken("zh_TW"):
        assert "\n已損壞：" in verbs.events().text


def test_events_are_told_in_the_language_that_is_spoken_and_recorded_words_stay(prefix) -> None:
    recorder = Recorder(str(prefix / "var/lib/osremed/events/fastoom"), str(prefix / "in_flight.json"))
    change = Change(Scope("/app"), Level.NONE, Level.MEDIUM, signals(0.05))
    recorder.tell([event_of_level(change, policy(), host="h", time_ns=5)])
    recorder.tell([event()])
    recorder.close()
    at, killed = "1970-01-01T00:00:00.000Z /app", r"killed \\xff)\n[10]"
    assert verbs.events().text.splitlines() == [
        f"{at} level none -> medium; available 50.0 MiB",
        f"{at} medium (short): {killed}; available 50.0 MiB -> 150.0 MiB",
    ]
    for language, level in (("zh_CN", "等级"), ("zh_TW", "等級")):
        with spoken(language):
            assert verbs.events().text.splitlines() == [
                f"{at} {level} none -> medium；可用 50.0 MiB",
                f"{at} medium (short): {killed}；可用 50.0 MiB -> 150.0 MiB",
            ]


def test_the_room_starts_without_site_and_without_the_heavy_modules() -> None:
    heavy = ["asyncio", "logging", "argparse", "subprocess", "tempfile", "threading", "socket"]
    heavy += ["osremed.core.language", "contextvars"]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import osremed.fastoom.verbs\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("level", ["unknown", "none"])
def test_what_explain_says_is_the_same_with_a_catalogue_and_without(level) -> None:
    scope = {"scope": "{9} node", "level": level, "missing": ["{1}"]}
    if level == "none":
        one = {"pid": 7, "name": "a{2}", "heap_bytes": 1 << 20, "why": "{3}"}
        figures = {"limit_bytes": 4 << 30, "available_bytes": 1 << 30, "enter_bytes": 1 << 28}
        scope.update(figures, near_oom=False, deficit_bytes=1 << 20, expected_bytes=0, covers=False)
        scope.update(candidates=[{**one, "dies": True}, {**one, "dies": False}], spared=[one])
    assert scope_text(scope, filled) == scope_text(scope)
    with spoken("zh_CN"):
        told = scope_text(scope, filled)
    assert told != scope_text(scope)
    assert all(each in told for each in ("{9} node", "{1}"))
