"""Rules: what each key means, what is unknown, and that no expression can stall the guard."""

from __future__ import annotations

import re
import time

import pytest

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.fastoom.rules import SEARCHED, matches, search, undecidable
from tests.unit.fastoom.conftest import policy, process


def rule(**keys):
    return policy(protect=[keys]).protect[0]


def test_argv_globs_match_whole_arguments_and_all_of_them_must() -> None:
    java = rule(argv=["java", "-Dapp=billing*"])
    assert matches(java, process(5, argv=["java", "-Xmx1g", "-Dapp=billing-eu"]))
    assert not matches(java, process(5, argv=["java", "-Dapp=web"]))
    assert not matches(java, process(5, argv=["sh", "-c", "java -Dapp=billing"])), "an argument is not a substring"


def test_an_executable_is_matched_by_its_path() -> None:
    one = rule(exe="/usr/sbin/*")
    assert matches(one, process(5, exe=Value("/usr/sbin/sshd")))
    assert not matches(one, process(5, exe=Value("/home/x/sshd")))


def test_a_control_group_means_those_below_it_and_no_namesakes() -> None:
    one = rule(cgroup="/system.slice/db.service")
    assert matches(one, process(5, cgroup=Value("/system.slice/db.service")))
    assert matches(one, process(5, cgroup=Value("/system.slice/db.service/worker")))
    assert not matches(one, process(5, cgroup=Value("/system.slice/db.service2")))


def test_a_user_is_a_name_or_a_number() -> None:
    assert matches(rule(user="root"), process(5, uid=0))
    assert matches(rule(user=1234), process(5, uid=1234))
    assert not matches(rule(user=1234), process(5, uid=0))
    with pytest.raises(BadInput, match="no user 'nobody-here'"):
        rule(user="nobody-here")


@pytest.mark.parametrize(
    ("keys", "fact"), [({"exe": "/x"}, "exe"), ({"cgroup": "/x"}, "cgroup"), ({"argv": ["x"]}, "argv")]
)
def test_what_could_not_be_read_is_unknown_and_not_no(keys, fact) -> None:
    unread = process(5, **{fact: Missing(Reason.DENIED, "/proc/5")})
    assert not matches(rule(**keys), unread)
    assert undecidable(rule(**keys), unread)
    assert not undecidable(rule(**keys, user=7), unread), "another key says no already"


def test_only_rules_that_ask_make_the_guard_read_more() -> None:
    assert policy(protect=[{"name": "a"}, {"cmdline": "b"}]).asked == frozenset()
    assert policy(avoid=[{"exe": "/a"}], prefer=[{"cgroup": "/b"}]).asked == {"exe", "cgroup"}


@pytest.mark.parametrize("text", ["(a+)+$", "(a|aa)*b", r"(\w+\s?)*$", "(x+x+)+y", r"((ab)*)*", "(.*,){99,}x"])
def test_an_expression_that_may_take_for_ever_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(BadInput, match="may take for ever") as caught:
        policy(protect=[{"cmdline": text}])
    assert caught.value.where.startswith("policy.json:1:")
    assert "repeat inside a repeat" in caught.value.hint


@pytest.mark.parametrize("text", [r"\bota-gateway\b", r"-m (ota|web)\b", r"worker-\d+", ".*foo.*bar", "a?b+c*"])
def test_ordinary_expressions_are_taken(text: str) -> None:
    policy(protect=[{"cmdline": text}])


@pytest.mark.parametrize(("text", "line"), [("a*a*a*c", "a" * 9000), (".*foo.*bar", "foo" * 3000)])
def test_a_slow_search_ends_by_time_and_is_unknown(text: str, line: str) -> None:
    began = time.process_time()
    assert search(re.compile(text), line) is None
    assert time.process_time() - began < 2
    hostile = process(5, argv=[line])
    assert undecidable(rule(cmdline=text), hostile), "a protect rule must not be talked out of"


def test_a_search_after_a_slow_one_is_as_good_as_ever() -> None:
    assert search(re.compile("a*a*a*c"), "a" * 9000) is None
    for _ in range(100):
        assert search(re.compile("b$"), "ab") is True


def test_a_long_command_line_is_searched_at_both_ends() -> None:
    line = process(5, argv=["x" * 3 * SEARCHED + "ota"])
    assert matches(rule(cmdline="ota$"), line)
    assert undecidable(rule(cmdline="never"), line)
