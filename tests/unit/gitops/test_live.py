"""Sets of rules: applying twice is applying once, and a rollback brings back what was, to the byte."""

from __future__ import annotations

import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.gitops import live, verbs
from osremed.gitops.live import Home
from osremed.gitops.tree import digest_of

_PATHS = st.sampled_from(
    [
        "runbooks/a/runbook.yaml",
        "runbooks/a/cases/x.yaml",
        "runbooks/b/runbook.yaml",
        "policies/p.yaml",
        "prefect/q.yaml",
    ]
)
_SETS = st.dictionaries(_PATHS, st.binary(max_size=8), min_size=1, max_size=4)


def apply(home, files):
    with live.alone(home):
        name = live.adopt(home, live.stage(home, files), files)
        if name != live.live_digest(home):
            live.remember(home, {"set": name, "commit": ""})
        live.swap(home, name)
        live.prune(home, 5)
    return name


def everything(home):
    """What is live, as bytes by path, and the names of the sets that are kept."""
    return live.read_set(os.path.realpath(home.live)), sorted(os.listdir(home.path("sets")))


@settings(max_examples=60, deadline=None)
@given(_SETS, _SETS)
def test_twice_is_once_and_a_rollback_is_what_was_before(old, new):
    with tempfile.TemporaryDirectory() as state:
        home = Home(os.path.join(state, "gitops"))
        apply(home, old)
        assert live.read_set(os.path.realpath(home.live)) == old
        apply(home, new)
        once = everything(home), live.history(home)
        assert apply(home, new) == digest_of(new)
        assert (everything(home), live.history(home)) == once
        assert live.drift(home) == ""
        if old != new:
            verbs.rollback(state=state)
            assert live.read_set(os.path.realpath(home.live)) == old
            verbs.rollback(state=state)
            assert live.read_set(os.path.realpath(home.live)) == new


@settings(max_examples=60, deadline=None)
@given(_SETS, _PATHS, st.binary(max_size=8))
def test_any_change_of_a_live_file_is_drift(files, path, content):
    with tempfile.TemporaryDirectory() as state:
        home = Home(os.path.join(state, "gitops"))
        apply(home, files)
        target = os.path.join(os.path.realpath(home.live), path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.exists(target):
            os.chmod(target, 0o644)
        with open(target, "wb") as out:
            out.write(content)
        assert bool(live.drift(home)) == (files.get(path) != content)
