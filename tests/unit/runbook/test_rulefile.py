"""What lies outside of the rules is not read as one of them, wherever links lead: no fault, diff or mend quotes it."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from osremed.cli.main import main
from osremed.core.errors import BadInput
from osremed.gitops.live import read_set
from osremed.runbook import verbs
from osremed.runbook.catalog import load_catalog, load_entry
from osremed.runbook.rulefile import read_rule
from tests.unit.runbook.conftest import ROOT
from tests.unit.runbook.test_parts import BOOK, PART, RUNBOOK
from tests.unit.spoken import spoken

SECRET = "sesame:$6$salt$hash:19000:0:99999:7:::\nsesame: again\nsesame: again\n"
LEADS_OUT = "a link leads out of the folder of the rules"


@pytest.fixture
def rules(tmp_path):
    """A folder of runbooks with a part, and a secret beside it that is none of its business."""
    folder = tmp_path / "runbooks"
    shutil.copytree(ROOT / "runbooks/near-oom", folder / "near-oom")
    shutil.copytree(ROOT / "runbooks/parts", folder / "parts")
    (tmp_path / "elsewhere/near-oom").mkdir(parents=True)
    (tmp_path / "elsewhere/shadow").write_text(SECRET)
    (tmp_path / "elsewhere/near-oom/runbook.yaml").write_text(SECRET)
    (tmp_path / "elsewhere/other.yaml").write_text(SECRET)
    return folder


def to_part(rules):
    (rules / "parts/other.yaml").symlink_to("../../elsewhere/shadow")
    return rules, rules / "parts/other.yaml"


def to_folder_of_parts(rules):
    shutil.rmtree(rules / "parts")
    (rules / "parts").symlink_to("../elsewhere")
    return rules, rules / "parts/other.yaml"


def to_runbook(rules):
    (rules / "near-oom/runbook.yaml").unlink()
    (rules / "near-oom/runbook.yaml").symlink_to(rules.parent / "elsewhere/shadow")
    return rules, rules / "near-oom/runbook.yaml"


def to_folder_of_a_runbook(rules):
    shutil.rmtree(rules / "near-oom")
    (rules / "near-oom").symlink_to("../elsewhere/near-oom")
    return rules, rules / "near-oom"


def to_one_runbook(rules):
    return to_runbook(rules)[1].parent, rules / "near-oom/runbook.yaml"


def to_one_file(rules):
    return to_runbook(rules)[1], rules / "near-oom/runbook.yaml"


def to_one_part(rules):
    return to_part(rules)[1], rules / "parts/other.yaml"


LINKS = [
    to_part,
    to_folder_of_parts,
    to_runbook,
    to_folder_of_a_runbook,
    to_one_runbook,
    to_one_file,
    to_one_part,
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("more", [[], ["--diff"], ["--fix"], ["-o", "json"]])
def test_a_link_out_of_the_rules_is_a_fault_that_quotes_nothing(rules, capsys, link, more):
    given, where = link(rules)
    assert main(["runbook", "lint", *more, str(given)]) == 2
    said = "".join(capsys.readouterr())
    assert f"{where}: {LEADS_OUT}" in said or (LEADS_OUT in said and json.dumps(str(where)) in said)
    assert not any(word in said for word in ("$6$", "sesame", "again", "duplicate"))
    for path in ("shadow", "other.yaml", "near-oom/runbook.yaml"):
        assert (rules.parent / "elsewhere" / path).read_text() == SECRET
    assert where.is_symlink() or where.parent.is_symlink()  # --fix put nothing in its place


def test_a_folder_of_rules_with_such_a_link_is_not_loaded(rules):
    to_runbook(rules)
    with pytest.raises(BadInput, match=LEADS_OUT):
        load_catalog(str(rules))
    with pytest.raises(BadInput, match=LEADS_OUT):
        load_entry(str(rules / "near-oom/runbook.yaml"))


def test_a_case_elsewhere_is_a_failed_case_that_quotes_nothing(rules):
    (rules / "near-oom/cases/other.yaml").symlink_to("../../../elsewhere/shadow")
    text = verbs.test(paths=[str(rules)]).text
    assert LEADS_OUT in text
    assert "sesame" not in text


def test_a_link_that_stays_inside_and_one_to_all_the_rules_are_followed(tmp_path):
    shared, book = tmp_path / "sets/1/shared", tmp_path / "sets/1" / BOOK
    book.parent.mkdir(parents=True)
    book.write_text(RUNBOOK)
    shared.mkdir()
    (shared / "part.yaml").write_text(PART)
    assert read_rule(str(book)) == RUNBOOK.encode()
    (tmp_path / "live").symlink_to("sets/1")
    assert read_rule(str(tmp_path / "live" / BOOK)) == RUNBOOK.encode()
    (shared.parent / "parts").symlink_to("shared")
    (shared / "other.yaml").symlink_to("part.yaml")
    assert read_rule(str(tmp_path / "live/parts/other.yaml")) == PART.encode()


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(rules):
    (rules / "near-oom/runbook.yaml").unlink()
    os.mkfifo(rules / "near-oom/runbook.yaml")
    with pytest.raises(BadInput, match=r"runbook\.yaml: not a regular file"):
        load_entry(str(rules / "near-oom/runbook.yaml"))
    with pytest.raises(BadInput, match=r"runbook\.yaml: not a regular file"):
        read_set(str(rules))  # as a look at Git does


@pytest.mark.parametrize(
    ("language", "words"), [("zh_CN", "有符号链接指向规则文件夹之外"), ("zh_TW", "有符號連結指向規則資料夾之外")]
)
def test_the_fault_is_told_in_the_language_that_is_spoken(rules, language, words):
    given, _where = to_one_file(rules)
    with spoken(language):
        assert words in verbs.lint(paths=[str(given)]).text
