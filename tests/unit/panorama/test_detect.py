"""Findings rest on what was read, tell growing from large, and advise only what would help."""

from __future__ import annotations

import dataclasses
import json

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.balance import KernelFigures, _with_parts
from osremed.panorama.detect import detect
from osremed.panorama.document import as_document
from osremed.panorama.growth import kept_key, measured
from osremed.panorama.history import Moment, Past, decode, encode, grew
from osremed.panorama.model import (
    MOST_GROUPS,
    Balance,
    BalanceLine,
    ContainerRow,
    Cost,
    DyingRow,
    FileRow,
    Gap,
    Grown,
    Growth,
    Layer,
    Panorama,
    Part,
    ProcessRow,
    Totals,
    VramRow,
)  # fmt: skip
from osremed.panorama.moment import Wide, widest
from osremed.runbook.expressions import condition_holds
from osremed.sensors.kernelmem import Segment

GIB, MIB = 1 << 30, 1 << 20
NONE = Missing(Reason.NO_DATA, "x")


def line(name, kind, count, parts=()):
    return BalanceLine(name, kind, Value(count), "s", parts=tuple(Part(*part) for part in parts))


def process(pid=7, *, heap=GIB, private=None, container=""):
    return ProcessRow(
        pid=pid, start_time_ticks=9, name="app", heap_bytes=heap, anon_bytes=heap, swap_bytes=0, file_bytes=Value(0),
        shmem_bytes=Value(0), cmdline=Value("app"), oom_score_adj=Value(0), cgroup=Value("/"), container=container,
        private_bytes=NONE if private is None else Value(private),
    )  # fmt: skip


def file(path="/data/blob", *, cached=3 * GIB, dirty=0, filesystem="ext4", open_by=(7,), seen_by=0, whole=True):
    return FileRow(
        path, seen_by, filesystem, cached, Value(dirty), Value(0), cached, False, tuple(open_by), "cachestat", whole
    )


def group(path, *, usage=GIB, anon=None, kind="unit", limit=NONE):
    return ContainerRow(
        name=path, runtime="systemd", kind=kind, id=path, cgroup=path, pod="", pod_uid="", namespace="", image="",
        usage_bytes=usage, anon_bytes=Value(usage if anon is None else anon), file_bytes=Value(0),
        shmem_bytes=Value(0), kernel_bytes=Value(0), sock_bytes=Value(0), limit_bytes=limit, processes=1,
    )  # fmt: skip


def panorama(*lines, **fields):
    used = sum(each.bytes.value for each in lines)
    lines = (*lines, line("unaccounted", "unaccounted", 0), line("free", "free", 10 * GIB - used))
    values = {
        "scope": "node", "total_bytes": Value(10 * GIB), "available_bytes": Value(GIB), "drift_bytes": Value(0),
        "swap_total_bytes": Value(0), "swap_used_bytes": Value(0), "balance": Value(Balance(10 * GIB, lines)),
        "page_cache_bytes": Value(4 * GIB), "processes": (), "files": (), "gaps": (), "layers": (),
        "totals": Totals(0, Value(0), 0, 0),
    }  # fmt: skip
    return Panorama(**{**values, **fields})


def ours(pid):
    return Cost(cpu_s=0.1, wall_s=0.1, peak_rss_bytes=1, pid=pid)


def growth(kind, key, before, after, seconds=8.0):
    return Growth(seconds, "two scans", (Grown(kind, "app (7)", key, before, after, seconds),))


def only(found):
    (each,) = detect(found)
    return each


def test_a_host_with_nothing_large_has_no_findings():
    assert detect(panorama(processes=(process(heap=GIB),), files=(file(cached=MIB),))) == ()


def test_without_a_total_nothing_can_be_called_large():
    assert detect(panorama(processes=(process(heap=9 * GIB),), total_bytes=NONE)) == ()


