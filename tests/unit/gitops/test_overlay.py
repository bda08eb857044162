"""What an environment changes: by name, never by position; and what was merged reads back as what was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.gitops.overlay import for_environment, merge
from osremed.gitops.plan import plan
from osremed.gitops.scaffold import SCAFFOLD
from osremed.gitops.tree import digest_of
from osremed.runbook.lint import lint_text
from osremed.runbook.text import Text, dump, parse_text

FILES = {
    path: content.encode()
    for path, content in SCAFFOLD.items()
    if path.startswith(("runbooks/", "policies/", "environments/"))
}
RUNBOOK = "runbooks/near-oom/runbook.yaml"
OVERLAY = "environments/test/runbooks/near-oom.yaml"


def _with(overlay):
    return for_environment({**FILES, OVERLAY: overlay.encode()}, "test")


def test_an_overlay_changes_what_it_names_and_nothing_else():
    merged = parse_text(for_environment(FILES, "stage")[RUNBOOK], RUNBOOK).data
    plain = parse_text(FILES[RUNBOOK], RUNBOOK).data
    assert merged["guards"]["cooldown"] == "1m"
    approval = merged["remediate"][0]["approval"]
    assert approval == {"required": "risk >= 'medium'", "timeout": "5m", "on_timeout": "deny"}
    merged["guards"]["cooldown"] = "10m"
    approval["timeout"] = "10m"
    assert merged == plain


def test_the_shipped_environments_lint():
    for environment in ("stage", "prod"):
        text = parse_text(for_environment(FILES, environment)[RUNBOOK], RUNBOOK)
        assert lint_text(text)[1] == ()


def test_a_runbook_that_is_not_enabled_is_not_there():
    files = _with("enabled: false\n")
    assert not [path for path in files if path.startswith("runbooks/")]


@pytest.mark.parametrize(
    ("overlay", "place", "word"),
    [
        ("patch:\n  diagnose:\n    nobody: {confidence: 80%}\n", ":3:5", "no item 'nobody'"),
        ("patch:\n  metadata: {owners: {x: 1}}\n", ":2:22", "no names to merge by"),
        ("pach: {}\n", ":1:1", "keys `enabled` and `patch`"),
        ("enabled: false\npatch: {}\n", ":2:1", "has no patch"),
        ("enabled: perhaps\n", ":1:10", "true or false"),
        ("[]\n", ":1:1", "keys `enabled` and `patch`"),
    ],
)
def test_a_wrong_overlay_is_an_error_with_its_place(overlay, place, word):
    with pytest.raises(BadInput, match=word) as raised:
        _with(overlay)
    assert raised.value.where == f"{OVERLAY}{place}"


@pytest.mark.parametrize("path", ["runbooks/nobody.yaml", "other/x.yaml", "runbooks/near-oom.yml", "x.yaml"])
def test_an_overlay_of_nothing_is_an_error(path):
    with pytest.raises(BadInput, match=r"overlay|there is no"):
        for_environment({**FILES, f"environments/test/{path}": b"enabled: false\n"}, "test")


def test_an_unknown_environment_names_the_known_ones():
    with pytest.raises(BadInput) as raised:
        for_environment(FILES, "prd")
    assert "prod, stage" in raised.value.hint


_KEYS = st.text("abcdefgh-", min_size=1, max_size=6)
_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(-1e15, 1e15).map(lambda value: round(value, 9)),
    st.text(
        st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\ufeff\ufffe\uffff"), max_size=20
    ),
    st.sampled_from(["on", "off", "yes", "no", "~", "null", "1e3", "0x1f", "1_000", "10m", "5%", "- a", "a: b", "# x"]),
)
_TREES = st.dictionaries(
    _KEYS,
    st.recursive(
        _SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
        max_leaves=12,
    ),
    max_size=5,
)
_NOWHERE = Text("", None, {}, {})


@given(_TREES)
def test_what_is_written_reads_back_equal(tree):
    if tree:
        assert parse_text(dump(tree), "x").data == tree


@given(_TREES)
def test_merging_nothing_or_oneself_changes_nothing(tree):
    assert merge(tree, {}, _NOWHERE, ()) == tree
    assert merge(tree, tree, _NOWHERE, ()) == tree


@given(_TREES, st.dictionaries(_KEYS, _SCALARS, max_size=4))
def test_a_merged_key_is_the_patchs_or_the_bases(base, patch):
    merged = merge(base, patch, _NOWHERE, ())
    assert set(merged) == set(base) | set(patch)
    for key, value in merged.items():
        assert value == patch.get(key, base.get(key))


_SETS = st.dictionaries(
    st.sampled_from(
        ["runbooks/a/runbook.yaml", "runbooks/b/runbook.yaml", "runbooks/b/cases/x.yaml", "policies/p.yaml"]
    ),
    st.binary(max_size=4),
)


@given(_SETS, _SETS)
def test_a_plan_is_empty_exactly_when_the_sets_are_equal_and_mirrors_when_turned(old, new):
    forth, back = plan(old, new, max_removed=1.0), plan(new, old, max_removed=1.0)
    assert (forth.changes == ()) == (digest_of(old) == digest_of(new))
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(each.rule, turned[each.kind]) for each in forth.changes] == [(e.rule, e.kind) for e in back.changes]
