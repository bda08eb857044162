"""The control plane's backup, as its timer runs it: whole archives of a tree that is written to meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BACKUP = ROOT / "collections/ansible_collections/osremed/host/roles/control_plane/files/backup.py"


def back_up(state, into, keep=7):
    """What it ended with, and the archive that it named."""
    argv = [sys.executable, "-I", str(BACKUP), str(state), str(into), str(keep)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    return ended, ended.stdout.strip()


def held(archive):
    """Names in the archive and what they hold: bytes, the target of a link, None for a directory."""
    with tarfile.open(archive) as tar:
        return {
            entry.name: entry.linkname if entry.issym() else tar.extractfile(entry).read() if entry.isfile() else None
            for entry in tar.getmembers()
        }


@pytest.fixture
def state(tmp_path):
    state = tmp_path / "control"
    (state / "runs/one").mkdir(parents=True)
    (state / "runs/one/journal.jsonl").write_bytes(b"{}\n")
    (state / "live").symlink_to("runs")
    return state


def test_an_archive_has_files_directories_links_and_a_copy_of_the_database(state, tmp_path):
    (state / "prefect/ui").mkdir(parents=True)
    (state / "prefect/ui/page.html").write_bytes(b"page")
    with sqlite3.connect(state / "prefect/prefect.db") as database:
        database.execute("create table flow (name)")
        database.execute("insert into flow values ('near-oom')")
    database.close()
    os.mkfifo(state / "pipe")
    (state / "runs/one/.journal.jsonl.7.tmp").write_bytes(b"half")
    into = state / "backups"
    for _each in range(2):
        ended, archive = back_up(state, into)
        assert ended.returncode == 0, ended.stderr
    found = held(archive)
    copied = tmp_path / "copied.db"
    copied.write_bytes(found.pop("control/prefect/prefect.db"))
    with sqlite3.connect(copied) as database:
        assert database.execute("select name from flow").fetchall() == [("near-oom",)]
    database.close()
    assert found == {
        "control": None, "control/live": "runs", "control/prefect": None, "control/runs": None,
        "control/runs/one": None, "control/runs/one/journal.jsonl": b"{}\n",
    }  # fmt: skip
    assert Path(archive).stat().st_mode & 0o777 == 0o600


def disturb(state, stop):
    """What a control plane does all day: files renamed into place, whole runs made and removed, a log cut short."""
    while not stop.is_set():
        for number in range(40):
            run = state / f"runs/r{number}"
            run.mkdir(exist_ok=True)
            for name in ("run.json", "evidence.json"):
                (run / f".{name}.1.tmp").write_bytes(b"x" * 5000)
                (run / f".{name}.1.tmp").rename(run / name)
            (state / "log").write_bytes(b"y" * 3_000_000)
            if number % 2:
                shutil.rmtree(run)
            os.truncate(state / "log", 10)


def test_archives_of_a_tree_that_changes_meanwhile_are_whole(state, tmp_path):
    stop = threading.Event()
    disturber = threading.Thread(target=disturb, args=(state, stop))
    disturber.start()
    try:
        for number in range(20):
            ended, archive = back_up(state, tmp_path / f"into{number}")
            assert ended.returncode == 0, ended.stderr
            found = held(archive)
            assert found["control/runs/one/journal.jsonl"] == b"{}\n"
            assert not [name for name in found if name.endswith(".tmp")]
            assert set(found.get("control/log", b"")) <= set(b"y\0"), "the log holds nothing else"
    finally:
        stop.set()
        disturber.join()


def test_a_state_directory_that_is_not_there_makes_no_archive(tmp_path):
    ended, _archive = back_up(tmp_path / "nowhere", tmp_path / "into")
    assert ended.returncode != 0
    assert "nowhere" in ended.stderr
    assert os.listdir(tmp_path / "into") == []


def test_the_youngest_archives_stay(state, tmp_path):
    into = tmp_path / "into"
    into.mkdir()
    for day in (1, 2, 3):
        (into / f"control-2020010{day}T000000Z.tar.gz").write_bytes(b"")
    (into / "notes").write_bytes(b"")
    ended, archive = back_up(state, into, keep=2)
    assert ended.returncode == 0, ended.stderr
    assert sorted(os.listdir(into)) == ["control-20200103T000000Z.tar.gz", Path(archive).name, "notes"]


def test_to_keep_none_is_refused_and_nothing_is_made(state, tmp_path):
    ended, _archive = back_up(state, tmp_path / "into", keep=0)
    assert ended.returncode != 0
    assert "at least one archive has to stay" in ended.stderr
    assert not (tmp_path / "into").exists()