def test_a_process_that_grows_is_a_leak_and_its_service_would_be_restarted():
    found = panorama(
        processes=(process(container="/system.slice/app.service", private=GIB // 2),),
        growth=growth("process", "7/9", GIB, GIB + 80 * MIB),
    )
    each = only(found)
    assert (each.finding.name, each.kind) == ("process-leak", "growing")
    assert "10.0 MiB/s" in each.finding.summary
    assert (each.advice.action, each.advice.arguments) == ("service_restart", {"name": "app.service"})
    assert each.gain_bytes == Value(GIB // 2)


def test_a_growing_process_of_no_service_is_named_with_its_start_time_for_the_signal():
    found = panorama(processes=(process(),), growth=growth("process", "7/9", GIB, 2 * GIB))
    assert only(found).advice.arguments == {"pid": 7, "start_time_ticks": 9, "signal": "TERM"}


def test_a_users_service_is_not_restarted_as_the_hosts_service_of_that_name():
    path = "/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service"
    found = panorama(processes=(process(container=path),), growth=growth("process", "7/9", GIB, 2 * GIB))
    assert only(found).advice.action == "proc_signal"


def test_growth_seen_for_long_is_believed_more():
    short, long = (
        only(panorama(processes=(process(),), growth=growth("process", "7/9", MIB, 3 * GIB, seconds)))
        for seconds in (8.0, 3600.0)
    )
    assert long.finding.confidence > short.finding.confidence


def test_noise_is_not_growth():
    assert detect(panorama(processes=(process(),), growth=growth("process", "7/9", GIB, GIB + MIB))) == ()


def test_a_process_that_is_new_is_not_a_leak():
    assert detect(panorama(processes=(process(),), growth=growth("process", "7/9", 0, GIB))) == ()


SEEN = Growth(8.0, "two scans", (), frozenset({("process", "7/9")}))


@pytest.mark.parametrize(("measured_growth", "kind"), [
    (None, "unknown"), (SEEN, "stable"), (Growth(3600.0, "history", ()), "unknown"),
])  # fmt: skip
def test_a_large_process_is_stable_only_if_that_was_measured(measured_growth, kind):
    each = only(panorama(processes=(process(heap=4 * GIB),), growth=measured_growth))
    assert (each.finding.name, each.kind) == ("process-large", kind)
    assert ("did not grow" in each.finding.summary) is (kind == "stable")


def test_a_large_unit_without_a_limit_would_get_one_above_what_it_uses():
    unit = group("/system.slice/app.service", usage=5 * GIB)
    found = panorama(processes=(process(heap=4 * GIB, container=unit.cgroup),), containers=(unit,))
    advice = only(found).advice
    assert advice.action == "cgroup_limits"
    assert int(advice.arguments["memory_max"].rstrip("B")) > 5 * GIB


def test_the_innermost_growing_group_is_named_and_not_its_parents():
    groups = (group("/a.slice", kind="slice"), group("/a.slice/b.service"))
    rows = tuple(Grown("group", each.cgroup, each.cgroup, GIB, 2 * GIB, 8.0) for each in groups)
    each = only(panorama(containers=groups, growth=Growth(8.0, "two scans", rows)))
    assert (each.finding.name, each.advice.arguments["cgroup"]) == ("group-leak", "/a.slice/b.service")


@pytest.mark.parametrize("end", [".service", "-cri-containerd-" + "ab" * 60 + ".scope"])
def test_what_grows_in_the_history_is_found_among_the_rows_of_now(end):
    """Through the history's own format: keys of every length, kernel owners, and rates over the time they were seen."""
    path, cache = f"/kubepods.slice/pod{end}", "slab, unreclaimable"

    def at(step):
        size = (100 + step * 50) * MIB
        wide = Wide((), (group(path, usage=size),), (), {cache: (Part("kmalloc-64", size),)}, {})
        late = {"process": {"7/9": ("app (7)", size)}} if step > 15 else {}
        seen = Moment(step * 120 * 10**9, 10 * GIB, {}, {**widest(wide), **late})
        return decode(json.loads(json.dumps(encode(seen))))

    grown = grew(Past(tuple(at(step) for step in range(21)), (), 0))
    found = {each.finding.name: each for each in detect(panorama(
        line(cache, "kernel", GIB, [("kmalloc-64", GIB)]), processes=(process(),), containers=(group(path),),
        growth=grown,
    ))}  # fmt: skip
    assert set(found) == {"group-leak", "kernel-leak", "process-leak", "kernel-hog"}
    assert "in 2400 s (426.7 KiB/s)" in found["group-leak"].finding.summary
    assert "in 480 s (426.7 KiB/s)" in found["process-leak"].finding.summary
    assert found["process-leak"].finding.confidence < found["group-leak"].finding.confidence
    assert ("group", kept_key(path)) in grown.watched
    assert ("process", "7/9") not in grown.watched


def test_of_a_process_that_the_history_does_not_know_no_growth_is_denied():
    moments = tuple(
        Moment(step * 120 * 10**9, 10 * GIB, {}, {"process": {"1/1": ("init (1)", MIB)}}) for step in (0, 1)
    )
    each = only(panorama(processes=(process(heap=4 * GIB),), growth=grew(Past(moments, (), 0))))
    assert (each.finding.name, each.kind) == ("process-large", "unknown")


def test_a_cached_file_can_be_dropped_but_for_what_is_dirty():
    each = only(panorama(files=(file(dirty=GIB),)))
    assert (each.finding.name, each.kind, each.gain_bytes) == ("page-cache-hog", "reclaimable", Value(2 * GIB))
    assert (each.advice.action, each.advice.arguments) == ("page_cache", {"paths": ["/data/blob"]})


def test_a_tmpfs_file_is_never_advised_to_be_dropped_from_the_cache():
    held, left = (only(panorama(files=(file(filesystem="tmpfs", open_by=pids),))) for pids in ((7,), ()))
    assert (held.finding.name, left.finding.name) == ("shared-memory-hog", "shared-memory-left-behind")
    assert held.advice.action == left.advice.action == ""


def test_segments_that_nobody_is_attached_to_are_left_behind():
    segments = (Segment(-1, 5, GIB, GIB, 0, 0, 4000, 0), Segment(-1, 6, GIB, GIB, 0, 2, 4001, 0))
    each = only(panorama(segments=segments))
    assert each.held_bytes == GIB
    assert "ids 5;" in each.finding.summary


def test_reclaimable_slab_is_reclaimable_and_a_growing_cache_that_is_not_is_a_leak():
    dentries = line("slab, reclaimable", "kernel", 2 * GIB, [("dentry", 2 * GIB)])
    leak = line("slab, unreclaimable", "kernel", 100 * MIB, [("kmalloc-64", 100 * MIB)])
    grown = growth("kernel", "slab, unreclaimable/kmalloc-64", 10 * MIB, 100 * MIB)
    found = {each.finding.name: each for each in detect(panorama(dentries, leak, growth=grown))}
    assert set(found) == {"dentry-hog", "kernel-leak"}
    assert found["dentry-hog"].kind == "reclaimable"
    assert found["kernel-leak"].kind == "growing"


def test_removed_groups_are_reclaimed_from_their_parent_and_the_root_cannot_be():
    below = (DyingRow("/a.slice", GIB, Value(40)), DyingRow("/", GIB // 2, NONE))
    first, second = detect(panorama(dying=below))
    assert first.advice.action == "cgroup_reclaim"
    assert first.advice.arguments == {"cgroup": "/a.slice", "bytes": str(GIB)}
    assert "40 removed groups" in first.finding.summary
    assert second.advice.action == ""


def test_queued_packets_idle_huge_pages_and_page_tables_are_named():
    huge = line("huge pages", "other", 2 * GIB, [("in use", GIB), ("idle", GIB)])
    tables = line("page tables", "kernel", GIB)
    names = {each.finding.name for each in detect(panorama(huge, tables, sockets={"TCP": GIB, "UDP": 0}))}
    assert names == {"socket-queue", "huge-pages-idle", "page-table-hog"}


def test_memory_in_no_counter_is_a_finding_that_names_what_was_not_readable():
    lines = (
        line("unaccounted", "unaccounted", GIB),
        BalanceLine("per-CPU data", "kernel", Missing(Reason.UNSUPPORTED, "m"), "s"),
    )
    each = only(panorama(balance=Value(Balance(10 * GIB, lines))))
    assert each.finding.name == "kernel-unaccounted"
    assert "per-CPU data" in each.finding.summary


def test_the_most_memory_comes_first():
    found = detect(panorama(processes=(process(heap=3 * GIB),), files=(file(cached=5 * GIB),)))
    assert [each.held_bytes for each in found] == [5 * GIB, 3 * GIB]


def test_two_scans_tell_what_grew_and_a_row_below_the_limit_before_is_not_called_new():
    before = panorama(processes=(process(7, heap=GIB),), totals=Totals(2, Value(0), 0, 0))
    after = panorama(processes=(process(7, heap=2 * GIB), process(8)), totals=Totals(2, Value(0), 0, 0))
    rows = measured(before, after, 8.0).rows
    assert [(row.kind, row.key, row.bytes) for row in rows] == [("process", "7/9", GIB)]
    complete = dataclasses.replace(before, totals=Totals(1, Value(0), 0, 0))
    assert {row.key for row in measured(complete, after, 8.0).rows} == {"7/9", "8/9"}


def grown_between(before, after):
    return [(row.kind, row.key, row.bytes) for row in measured(before, after, 8.0).rows]


def test_a_group_that_enters_a_full_table_did_not_grow_from_nothing():
    rows = tuple(group(f"/g{index}") for index in range(MOST_GROUPS))
    after = panorama(containers=(*rows[1:], group("/other")))
    assert grown_between(panorama(containers=rows), after) == []
    assert grown_between(panorama(containers=rows[1:]), after) == [("group", "/other", GIB)]
    cut_off = panorama(containers=rows[1:], layers=(Layer("containers", 1.0, 99, False),))
    assert grown_between(cut_off, after) == []


def test_a_slab_cache_that_enters_the_largest_did_not_grow_from_nothing():
    def slab(*caches):
        parts = Value(tuple(Part(name, mib * MIB) for name, mib in caches))
        whole = line("slab, unreclaimable", "kernel", 4 * GIB)
        return panorama(_with_parts(whole, KernelFigures(slab_unreclaimable=parts)))

    many = [(f"c{index}", 100 - index) for index in range(40)]
    risen = [(name, mib + 3 * (name == "c24")) for name, mib in many]
    assert grown_between(slab(*many), slab(*risen)) == []
    none = panorama(line("slab, unreclaimable", "kernel", 4 * GIB))
    assert grown_between(none, slab(*many)) == []


def test_the_last_part_of_a_line_grows_too_where_it_is_not_the_rest():
    before, after = (panorama(line("vmalloc", "kernel", GIB, [("a", GIB - part), ("b", part)])) for part in (0, MIB))
    assert ("kernel", "vmalloc/b", MIB) in grown_between(before, after)
    assert ("kernel", "vmalloc/new", MIB) in grown_between(before, panorama(line("vmalloc", "kernel", GIB, [
        ("a", GIB - MIB), ("new", MIB)])))  # fmt: skip


def test_a_line_that_was_not_read_before_did_not_grow_from_nothing():
    unread = panorama(balance=Value(Balance(10 * GIB, (BalanceLine("per-CPU data", "kernel", NONE, "s"),))))
    read = panorama(balance=Value(Balance(10 * GIB, (line("per-CPU data", "kernel", GIB),))))
    assert grown_between(unread, read) == []


def test_device_memory_that_was_not_told_before_did_not_grow_from_nothing():
    def held(reading):
        return panorama(vram=(VramRow("GPU-1", 7, 9, "app", "", reading, "NVML"),))

    assert grown_between(held(NONE), held(Value(GIB))) == []
    assert grown_between(panorama(gaps=(Gap("gpus", NONE, 1),)), held(Value(GIB))) == []
    assert grown_between(panorama(), held(Value(GIB))) == [("vram", "GPU-1/7/9", GIB)]


def test_growth_of_nothing_is_nothing():
    found = panorama(processes=(process(),), files=(file(),), containers=(group("/a"),))
    assert measured(found, found, 8.0).rows == ()


def test_a_group_does_not_grow_by_the_files_it_reads():
    before, after = (panorama(containers=(group("/a", usage=usage, anon=GIB),)) for usage in (GIB, 4 * GIB))
    assert measured(before, after, 8.0).rows == ()


def test_runbook_expressions_can_ask_for_findings():
    found = panorama(files=(file(),))
    document = as_document(dataclasses.replace(found, findings=detect(found)))
    names = {"panorama": document}
    assert condition_holds("'page-cache-hog' in (panorama.findings | map(attribute='name') | list)", names)
    first = "(panorama.findings | selectattr('kind', 'equalto', 'reclaimable') | first)"
    assert condition_holds(f"{first}.gain_bytes == {3 * GIB} and {first}.action == 'page_cache'", names)


def test_the_look_never_accuses_itself():
    grew = growth("process", "7/9", GIB, 3 * GIB)
    found = panorama(line("anonymous memory", "anon", 4 * GIB), processes=(process(7, heap=3 * GIB),), growth=grew)
    assert "process-leak" in [each.finding.name for each in detect(found)]
    assert "process-leak" not in [each.finding.name for each in detect(dataclasses.replace(found, cost=ours(7)))]


@pytest.mark.parametrize("row", [file(seen_by=7), file("(ext4 of /) (inode 1, no name in memory)")])
def test_a_file_that_no_path_of_this_host_leads_to_is_named_and_not_dropped(row):
    each = only(panorama(files=(row,)))
    assert (each.finding.name, each.advice.action) == ("page-cache-hog", "")
    assert "no path of this host" in each.advice.how


def test_a_file_whose_holders_were_not_all_asked_is_never_called_left_behind():
    row = file("/dev/shm/blob", filesystem="tmpfs", open_by=(), cached=GIB // 2)
    assert only(panorama(files=(row,))).finding.name == "shared-memory-left-behind"
    assert detect(panorama(files=(dataclasses.replace(row, open_by_whole=False),))) == ()
    large = only(panorama(files=(dataclasses.replace(row, open_by_whole=False, cached_bytes=3 * GIB),)))
    assert large.finding.name == "shared-memory-hog"
    assert "not known" in large.finding.summary
