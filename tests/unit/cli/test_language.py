"""The command line in Chinese: everything it says has words for it, and what programs read stays as it is."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from osremed.cli.language import language_of
from osremed.cli.main import main
from osremed.core.columns import cut, padded, width, wrapped
from osremed.core.language import filled, said, speak
from osremed.verbs.catalogue import LANGUAGES, answers, catalogue
from osremed.verbs.table import VERBS

ROOT = Path(__file__).resolve().parents[3]
_spec = importlib.util.spec_from_file_location("phrases", ROOT / "tools" / "phrases.py")
phrases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(phrases)


@pytest.fixture(autouse=True)
def english_again(monkeypatch):
    for name in ("OSREMED_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    yield
    speak({})


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_the_command_line_says_is_translated(language):
    missing = phrases.missing(language)
    assert not missing, (
        f"no {language} for {list(missing.items())}: run tools/phrases.py, which prints the entries to be filled in, "
        f"and put them into osremed/verbs/locale/{language}.po"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_gaps_and_the_commands_of_its_phrase(language):
    for phrase, text in [*catalogue(language).items(), *answers(language).items()]:
        gaps = re.findall(r"\{\d\}", phrase)
        assert sorted(gaps) == sorted(re.findall(r"\{\d\}", text)), phrase
        assert len(set(gaps)) == len(gaps), phrase
        commands = [f"osremed {' '.join(verb.words)}" for verb in VERBS]
        kept = re.findall(r"(?<![\w-])--[a-z-]+|`[^`{]+`", phrase) + [each for each in commands if each in phrase]
        assert [word for word in kept if word not in text] == [], phrase


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_answer_is_translated_that_nothing_says(language):
    assert set(answers(language)) - {text for text, _where in phrases.phrases()} == set()
    assert set(answers(language)) & set(catalogue(language)) == set()


@pytest.mark.parametrize(("kind", "words"), [("", catalogue), (".answers", answers)])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_catalogue_is_a_po_file_that_says_the_same_to_babel(language, kind, words):
    path = ROOT / f"osremed/verbs/locale/{language}{kind}.po"
    with open(path, "rb") as file:
        read = read_po(file, abort_invalid=True)
    entries = [entry for entry in read if entry.id]
    assert not [entry.id for entry in entries if entry.fuzzy]
    assert {entry.id: entry.string for entry in entries} == words(language)
    assert len(entries) == path.read_text().count("\nmsgid ")


def test_both_catalogues_have_the_same_phrases_and_neither_is_a_copy_of_the_other():
    simplified, traditional = ({**catalogue(each), **answers(each)} for each in LANGUAGES)
    assert set(simplified) == set(traditional)
    assert sum(simplified[each] != traditional[each] for each in simplified) > 0.8 * len(simplified)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, ""),
        ({"LANG": "C"}, ""),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN"}, ""),
        ({"LANG": "POSIX"}, ""),
        ({"LANG": "de_DE.UTF-8"}, ""),
        ({"LANG": "xx"}, ""),
        ({"LANG": "zhuang"}, ""),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "zh_SG.UTF-8"}, "zh_CN"),
        ({"LANG": "zh"}, "zh_CN"),
        ({"LANG": "zh_HK.UTF-8"}, "zh_TW"),
        ({"LANG": "zh-Hant"}, "zh_TW"),
        ({"LANG": "zh_Hans_HK"}, "zh_CN"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh_TW"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, ""),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh_CN"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_TW:zh"}, "zh_TW"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en"}, ""),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "de"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "OSREMED_LANG": "en"}, ""),
        ({"LANG": "C", "OSREMED_LANG": "zh_TW"}, "zh_TW"),
        ({"OSREMED_LANG": "../../etc/passwd"}, ""),
    ],
)
def test_the_environment_says_which_language_and_what_is_not_known_is_english(environment, language):
    assert language_of(environment) == language


def test_what_fills_a_gap_is_translated_too_and_quoted_text_stays():
    speak({"no run {1}": "没有 {1}", "{1} is {2}": "{1}为{2}", "run {1} is {2}": "运行 {1} 为 {2}", "late": "迟"})
    assert said("no run 'x'") == "没有 'x'"
    assert said("run {2} is late") == "运行 {2} 为 迟"
    assert said("a\nb is late") == "a\nb为迟"
    assert said("never heard of") == "never heard of"
    assert said("no run ") == "no run "


def test_what_fills_a_gap_of_an_answer_stays_and_no_error_is_taken_for_an_answer():
    speak({"no run {1}": "没有 {1}"}, {"{1} on {2}: {3}": "{1} 于 {2}：{3}", "plan": "计划", "free": "空闲"})
    assert filled("{1} on {2}: {3}", "plan", "{1}", "free") == "plan 于 {1}：free"
    assert filled("free") == "空闲"
    assert filled("{9}") == "{9}"
    assert said("no run plan") == "没有 plan"
    assert said("cannot write on disk: full") == "cannot write on disk: full"


def run(monkeypatch, capsys, language, *words):
    monkeypatch.setenv("OSREMED_LANG", language)
    try:
        code = main([*words])
    except SystemExit as ended:
        code = ended.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("verb", VERBS, ids=[" ".join(verb.words) for verb in VERBS])
def test_no_line_of_a_chinese_page_of_help_is_wider_than_the_terminal(verb, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    code, page, _ = run(monkeypatch, capsys, "zh_TW", *verb.words, "--help")
    assert code == 0
    assert said(verb.help)[:8] in page
    assert [line for line in page.splitlines() if width(line) > 80] == []


@pytest.mark.parametrize(
    "words", [["explain", "cooldown"], ["doctor"], ["runbook", "lint", "/nowhere"], ["hotspot", "status"]]
)
@pytest.mark.parametrize("output", ["json", "jsonl", "yaml", "name"])
def test_what_programs_read_is_the_same_in_every_language(words, output, monkeypatch, capsys):
    english = run(monkeypatch, capsys, "en", *words, "-o", output)
    for language in LANGUAGES:
        assert run(monkeypatch, capsys, language, *words, "-o", output)[:2] == english[:2]


@pytest.mark.parametrize(
    ("words", "chinese", "code"),
    [
        (["panorama", "--files", "many"], ["参数 --files", "无效的 int 值", "'many'", "提示："], "[input.usage]"),
        (["probe", "x"], ["缺少必需的参数", "--expect"], "[input.usage]"),
        (["panorama", "--wrong"], ["无法识别的参数", "--wrong"], "[input.usage]"),
        (["panorama", "--files"], ["需要一个值"], "[input.usage]"),
        (["fastoom", "run", "--policy"], ["--policy 需要一个值"], "[input.usage]"),
        (["explain", "cooldwn"], ["没有代码", "您是不是要找 cooldown？"], "[not-found]"),
        (["events", "-o", "nope"], ["无效的选择"], "[input.usage]"),
    ],
)
def test_an_error_is_told_in_chinese_and_keeps_its_code(words, chinese, code, monkeypatch, capsys):
    english = run(monkeypatch, capsys, "en", *words)
    told = run(monkeypatch, capsys, "zh_CN", *words)
    assert told[0] == english[0] != 0
    assert all(each in told[2] for each in [*chinese, code]), told[2]
    assert "hint:" not in told[2]
    assert code in english[2]


def test_a_terminal_that_has_no_such_characters_is_spoken_to_in_english():
    environment = {"OSREMED_LANG": "zh_CN", "PYTHONIOENCODING": "latin-1", "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-m", "osremed", "explain", "cooldown"]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert b"too recent" in ended.stdout


def test_english_reads_no_catalogue(monkeypatch, capsys):
    monkeypatch.setattr("osremed.cli.language.catalogue", lambda language: pytest.fail(f"read {language}"))
    assert run(monkeypatch, capsys, "en", "--help")[0] == 0


def test_wide_characters_take_two_columns_wherever_text_is_cut_padded_or_wrapped():
    assert width("页缓存 a") == 8
    assert padded("正常", 7) == "正常   "
    assert cut("页缓存页缓存", 7) == "页缓存…"
    assert wrapped("页缓存，谁占用了内存 and words", 8) == ["页缓存，", "谁占用了", "内存 and", "words"]
    assert wrapped("a word-that-is-too-long b", 6) == ["a", "word-that-is-too-long", "b"]
    assert wrapped("页缓存（默认 /var/x）", 8) == ["页缓存", "（默认", "/var/x）"]
    assert wrapped("", 6) == [""]


def test_the_documents_of_the_doctor_hold_what_the_text_says(monkeypatch, capsys):
    document = json.loads(run(monkeypatch, capsys, "zh_CN", "doctor", "-o", "json")[1])
    text = run(monkeypatch, capsys, "en", "doctor")[1]
    assert all(f"{each['name']}: {each['detail']}" in text for each in document["checks"])
    assert "可用内存" in run(monkeypatch, capsys, "zh_CN", "doctor")[1]


def test_a_new_text_of_a_rule_or_an_exit_code_is_missing_though_its_sentence_has_words(monkeypatch):
    assert phrases.missing("zh_CN") == {}
    monkeypatch.setattr(phrases, "RULES", {**phrases.RULES, "new": "A rule is what it was never before"})
    monkeypatch.setattr(phrases, "EXITS", {0: "a new end"})
    found = phrases.missing("zh_CN")
    assert list(found) == ["a rule is what it was never before", "a new end"]
    assert found["a new end"] == "in a sentence of osremed explain exit.0"


def test_each_language_has_one_word_for_a_part_of_runbooks():
    for language, word, other in (("zh_CN", "部件", "元件"), ("zh_TW", "元件", "部件")):
        texts = [*catalogue(language).values(), *answers(language).values()]
        assert word in catalogue(language)["that of a part"]
        assert [text for text in texts if other in text] == []
