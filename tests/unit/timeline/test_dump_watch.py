"""Flight-recorder dumps that appear while the watch runs: the event comes by itself, once; hostile files do no harm."""

from __future__ import annotations

import json
import os
import pickle

from osremed.timeline.dumpwatch import judge, listing
from osremed.timeline.rankreports import dump_reports
from tests.unit.timeline.test_ranks import START_NS, STEP_NS, WORLD, entry

CONFIG = {name: {"name": name, "desc": desc, "ranks": str(list(ranks))} for (name, desc), ranks in WORLD.items()}


def put(directory, *, stops=-1, slow=-1, steps=40, here=range(4), name="nccl_trace_rank_"):
    """Dumps of four ranks, those `here`. `stops` enters ten steps and no more; the others wait in the eleventh."""
    for rank in here:
        entries = []
        for seq in range(1, (10 if rank == stops else 11 if stops >= 0 else steps) + 1):
            at_ns = START_NS + seq * STEP_NS + (STEP_NS // 4 if rank == slow else rank * 1000)
            entries.append(entry(("0", "default_pg"), seq, at_ns, done=stops < 0 or seq <= 10))
        document = {"version": "2.10", "pg_config": CONFIG, "entries": entries}
        (directory / f"{name}{rank}").write_bytes(pickle.dumps(document))


def reports(directory):
    return dump_reports(judge(str(directory), listing(str(directory), os.stat(directory).st_mtime)))


def test_dumps_of_a_job_that_hangs_are_an_event_that_names_the_rank_that_stopped(tmp_path, watch):
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    running = watch(dumps=str(dumps), calls_per_s=0.0)
    running.wait_for_status(lambda found: found, "the watch runs")
    put(dumps, stops=2)
    events = running.wait_for(lambda found: found, "the hang is told")
    facts = events[0]["attributes"]
    assert events[0]["name"] == "gpu.hang"
    assert [each["rank"] for each in facts["suspects"]] == [2]
    assert facts["suspects"][0]["side"] == "cpu"
    assert facts["ranks"] == [0, 1, 2, 3]
    assert facts["source"] == "dumps"
    before_ns = running.status()["updated_ns"]
    running.wait_for_status(lambda found: found["updated_ns"] > before_ns + 1_000_000_000, "it goes on")
    assert len(running.events()) == 1, "told once"


def test_a_slow_rank_in_dumps_is_a_report_and_a_job_that_is_well_is_none(tmp_path):
    put(tmp_path, slow=3)
    (report,) = reports(tmp_path)
    assert (report.name, report.attributes["slow_rank"]) == ("gpu.slow_rank", 3)
    assert json.dumps(report.attributes)
    put(tmp_path)
    assert reports(tmp_path) == []


def test_the_ranks_of_other_hosts_are_a_gap_and_never_called_dead(tmp_path):
    put(tmp_path, stops=1, here=(0, 1))
    (report,) = reports(tmp_path)
    assert [(each["rank"], each["side"]) for each in report.attributes["suspects"]] == [(1, "cpu")]
    assert "ranks 2, 3: other hosts" in report.attributes["gaps"][0]


def test_a_job_that_waits_for_another_host_is_told_and_no_rank_of_it_accused(tmp_path):
    put(tmp_path, stops=3, here=(0, 1))
    (report,) = reports(tmp_path)
    assert report.name == "gpu.hang"
    assert report.attributes["suspects"] == []
    assert "rank 0, 1 waits for ranks that left no dump here" in report.attributes["why"]
    assert json.dumps(report.attributes)


def test_dumps_of_two_jobs_in_one_directory_are_not_taken_for_one(tmp_path):
    put(tmp_path, stops=3, here=(0, 1, 2), name="one_rank_")
    put(tmp_path, steps=5, here=(1,), name="two_rank_")
    assert reports(tmp_path) == []
    (gap,) = judge(str(tmp_path), listing(str(tmp_path), os.stat(tmp_path).st_mtime))["gaps"]
    assert "two_rank_1: a second dump of rank 1" in gap


def test_what_is_no_dump_is_a_gap_and_neither_links_nor_pipes_nor_old_files_are_opened(tmp_path):
    put(tmp_path, stops=0)
    (tmp_path / "nccl_trace_rank_7").write_bytes(pickle.dumps(os.system))
    (tmp_path / "nccl_trace_rank_8").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "nccl_trace_rank_9")
    (tmp_path / "nccl_trace_rank_6").write_text("old")
    os.utime(tmp_path / "nccl_trace_rank_6", (0, 0))
    (tmp_path / "a b_rank_5").write_text("another name")
    names = [name for name, _, _ in listing(str(tmp_path), os.stat(tmp_path).st_mtime)]
    assert names == [f"nccl_trace_rank_{rank}" for rank in (0, 1, 2, 3, 7)]
    (report,) = reports(tmp_path)
    assert [each["rank"] for each in report.attributes["suspects"]] == [0]
    assert len(report.attributes["gaps"]) == 1
    assert "rank_7" in report.attributes["gaps"][0]
