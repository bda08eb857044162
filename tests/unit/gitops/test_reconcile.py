"""Rules go live when they are signed, sound and not too many go at once; otherwise the last good ones stay."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from osremed.core.journal import Journal
from osremed.gitops import live, signature
from osremed.gitops.document import Sync
from osremed.gitops.scaffold import SCAFFOLD
from osremed.runbook.catalog import load_catalog, load_entry

RUNBOOK = "runbooks/near-oom/runbook.yaml"


def test_signed_rules_go_live_and_are_what_the_dispatcher_loads(control, repository):
    status = control.look()
    assert (status.ready, status.reason) == (True, "Applied"), status.message
    assert status.commit == repository.git("rev-parse", "HEAD")
    assert status.detail["signers"] == ["alice@example.com"]
    assert list(load_catalog(control.home.runbooks)) == ["near-oom"]


def test_runbooks_know_the_commit_they_came_from_and_runbooks_of_elsewhere_none(control, repository, alice):
    first = control.look().commit
    assert load_catalog(control.home.runbooks)["near-oom"].commit == first
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    second = repository.commit("Slower", alice)
    older = os.path.realpath(control.home.runbooks)
    control.look()
    assert load_entry(f"{control.home.runbooks}/near-oom/runbook.yaml").commit == second
    assert load_catalog(older)["near-oom"].commit == first
    assert load_catalog(str(repository.directory / "runbooks"))["near-oom"].commit == ""


def test_looking_twice_changes_nothing(control):
    first = control.look()
    before = live.history(control.home)
    again = control.look()
    assert again.ready
    assert again.set == first.set
    assert again.detail["changes"] == []
    assert live.history(control.home) == before


@pytest.mark.parametrize("who", ["nobody", "mallory"])
def test_a_commit_without_an_allowed_signature_gets_no_byte_applied(control, repository, request, who):
    good = control.look()
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 1s")
    repository.commit("Trust me", None if who == "nobody" else request.getfixturevalue("mallory"))
    status = control.look()
    assert (status.ready, status.reason) == (False, "NotVouched"), status.message
    assert status.set == good.set
    assert status.commit == good.commit
    assert b"cooldown: 10m" in control.live()
    assert os.listdir(control.home.path("sets")) == [good.set]


def test_a_signed_commit_on_top_of_an_unsigned_one_is_refused(control, repository, alice):
    control.look()
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 1s")
    sneaked = repository.commit("Sneaked in")
    repository.edit(RUNBOOK, "max_runs: 20", "max_runs: 19")
    repository.commit("Honest work", alice)
    status = control.look()
    assert status.reason == "NotVouched"
    assert sneaked[:12] in status.message
    verify = {**control.document["verify"], "mode": "head"}
    assert control.look(verify=verify).reason == "Applied"


def test_a_merge_of_an_unsigned_branch_is_refused(control, repository, alice):
    control.look()
    repository.git("checkout", "--quiet", "-b", "side")
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 1s")
    repository.commit("Unsigned side work")
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "-S", "-m", "Merge", "side", author=alice)
    assert control.look().reason == "NotVouched"


def test_a_rewritten_history_is_refused_unless_pinned(control, repository, alice):
    first = repository.git("rev-parse", "HEAD")
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    second = repository.commit("Slower", alice)
    assert control.look().commit == second
    repository.git("reset", "--quiet", "--hard", first)
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 30m")
    third = repository.commit("Another line of work", alice)
    assert control.look().reason == "HistoryRewritten"
    assert b"cooldown: 20m" in control.live()
    assert control.look(commit=third).reason == "Applied"
    assert b"cooldown: 30m" in control.live()


def test_only_the_named_principals_count(control):
    verify = {**control.document["verify"], "principals": ["bob@example.com"]}
    status = control.look(verify=verify)
    assert status.reason == "NotVouched"
    assert "alice@example.com" in status.message


def test_a_signed_tag_vouches_for_what_it_points_to(control, repository, alice, mallory):
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.commit("Not signed, but tagged")
    repository.git("tag", "-s", "-m", "Release", "v1", author=alice)
    verify = {**control.document["verify"], "mode": "tag"}
    assert control.look(ref="refs/tags/v1", verify=verify).detail["signers"] == ["alice@example.com"]
    repository.edit(RUNBOOK, "cooldown: 20m", "cooldown: 1s")
    repository.commit("Mine")
    repository.git("tag", "-s", "-m", "Mine", "v2", author=mallory)
    repository.git("tag", "v3")
    for tag in ("v2", "v3"):
        assert control.look(ref=f"refs/tags/{tag}", verify=verify).reason == "NotVouched"
    assert b"cooldown: 20m" in control.live()


def test_a_signed_tag_that_was_put_under_another_name_vouches_for_nothing(control, repository, alice):
    """Who can push and not sign could bring old rules back as the newest ones."""
    verify = {**control.document["verify"], "mode": "tag"}
    repository.git("tag", "-s", "-m", "Old", "v1", author=alice)
    repository.git("update-ref", "refs/tags/stable", "refs/tags/v1")
    repository.git("update-ref", "refs/tags/team/v1", "refs/tags/v1")
    for ref in ("refs/tags/stable", "tags/stable", "stable", "refs/tags/team/v1"):
        status = control.look(ref=ref, verify=verify)
        assert (status.reason, status.set) == ("NotVouched", ""), ref
        assert f"signed as 'v1' and lies at '{ref.rpartition('tags/')[2]}'" in status.message
    repository.git("tag", "-s", "-m", "Ours", "team/v2", author=alice)
    for ref in ("refs/tags/v1", "tags/v1", "v1", "refs/tags/team/v2"):
        assert control.look(ref=ref, verify=verify).ready, ref


def test_openpgp_signatures_count_when_the_key_is_in_the_keyring(control, repository, tmp_path):
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "carol@example.com", "ed25519", "sign"], check=True, timeout=60)
    keyring = tmp_path / "carol.asc"
    keyring.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True, timeout=60).stdout)
    wrapper = tmp_path / "gpg"
    wrapper.write_text(f'#!/bin/sh\nexec gpg --homedir {home} --pinentry-mode loopback --passphrase "" "$@"\n')
    wrapper.chmod(0o755)
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    repository.git("add", "--all")
    settings = ["-c", f"gpg.program={wrapper}", "-c", "user.signingkey=carol@example.com"]
    repository.git(*settings, "commit", "--quiet", "-S", "-m", "By carol")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=30)
    assert control.look().reason == "NotVouched"
    status = control.look(verify={"keyring": str(keyring)})
    assert status.reason == "Applied", status.message
    assert "carol@example.com" in status.detail["signers"][0]


def test_a_faulty_rule_keeps_the_whole_old_set_and_says_where(control, repository, alice):
    good = control.look()
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldwon: 10m")
    repository.write("runbooks/other/runbook.yaml", SCAFFOLD[RUNBOOK].replace("name: near-oom", "name: other"))
    repository.commit("A slip", alice)
    status = control.look()
    assert (status.reason, status.set) == ("CheckFailed", good.set)
    assert status.detail["where"].startswith("runbooks/near-oom/runbook.yaml:14:")
    assert list(load_catalog(control.home.runbooks)) == ["near-oom"]


def test_a_failing_case_holds_the_rules_up(control, repository, alice):
    control.look()
    repository.edit("runbooks/near-oom/cases/medium-already.yaml", "state: REFUSED", "state: SUCCEEDED")
    repository.commit("Wishful thinking", alice)
    status = control.look()
    assert status.reason == "CheckFailed"
    assert "medium-already.yaml" in status.message


def test_a_runbook_without_a_case_is_not_finished(control, repository, alice):
    repository.git("rm", "--quiet", "runbooks/near-oom/cases/medium-already.yaml")
    repository.commit("Who needs cases", alice)
    assert "has no case" in control.look().message


def test_an_empty_set_and_a_shrunken_one_are_refused_until_a_human_says_so(control, repository, alice):
    for name in ("one", "two"):
        for kind in ("runbook.yaml", "cases/medium-already.yaml"):
            text = SCAFFOLD[f"runbooks/near-oom/{kind}"].replace("name: near-oom\n", f"name: {name}\n", 1)
            repository.write(f"runbooks/{name}/{kind}", text)
    repository.commit("Three", alice)
    good = control.look()
    repository.git("rm", "--quiet", "-r", "runbooks/one", "runbooks/two", "policies")
    repository.commit("One left", alice)
    status = control.look()
    assert (status.reason, status.set) == ("TooMuchRemoved", good.set)
    assert control.look(max_removed="100%").reason == "Applied"
    repository.git("rm", "--quiet", "-r", "runbooks", "environments")
    repository.commit("None left", alice)
    assert control.look(max_removed="100%").reason == "TooMuchRemoved"
    assert list(load_catalog(control.home.runbooks)) == ["near-oom"]


def test_changed_live_files_are_told_and_repaired_only_when_allowed(control):
    name = control.look().set
    path = Path(control.home.path("sets", name, RUNBOOK))
    path.chmod(0o644)
    path.write_text(path.read_text().replace("cooldown: 10m", "cooldown: 1s"))
    assert control.look().reason == "Drifted"
    assert b"cooldown: 1s" in control.live()
    status = control.look(repair_drift=True)
    assert status.ready
    assert not live.drift(control.home)
    assert b"cooldown: 10m" in control.live()


def _event(number, level="high"):
    import time

    attributes = {"level": level, "sensitivity": "low", "scope": "node", "available_ratio": 0.05}
    return {
        "id": f"e{number}",
        "name": "memory.near_oom",
        "host": "web-1",
        "time_ns": time.time_ns(),
        "attributes": attributes,
    }


def test_past_decisions_that_would_change_too_much_wait_for_a_human(control, repository, alice):
    intake = Journal(control.past.events)
    for number in range(4):
        intake.append(_event(number, "medium" if number else "high"))
    intake.close()
    control.look()
    repository.edit(RUNBOOK, "event.level in ['medium', 'high'] and", "event.level == 'high' and")
    repository.edit("runbooks/near-oom/cases/medium-already.yaml", "level: high", "level: high")
    repository.commit("Only when it is high", alice)
    status = control.look(replay={"max_changed": "50%"})
    assert status.reason == "DecisionsChange"
    assert status.message.startswith("3 of 4 past decisions")
    assert control.look(replay={"max_changed": "80%"}).detail["replay"]["differences"] == 3


def test_past_decisions_are_replayed_on_the_fleet_and_with_the_policies_of_its_groups(
    control, repository, alice, tmp_path
):
    """Who is let act by a policy is a changed decision, on an inventory that says whom the policy means."""
    intake = Journal(control.past.events)
    intake.append(_event(1, "high"))
    intake.close()
    repository.edit(RUNBOOK, "required: risk >= 'medium'", "required: risk >= 'high'")
    repository.commit("The mode alone decides", alice)
    control.look()
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("all: {children: {web: {hosts: {web-1: {}, web-2: {}}}}}\n")
    head = "apiVersion: osremed/v1\nkind: GuardPolicy\nmetadata: {name: acts, title: x, owners: [web]}\n"
    repository.write("policies/acts.yaml", f"{head}hosts: web\nrunbooks: [near-oom]\nmode: auto\n")
    repository.commit("The web mends itself", alice)
    on = {"max_changed": "0%", "inventory": str(inventory)}
    status = control.look(replay={**on, "inventory": str(tmp_path / "nowhere")})
    assert (status.reason, status.detail["where"]) == ("FleetUnknown", str(tmp_path / "nowhere"))
    assert control.look(replay=on).reason == "DecisionsChange"
    told = control.look(replay={**on, "max_changed": "100%"}).detail["replay"]
    assert (told["differences"], told["modes"]) == (1, {"acts": 1})
    assert (told["fleet"]["source"], told["fleet"]["hosts"]) == ("inventory", 2)


def test_a_source_says_one_fleet():
    document = {"apiVersion": "osremed/v1", "kind": "RulesSource", "url": "x", "verify": {"mode": "none"}}
    assert Sync.model_validate({**document, "replay": {"fleet_hosts": 40}}).replay.fleet_hosts == 40
    for wrong in ({"fleet_hosts": 40, "inventory": "x"}, {"fleet_hosts": 0}):
        with pytest.raises(ValidationError):
            Sync.model_validate({**document, "replay": wrong})


@pytest.mark.parametrize("moment", ["adopt", "remember", "swap", "prune"])
def test_killed_at_any_step_the_live_set_is_old_or_new_and_the_next_look_finishes(control, repository, alice, moment):
    old = control.look()
    repository.edit(RUNBOOK, "cooldown: 10m", "cooldown: 20m")
    new = repository.commit("Slower", alice)
    script = f"""
