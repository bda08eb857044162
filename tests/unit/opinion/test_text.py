"""An opinion in words: marked as a model's in every language, and the model's own words as it wrote them."""

# ruff: noqa: RUF001  Chinese marks are meant

from __future__ import annotations

import pytest

from osremed.opinion.text import as_text
from osremed.runbook.opinions import Asked, Hypothesis, Opinion, Reworded
from tests.unit.spoken import spoken

OPINION = Opinion(
    call="c1",
    model="m",
    about="run r1",
    by="me",
    at_ns=0,
    summary="about it",
    hypotheses=(Hypothesis("a leak", 0.4, ("event-1",), "it shrinks"),),
    reworded=(Reworded("growing", "it grows"),),
    suggestion=None,
    shown=(),
    asked=(Asked("answer-1", "events", {"host": "web-1"}),),
    dropped=("no such id",),
    tokens=12,
    seconds=1.5,
    prompt_sha256="0",
)


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        (
            "en",
            [
                "OPINION OF A MODEL (m), not a finding. Nothing was done; the rules' findings stand.",
                "about run r1",
                "about it",
                "  1. a leak",
                "     it says it is 40 % sure; rests on event-1",
                "     wrong if: it shrinks",
                "  in other words (growing): it grows",
                "  answer-1 is: events host=web-1",
                "  dropped: no such id",
                "12 tokens, 1.5 s, call c1 in the audit",
            ],
        ),
        (
            "zh_CN",
            [
                "模型（m）的意见，不是诊断结论。没有执行任何操作；规则的诊断结论不变。",
                "关于 run r1",
                "about it",
                "  1. a leak",
                "     自称把握 40 %；依据 event-1",
                "     若如此则不成立：it shrinks",
                "  换句话说（growing）：it grows",
                "  answer-1 为：events host=web-1",
                "  已舍弃：no such id",
                "12 个 token，1.5 秒，审计中的调用 c1",
            ],
        ),
        (
            "zh_TW",
            [
                "模型（m）的意見，不是診斷結論。沒有執行任何操作；規則的診斷結論不變。",
                "關於 run r1",
                "about it",
                "  1. a leak",
                "     自稱把握 40 %；依據 event-1",
                "     若如此則不成立：it shrinks",
                "  換句話說（growing）：it grows",
                "  answer-1 為：events host=web-1",
                "  已捨棄：no such id",
                "12 個 token，1.5 秒，稽核中的呼叫 c1",
            ],
        ),
    ],
)
def test_an_opinion_is_marked_as_a_models_in_the_language_that_is_spoken(language, lines):
    with spoken(language):
        assert as_text(OPINION).splitlines() == lines
