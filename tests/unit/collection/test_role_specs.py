"""The check of argument_specs finds what is broken, and finds nothing in the roles as they are."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_SPEC = importlib.util.spec_from_file_location("check_roles", ROOT / "tools/check_roles.py")
check_roles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(check_roles)


@pytest.fixture
def roles(tmp_path):
    """A copy of the role tuning, to be broken."""
    shutil.copytree(check_roles.ROLES / "tuning", tmp_path / "tuning")
    return tmp_path


def test_the_roles_as_they_are_have_no_problem():
    assert check_roles.problems() == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("choices: [present, absent]", "choices: [here, gone]", "the default 'present' is no choice"),
        ("default: 65536", "default: 65537", "the default is 65536, specified is 65537"),
        ("type: float", "type: number", "type 'number' is none of"),
        ("      tuning_python:", "      tuning_pyton:", "tuning_python: has a default and is not specified"),
        ("      tuning_swappiness:", "      tuning_swapiness:", "tuning_swapiness: specified and used nowhere"),
        ("description: Writers wait here.", "descripton: Writers wait here.", "tuning_dirty_bytes: no description"),
        ("options:", "option:", "needs a short_description and options"),
    ],
)
def test_a_broken_specification_is_found(roles, before, after, problem):
    path = roles / "tuning/meta/argument_specs.yml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    assert any(problem in each for each in check_roles.problems(roles)), check_roles.problems(roles)


def test_a_role_without_a_specification_is_found(roles):
    (roles / "tuning/meta/argument_specs.yml").unlink()
    assert check_roles.problems(roles) == ["role tuning: no meta/argument_specs.yml"]
