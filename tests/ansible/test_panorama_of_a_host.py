"""`osremed panorama --host H`: the real verb, the real executor, the collection's module, the host's own collector."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from osremed.cli.main import main
from osremed.core.errors import ExitCode

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    path = tmp_path_factory.mktemp("lab") / "hosts.yml"
    command = [str(Path(sys.executable).parent / "osremed")]
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {
        "web-1": {**local, "osremed_command": command},
        "bare": {**local, "osremed_command": ["/nonexistent/osremed"]},
        "gone": {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_timeout": 3},
    }
    path.write_text(json.dumps({"all": {"hosts": hosts}}))
    return str(path)


@pytest.fixture
def panorama_of(lab, tmp_path, capsys):
    def ask(host, *words):
        where = ["--inventory", lab, "--collections", str(ROOT / "collections"), "--state", str(tmp_path / "state")]
        code = main(["panorama", "--host", host, *where, *words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return ask


def test_the_report_of_a_host_has_the_same_words_as_the_local_one(panorama_of):
    code, out, _ = panorama_of("web-1", "--files", "3", "--processes", "4", "--trace", "0s")
    assert code == ExitCode.OK
    assert out.startswith("web-1: Memory of node: ")
    for part in ("Balance", "Processes by heap", "Files by page cache", "cost: "):
        assert part in out


def test_the_document_of_a_host_has_what_others_rely_on(panorama_of):
    code, out, _ = panorama_of("web-1", "--files", "3", "--processes", "4", "--trace", "0s", "-o", "json")
    document = json.loads(out)
    assert code == ExitCode.OK
    assert document["host"] == "web-1"
    lines = [line["bytes"] for line in document["balance"]["lines"] if isinstance(line["bytes"], int)]
    assert sum(lines) == document["balance"]["total_bytes"]
    assert (len(document["files"]), len(document["processes"])) == (3, 4)
    assert {"containers", "heaps", "findings", "gaps"} <= set(document)


def test_its_page_names_the_host_and_not_this_one(panorama_of):
    code, out, _ = panorama_of("web-1", "--files", "1", "--processes", "1", "--trace", "0s", "-o", "html")
    assert code == ExitCode.OK
    assert out.startswith("<!doctype html>")
    assert '"host":"web-1"' in out


@pytest.mark.parametrize(
    ("host", "words", "expected", "told"),
    [
        ("elsewhere", [], ExitCode.NOT_FOUND, "not in the inventory"),
        ("gone", [], ExitCode.UNAVAILABLE, "unreachable"),
        ("bare", [], ExitCode.UNAVAILABLE, "/nonexistent/osremed"),
        ("web-1", ["--growth", "500ms"], ExitCode.BAD_INPUT, "whole seconds"),
        ("web-1", ["--heaps", "99"], ExitCode.BAD_INPUT, "out of range"),
    ],
)
def test_what_gives_no_report_says_why(panorama_of, host, words, expected, told):
    code, out, err = panorama_of(host, *words)
    assert (code, out) == (expected, "")
    assert told in err
