"""Control groups of a captured host with cgroup v2: rows, names, members, and what removed groups left behind."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest

from osremed.core.errors import BadInput
from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.collect import collect_panorama
from osremed.panorama.containers import group_table
from osremed.panorama.kernel import roots_of
from osremed.panorama.layers import Progress
from osremed.panorama.scope import root_group
from osremed.sensors import cgroup
from tests.unit.panorama.conftest import FakeProc

MIB = 1 << 20
ID = "ab" * 32
POD = "/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice"
APP = f"{POD}/cri-containerd-{ID}.scope"


class Captured:
    """PREFIX/proc and PREFIX/sys/fs/cgroup."""

    def __init__(self, prefix):
        self.prefix = str(prefix)
        self.proc = os.path.join(self.prefix, "proc")
        self.put("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        self.group("/", usage=None, anon=0, file=0)
        self.put("sys/fs/cgroup/cgroup.controllers", "cpu memory\n")

    def put(self, path, text):
        target = os.path.join(self.prefix, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)

    def group(self, path, *, usage, anon, file, pids=(), dying=0, limit="max"):
        folder = f"sys/fs/cgroup{path.rstrip('/')}"
        if usage is not None:
            self.put(f"{folder}/memory.current", f"{usage * MIB}\n")
        stat = f"anon {anon * MIB}\nfile {file * MIB}\nshmem 0\nkernel {MIB}\nsock 4096\n"
        self.put(f"{folder}/memory.stat", stat)
        self.put(f"{folder}/memory.max", f"{limit}\n")
        self.put(f"{folder}/cgroup.procs", "".join(f"{pid}\n" for pid in pids))
        self.put(f"{folder}/cgroup.stat", f"nr_descendants 3\nnr_dying_descendants {dying}\n")

    def table(self):
        progress = Progress("containers", time.monotonic() + 20)
        top = root_group(self.proc)
        return group_table(top, 100, progress, roots_of(self.proc)), progress.gaps()


@pytest.fixture
def host(tmp_path):
    captured = Captured(tmp_path)
    captured.group("/kubepods.slice", usage=300, anon=200, file=90)
    captured.group(POD, usage=300, anon=200, file=90)
    captured.group(APP, usage=280, anon=200, file=70, limit=str(512 * MIB))
    captured.group(f"{APP}/inner", usage=100, anon=90, file=5, pids=(5, 6))
    captured.group("/system.slice", usage=50, anon=40, file=9)
    captured.group("/system.slice/nginx.service", usage=50, anon=40, file=9, pids=(7,))
    annotations = {
        "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "prod", "io.kubernetes.cri.image-name": "r/app:1",
    }  # fmt: skip
    state = f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"
    captured.put(state, json.dumps({"annotations": annotations}))
    return captured


def test_a_container_has_its_names_members_limit_and_parts(host):
    table, gaps = host.table()
    (row,) = [row for row in table.rows if row.kind == "container"]
    assert (row.name, row.pod, row.namespace, row.image, row.runtime) == (
        "app", "web-0", "prod", "r/app:1", "containerd",
    )  # fmt: skip
    assert (row.usage_bytes, row.anon_bytes, row.file_bytes) == (280 * MIB, Value(200 * MIB), Value(70 * MIB))
    assert (row.limit_bytes, row.processes) == (Value(512 * MIB), 2)
    assert row.pod_uid == "11111111-2222-3333-4444-555555555555"
    assert gaps == ()


def test_pods_slices_and_units_are_rows_and_what_is_inside_of_a_container_is_not(host):
    table, _ = host.table()
    kinds = {row.cgroup: row.kind for row in table.rows}
    assert kinds == {
        "/kubepods.slice": "slice", POD: "pod", APP: "container", "/system.slice": "slice",
        "/system.slice/nginx.service": "unit",
    }  # fmt: skip
    assert [row.usage_bytes for row in table.rows] == sorted((row.usage_bytes for row in table.rows), reverse=True)


def test_a_container_that_no_state_names_keeps_its_short_id_and_is_a_gap(host):
    os.unlink(f"{host.prefix}/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json")
    table, gaps = host.table()
    (row,) = [row for row in table.rows if row.kind == "container"]
    assert row.name == ID[:12]
    assert [gap.missing.reason for gap in gaps] == [Reason.NO_DATA]


def test_what_a_parent_without_processes_holds_beyond_its_children_was_left_by_removed_ones(host):
    host.group("/system.slice", usage=250, anon=40, file=209, dying=12)
    table, _ = host.table()
    (row,) = table.dying
    assert (row.parent, row.held_bytes, row.count) == ("/system.slice", 200 * MIB, Value(12))


@pytest.mark.parametrize("changes", [{"dying": 0}, {"dying": 12, "pids": (9,)}])
def test_without_removed_groups_or_with_processes_of_its_own_a_parent_is_not_accused(host, changes):
    host.group("/system.slice", usage=250, anon=40, file=209, **changes)
    assert host.table()[0].dying == ()


def test_a_malformed_figure_is_a_gap_and_the_other_groups_are_rows(host):
    host.put(f"sys/fs/cgroup{APP}/memory.stat", "anon many\n")
    table, gaps = host.table()
    assert APP not in [row.cgroup for row in table.rows]
    assert "/system.slice/nginx.service" in [row.cgroup for row in table.rows]
    assert gaps[0].missing.reason is Reason.MALFORMED


def test_without_a_memory_hierarchy_there_is_a_reason(tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text("")
    assert isinstance(root_group(str(tmp_path / "proc")), Missing)


def test_a_group_with_a_name_that_is_not_text_is_told_in_words_any_encoder_accepts(host):
    host.group("/system.slice/x\udcff.service", usage=30, anon=20, file=5, pids=(8,))
    host.group("/broken\udcff", usage=30, anon=20, file=5)
    host.put("sys/fs/cgroup/broken\udcff/memory.stat", "anon many\n")
    table, gaps = host.table()
    (row,) = [row for row in table.rows if row.name.startswith("x")]
    assert (row.cgroup, row.processes) == ("/system.slice/x\\xff.service", 1)
    assert json.dumps([gap.missing.as_json() for gap in gaps], ensure_ascii=False).encode("utf-8")
    assert "broken" in str(gaps[0].missing)


def test_living_groups_beyond_the_limit_are_a_gap_and_not_called_removed(host, monkeypatch):
    host.group("/system.slice", usage=250, anon=40, file=209, dying=12)
    for index in range(20):
        host.group(f"/system.slice/unit-{index}.service", usage=10, anon=10, file=0, pids=(100 + index,))
    monkeypatch.setattr(cgroup, "_MAX_GROUPS", 10)
    table, gaps = host.table()
    assert table.dying == ()
    assert any("more than 10 groups" in gap.missing.detail for gap in gaps)


def test_a_living_group_that_cannot_be_read_is_not_called_removed(host):
    host.group("/system.slice", usage=250, anon=40, file=209, dying=12)
    host.put("sys/fs/cgroup/system.slice/nginx.service/memory.stat", "anon many\n")
    table, gaps = host.table()
    assert (table.dying, len(gaps)) == ((), 1)


def test_groups_that_cannot_be_listed_are_a_gap_and_nothing_below_is_called_removed(host, monkeypatch):
    host.group("/system.slice", usage=250, anon=40, file=209, dying=12)
    listed = os.scandir

    def refused(path):
        if str(path).endswith("system.slice"):
            raise OSError(errno.EMFILE, "Too many open files", path)
        return listed(path)

    monkeypatch.setattr(cgroup.os, "scandir", refused)
    table, gaps = host.table()
    assert table.dying == ()
    assert [gap.missing.detail for gap in gaps] == ["Too many open files"]


@pytest.fixture
def limited(tmp_path):
    """A group of 64 GiB at most, and one in a group of 1,000 MiB whose others have 980; the host has 684 MiB left."""
    captured = Captured(tmp_path)
    FakeProc(tmp_path / "proc")
    captured.put("proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    rows = (("/big", 100, 64 << 30), ("/shared", 990, 1000 * MIB), ("/shared/mine", 10, 800 * MIB))
    for path, usage, limit in rows:
        captured.group(path, usage=usage, anon=usage, file=0, limit=str(limit))
        folder = f"sys/fs/cgroup{path}"
        with open(f"{captured.prefix}/{folder}/memory.stat", encoding="utf-8") as stat:
            captured.put(f"{folder}/memory.stat", stat.read() + "active_file 0\ninactive_file 0\n")
    return captured


@pytest.mark.parametrize(("path", "available"), [("/big", 700_000 << 10), ("/shared/mine", 10 * MIB)])
def test_a_group_has_no_more_left_than_the_groups_around_it_and_the_host(limited, path, available):
    assert collect_panorama(cgroup=path, proc_root=limited.proc).available_bytes == Value(available)


def test_the_top_group_of_version_2_is_refused_with_what_to_do_instead(limited):
    with pytest.raises(BadInput, match="leave the group out"):
        collect_panorama(cgroup="/", proc_root=limited.proc)