import json, os, sys
from osremed.gitops import live
from osremed.gitops.document import Sync
from osremed.gitops.document import Sync
from osremed.gitops.live import Home
from osremed.gitops.reconcile import Past, reconcile
setattr(live, {moment!r}, lambda *a, **k: os._exit(9))
reconcile(Sync.model_validate(json.loads(sys.argv[1])), Home(sys.argv[2]), Past())
"""
    import json

    argv = [sys.executable, "-c", script, json.dumps(control.document), control.home.directory]
    assert subprocess.run(argv, check=False, timeout=120).returncode == 9
    between = live.live_digest(control.home)
    text = control.live()
    assert (b"cooldown: 10m" in text) == (between == old.set)
    assert not live.drift(control.home)
    status = control.look()
    assert status.ready
    assert status.commit == new
    assert b"cooldown: 20m" in control.live()
    assert not [name for name in os.listdir(control.home.path("sets")) if name.startswith(".")]


def _no_signers(control, _monkeypatch, _tmp_path):
    os.unlink(control.document["verify"]["allowed_signers"])
    return {}, "the file of allowed keys is not there"


def _a_mirror_that_git_refuses(control, _monkeypatch, _tmp_path):
    shutil.rmtree(os.path.join(control.home.mirror, "objects"))
    Path(control.home.mirror, "objects").touch()
    return {}, "git init: "


def _a_mirror_that_is_a_file(control, _monkeypatch, _tmp_path):
    shutil.rmtree(control.home.mirror)
    Path(control.home.mirror).touch()
    return {}, "File exists"


def _a_gpg_that_hangs(_control, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gpg").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "bin/gpg").chmod(0o755)
    (tmp_path / "keys").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(signature, "_GPG_S", 0.2)
    return {"verify": {"keyring": str(tmp_path / "keys")}}, "gpg did not read the keys within 0.2 s"


def _a_suspension_that_cannot_be_read(control, _monkeypatch, _tmp_path):
    Path(control.home.suspended).write_text("{")
    return {}, "suspended.json: cannot be read"


@pytest.mark.parametrize(
    "breaks",
    [
        _no_signers,
        _a_mirror_that_git_refuses,
        _a_mirror_that_is_a_file,
        _a_gpg_that_hangs,
        _a_suspension_that_cannot_be_read,
    ],
)
def test_a_look_that_breaks_off_is_told_and_the_live_rules_stay(control, monkeypatch, tmp_path, breaks):
    """It left the status of the look before: ready, for as long as it lasted."""
    good = control.look()
    changes, says = breaks(control, monkeypatch, tmp_path)
    found = control.look(**changes)
    assert (found.ready, found.reason, found.set, found.commit) == (False, "LookFailed", good.set, good.commit)
    assert says in found.message
    told = live.read_json(control.home.status)
    assert (told["ready"], told["reason"], told["set"]) == (False, "LookFailed", good.set)
    assert [each["status"] for each in told["conditions"] if each["type"] == "Stalled"] == ["True"]


def test_a_status_that_cannot_be_read_is_made_anew(control):
    good = control.look()
    Path(control.home.status).write_text("{")
    assert control.look().set == good.set
    assert live.read_json(control.home.status)["reason"] == "Applied"


def test_an_unreachable_repository_changes_nothing_and_is_told(control):
    good = control.look()
    status = control.look(url="file:///nowhere/at/all")
    assert (status.ready, status.reason, status.set) == (False, "FetchFailed", good.set)


def test_a_fetch_that_brings_too_much_is_refused_and_leaves_nothing_behind(control, repository, alice):
    good = control.look()
    repository.write("big.bin", os.urandom(4 << 20))
    repository.commit("Big", alice)
    status = control.look(limits={"fetch_bytes": 1 << 20})
    assert (status.ready, status.reason, status.set) == (False, "FetchFailed", good.set)
    left = [path for path in Path(control.home.mirror).rglob("*") if path.is_file() and path.stat().st_size >= 1 << 20]
    assert left == []
    assert control.look().reason == "Applied"


def test_five_hundred_rules_cost_seconds_of_cpu_and_not_minutes(control, repository, alice):
    for number in range(500):
        for path in (RUNBOOK, "runbooks/near-oom/cases/medium-already.yaml"):
            text = SCAFFOLD[path].replace("name: near-oom\n", f"name: rule-{number}\n", 1)
            repository.write(path.replace("near-oom", f"rule-{number}"), text)
    repository.commit("Many", alice)
    began = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
    status = control.look()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = time.process_time() - began[1]
    cpu_s += spent.ru_utime + spent.ru_stime - began[0].ru_utime - began[0].ru_stime
    assert (status.reason, status.detail["runbooks"]) == ("Applied", 501), status.message
    assert cpu_s < 30, f"{cpu_s:.1f} s of CPU; 9 s on two quiet cores"
