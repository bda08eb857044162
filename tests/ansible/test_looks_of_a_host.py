"""`osremed hotspot at` and `osremed timeline gpus` with `--host`: the real verbs, executor, module and collectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from osremed.cli.main import main
from osremed.core.errors import ExitCode
from osremed.core.paths import host_paths
from osremed.hotspot.ring import RingWriter, ring_directory
from tests.unit.hotspot.made import START_NS, raw, segment

pytestmark = pytest.mark.ansible
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two hosts that are this one under a prefix: `web-1` has recorded 10 s, `bare` nothing."""
    folder = tmp_path_factory.mktemp("lab")
    osremed = str(Path(sys.executable).parent / "osremed")
    hosts = {
        name: {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "osremed_command": ["env", f"OSREMED_PREFIX={folder / name}", osremed],
        }
        for name in ("web-1", "bare")
    }
    made = segment(*(raw(at_ns=(5 + number) * 10**9) for number in range(4)))
    directory = ring_directory(host_paths(str(folder / "web-1")))
    Path(directory).mkdir(parents=True)
    ring = RingWriter(directory, max_bytes=1 << 30, max_age_s=86400.0)
    ring.append(made.start_ns, made.end_ns, made.tables, [made.records])
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    return str(folder / "hosts.yml")


@pytest.fixture
def ask(lab, tmp_path, capsys):
    def ask_(*words):
        where = ["--inventory", lab, "--collections", str(ROOT / "collections"), "--state", str(tmp_path / "state")]
        code = main([*words, *where])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return ask_


def test_the_newest_window_of_a_host_is_where_its_recording_ends(ask):
    code, out, err = ask("hotspot", "at", "last", "--window", "10s", "--host", "web-1", "-o", "json")
    assert code == ExitCode.OK, err
    document = json.loads(out)
    assert (document["host"], document["end_ns"]) == ("web-1", START_NS + 10 * 10**9)
    assert document["samples"] == sum(sum(row["samples"]) for row in document["heat"]) == 4


def test_people_read_what_the_host_itself_would_say(ask):
    code, out, _ = ask("hotspot", "at", "last", "--window", "10s", "--host", "web-1")
    assert code == ExitCode.OK
    assert out.startswith("web-1: ")
    assert "CPU, columns of 20 ms" in out


@pytest.mark.parametrize(
    ("words", "expected", "told"),
    [
        (["hotspot", "at", "last", "--host", "bare"], ExitCode.UNAVAILABLE, "nothing was recorded"),
        (["hotspot", "at", "last", "--host", "elsewhere"], ExitCode.NOT_FOUND, "not in the inventory"),
        (["hotspot", "at", "soon", "--host", "web-1"], ExitCode.BAD_INPUT, "not a moment"),
        (["hotspot", "at", "now", "--around", "e1", "--host", "web-1"], ExitCode.BAD_INPUT, "moment or --around"),
        (["hotspot", "at", "now", "--window", "20ms", "--host", "web-1"], ExitCode.BAD_INPUT, "whole seconds"),
        (["hotspot", "at", "now", "--html", "x", "--host", "web-1"], ExitCode.BAD_INPUT, "on its own host"),
    ],
)
def test_what_gives_no_window_says_why(ask, words, expected, told):
    code, out, err = ask(*words)
    assert (code, out) == (expected, "")
    assert told in err


def test_the_gpus_of_a_host_are_asked_there_and_their_absence_is_said(ask):
    code, out, _ = ask("timeline", "gpus", "--host", "bare", "-o", "json")
    document = json.loads(out)
    assert document["host"] == "bare"
    assert (code == ExitCode.OK) == ("gpus" in document["inventory"])
