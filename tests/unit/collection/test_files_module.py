"""Files and directories are as asked, or nothing was touched; what is as asked is left alone."""

from __future__ import annotations

import base64
import json
import os
import stat

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.modules import files

ME = {"owner": str(os.getuid()), "group": str(os.getgid()), "mode": None}


def place(path, **given):
    return {"path": str(path), **ME, **given}


def file(path, **given):
    return place(path, **{"content": None, "content_b64": None, "secret": None, **given})


def ask(check_mode=False, **given):
    named = {name: [str(path) for path in given.get(name, [])] for name in ("absent", "emptied")}
    options = {"directories": given.get("directories", []), "files": given.get("files", []), **named}
    return files.carry_out(options, check_mode)


def tree(top):
    return {
        str(path.relative_to(top)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in top.rglob("*")
    }


@pytest.fixture
def wanted(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/leaf").write_text("x")
    (tmp_path / "config").write_text("before\n")
    return {
        "directories": [place(tmp_path / "a/b", mode="0750")],
        "files": [
            file(tmp_path / "a/b/text", content="ä\n", mode="0640"),
            file(tmp_path / "config", content_b64=base64.b64encode(b"\0after").decode()),
            file(tmp_path / "a/b/token", secret="hush\n"),
        ],
        "absent": [tmp_path / "old/leaf", tmp_path / "never"],
        "emptied": [tmp_path / "old", tmp_path / "a"],
    }


def test_check_mode_names_the_changes_that_the_call_then_makes_and_a_second_call_makes_none(tmp_path, wanted):
    before = tree(tmp_path)
    preview = ask(check_mode=True, **wanted)
    assert tree(tmp_path) == before
    real = ask(**wanted)
    assert (preview["changed"], preview["paths"], preview["diff"]) == (True, real["paths"], real["diff"])
    found = tree(tmp_path)
    assert {name: oct(stat.S_IMODE(mode)) for name, (mode, _) in found.items()} == {
        "a": "0o755", "a/b": "0o750", "a/b/text": "0o640", "a/b/token": "0o600", "config": "0o644",
    }  # fmt: skip
    assert [found[name][1] for name in ("a/b/text", "a/b/token", "config")] == ["ä\n".encode(), b"hush\n", b"\0after"]
    assert real["kept"] == [str(tmp_path / "a")]
    again = ask(**wanted)
    assert (again["changed"], again["paths"], again["diff"]) == (False, [], [])
    assert tree(tmp_path) == found


def test_a_secret_is_in_no_difference(tmp_path):
    (tmp_path / "token").write_text("old-hush")
    result = ask(files=[file(tmp_path / "token", secret="new-hush")])
    assert result["changed"]
    assert "hush" not in str(result)


def test_a_secret_is_masked_in_what_the_module_answers(tmp_path, capsys):
    given = {
        "files": [{"path": str(tmp_path / "token"), "secret": "hush-hush", "owner": ME["owner"], "group": ME["group"]}]
    }
    with patch_module_args(given), pytest.raises(SystemExit):
        files.main()
    text = capsys.readouterr().out
    assert json.loads(text)["changed"] is True
    assert "hush-hush" not in text


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"files": [{"path": "/", "content": ""}]}, "not a regular file"),
        ({"files": [{"path": "relative", "content": ""}]}, "absolute"),
        ({"files": [{"path": "{top}/no/where", "content": ""}]}, "not a directory"),
        ({"files": [{"path": "{top}/link", "content": ""}]}, "symbolic link"),
        ({"files": [{"path": "{top}/x", "content_b64": "?"}]}, "not Base64"),
        ({"files": [{"path": "{top}/x", "content": "", "mode": "rwx"}]}, "not an octal mode"),
        ({"files": [{"path": "{top}/x", "content": "", "owner": "nobody-here"}]}, "there is no owner"),
        ({"directories": [{"path": "{top}/file"}]}, "not a directory"),
        ({"absent": ["/etc"]}, "not a thing to remove"),
        ({"absent": ["{top}/../x"]}, "shortest form"),
    ],
)
def test_what_is_refused_touches_nothing(tmp_path, bad, why):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    bad = json.loads(json.dumps(bad).replace("{top}", str(tmp_path)))
    options = {"directories": [place(tmp_path / "made")], "files": [], **bad}
    options["directories"] = [{**ME, **item} for item in options["directories"]]
    options["files"] = [{**file("/"), **item} for item in options["files"]]
    before = tree(tmp_path)
    with pytest.raises(ActionFailed, match=why):
        ask(**options)
    assert tree(tmp_path) == before


def test_an_owner_that_an_earlier_task_makes_is_no_failure_in_check_mode(tmp_path):
    assert ask(check_mode=True, directories=[place(tmp_path / "home", owner="not-made-yet")])["changed"]


def test_links_are_removed_and_not_what_they_point_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("mine")
    (tmp_path / "link").symlink_to("kept")
    ask(absent=[tmp_path / "link"])
    assert sorted(tree(tmp_path)) == ["kept", "kept/file"]
    (tmp_path / "link").symlink_to("kept")
    assert ask(emptied=[tmp_path / "link"])["changed"] is False
