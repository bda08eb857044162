"""Page cache by file, against files of known size: closed, deleted, nameless, hidden ones; and without BPF."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama import cache
from osremed.panorama.cache_model import DELETED, DEVICE, MEMFD, SYSV, TMPFS
from osremed.panorama.collect import collect_panorama
from osremed.panorama.invisible import pool_lines
from osremed.panorama.layers import Progress
from osremed.panorama.sources import page_cache_document
from osremed.sensors import cgroup, pagecache, pagescan, procfs, residency
from osremed.sensors.bpf import features, libbpf

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[3]
MIB = 1 << 20
SCAN = pagescan.scan


@pytest.fixture(autouse=True)
def needs_bpf():
    """Every walk here needs what a walk needs; only its absence is a reason not to test."""
    found = pagecache.walk(most_files=1)
    if isinstance(found, Missing):
        pytest.skip(str(found))


@pytest.fixture
def on_disk():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield directory


def look(**more):
    progress = Progress("files", time.monotonic() + 60)
    found = cache.page_cache(procfs.pids().value, progress, **more)
    return found, progress


def write(path, mib):
    with open(path, "wb") as file:
        file.writelines(os.urandom(1024) * 1024 for _ in range(mib))
        file.flush()
        os.fsync(file.fileno())


def cached_of(path):
    return residency.residency_of_path(path, follow=path.startswith("/proc/")).value.cached_bytes


def look_at(path, mib, opened="", **more):
    """A look at all, its progress, the row of a file that was just written, and its bytes in memory after it by
    cachestat(2). Nobody reads the file, so pages of it can only go meanwhile: where DAMON pages out what looks cold, as
    some virtual machines are set up, a folio is gone in a second. `opened`: where to open it if not at its path."""
    before = cached_of(opened or path)
    found, progress = look(**more)
    row, after = row_of(found, path), cached_of(opened or path)
    assert mib * MIB / 2 <= before <= mib * MIB
    assert after <= row.cached_bytes <= before
    return found, progress, row, after


def row_of(found, path):
    rows = [row for row in found.files if row.path == path]
    assert len(rows) == 1, (path, rows)
    return rows[0]


def run_python(code, *arguments, before=(), **options):
    """A child that runs `code` with this tree on its path; its last line of output as JSON."""
    done = subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, **options,
    )  # fmt: skip
    assert done.returncode in (0, 77), done.stderr
    if done.returncode == 77:
        pytest.skip(done.stdout.strip() or "not possible here")
    return json.loads(done.stdout.splitlines()[-1])


# --- the sum ---------------------------------------------------------------------------------------------------------

CHURN = """
import os, sys
number = 0
while True:
    path = f"{sys.argv[1]}/{number % 500}"
    if os.path.exists(path):
        os.unlink(path)
    with open(path, "wb") as file:
        file.write(b"x" * 20000)
    number += 1
    if number == 500:
        print("churning", flush=True)
"""


def test_the_sum_over_all_files_is_what_the_kernel_counts_while_files_come_and_go(on_disk):
    child = subprocess.Popen([sys.executable, "-c", CHURN, on_disk], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "churning\n"
        for _ in range(5):
            found, _ = look(pages=False)
            distance = abs(found.coverage.value - 1)
            print(cache.statement(found))
            assert found.method == cache.BPF
            assert distance < 0.005 + found.drift_bytes / found.expected_bytes.value
    finally:
        child.kill()
        child.wait(timeout=10)
        child.stdout.close()


def test_every_file_is_as_cachestat_says(on_disk):
    """More than 10,000 files of several sizes, quiet: each as cachestat(2) counts it."""
    for number in range(10_500):
        with open(f"{on_disk}/{number}", "wb") as file:
            file.write(b"x" * (1 + number % 7 * 4096))
    os.sync()

    def counted():
        rows = ((entry.stat().st_ino, residency.residency_of_path(entry.path).value) for entry in os.scandir(on_disk))
        return {inode: found.cached_bytes for inode, found in rows}

    before = counted()
    walked = pagecache.walk(most_files=10_000_000).value
    after = counted()
    assert walked.lost_files == 0
    device = pagecache.device_of(os.stat(on_disk).st_dev)
    seen = {file.inode: file.cached_bytes for file in walked.files if file.device == device}
    still = {inode: held for inode, held in before.items() if after[inode] == held and held}
    assert len(still) > 0.5 * len(before), "so much is taken from the page cache meanwhile that nothing is proven"
    assert {inode: seen.get(inode) for inode in still} == still


def test_files_beyond_the_limit_are_summed_up_and_nothing_is_lost(on_disk):
    for number in range(300):
        with open(f"{on_disk}/{number}", "wb") as file:
            file.write(b"x" * 4096)
    walked = pagecache.walk(most_files=100).value
    assert len(walked.files) <= 100
    small = sum(block.small_bytes for block in walked.super_blocks)
    assert sum(file.cached_bytes for file in walked.files) + small == walked.cached_bytes
    assert len(walked.files) + sum(block.small_files for block in walked.super_blocks) == walked.cached_files


# --- one file --------------------------------------------------------------------------------------------------------


def test_a_file_that_was_read_and_closed_has_its_place_and_goes_when_it_is_dropped(on_disk):
    path = f"{on_disk}/read-and-closed"
    write(path, 48)
    found, _, row, _ = look_at(path, 48)
    assert (row.open_by, row.deleted, row.type) == ((), False, "file")
    assert row.dirty_bytes == Value(0)
    assert "page_cache" in row.frees
    larger = [other for other in found.files if other.cached_bytes > row.cached_bytes]
    assert found.files[len(larger)].cached_bytes == row.cached_bytes
    os.unlink(path)
    again, _ = look(pages=False)
    assert path not in {row.path for row in again.files}


def test_a_deleted_file_that_is_open_is_found_with_its_holder(on_disk):
    path = f"{on_disk}/deleted"
    write(path, 8)
    with open(path, "rb") as file:
        os.unlink(path)
        _, _, row, _ = look_at(path, 8, opened=f"/proc/self/fd/{file.fileno()}", pages=False)
        assert (row.type, row.deleted, row.open_by) == (DELETED, True, (os.getpid(),))
        assert str(os.getpid()) in row.frees


def test_what_was_written_and_not_yet_stored_is_dirty(on_disk):
    """Others may store it at any moment (sync is for all): written again until cachestat says it stayed dirty."""
    deadline = time.monotonic() + 60
    with open(f"{on_disk}/dirty", "wb") as file:
        while True:
            os.pwrite(file.fileno(), b"x" * (4 * MIB), 0)
            row = row_of(look()[0], file.name)
            if residency.residency_of_path(file.name).value.dirty_bytes == Value(4 * MIB):
                break
            assert time.monotonic() < deadline, "never dirty for long enough to look"
    assert row.dirty_bytes == Value(4 * MIB)
    assert row.open_by == (os.getpid(),)
    assert "writing it back" in row.frees


def test_a_memfd_and_a_tmpfs_file_are_found():
    fd = os.memfd_create("osremed-test-memfd")
    os.write(fd, b"x" * (6 * MIB))
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(b"x" * (5 * MIB))
        file.flush()
        found, _ = look()
        memfd, shared = row_of(found, "/memfd:osremed-test-memfd"), row_of(found, file.name)
    assert (memfd.type, memfd.cached_bytes, memfd.open_by) == (MEMFD, 6 * MIB, (os.getpid(),))
    assert (shared.type, shared.cached_bytes, shared.open_by) == (TMPFS, 5 * MIB, (os.getpid(),))
    assert shared.dirty_bytes == Value(0)
    assert "swap" in shared.frees
    os.close(fd)
    assert "/memfd:osremed-test-memfd" not in {row.path for row in look(pages=False)[0].files}


def test_a_system_v_segment_nobody_is_attached_to_is_found():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = (ctypes.c_void_p,)
    segment = libc.shmget(0, 4 * MIB, 0o600 | 0o1000)
    assert segment >= 0
    try:
        address = libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, 4 * MIB)
        row = next(row for row in look(pages=False)[0].files if row.type == SYSV and row.inode == segment)
        assert (row.cached_bytes, row.open_by) == (4 * MIB, (os.getpid(),))
        libc.shmdt(address)
        row = next(row for row in look(pages=False)[0].files if row.type == SYSV and row.inode == segment)
        assert row.open_by == ()
        assert row.frees == f"ipcrm -m {segment}"
    finally:
        libc.shmctl(segment, 0, None)


def test_the_cache_of_a_block_device_is_named():
    rows = [row for row in look(pages=False)[0].files if row.type == DEVICE]
    if not rows:
        pytest.skip("no block device has cached pages here")
    assert all(row.path.startswith("/dev/") for row in rows)


LOOK = """
import json, os, subprocess, sys, time
from osremed.panorama import cache
from osremed.panorama.collect import collect_panorama
from osremed.panorama.layers import Progress
from osremed.sensors import procfs
def look():
    progress = Progress("files", time.monotonic() + 30)
    found = cache.page_cache(procfs.pids().value, progress, pages=False)
    return found, progress
"""

HIDDEN = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "private", sys.argv[1]], check=True)
with open(f"{sys.argv[1]}/inside", "wb") as file:
    file.write(b"x" * (3 << 20))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_file_of_a_private_mount_namespace_is_found_as_its_owner_sees_it(on_disk):
    child = subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", HIDDEN, on_disk],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        row = row_of(look(pages=False)[0], f"{on_disk}/inside")
        assert row.path_of_pid == child.pid
        assert (row.type, row.cached_bytes, row.open_by) == (TMPFS, 3 * MIB, ())
    finally:
        child.stdin.close()
        child.wait(timeout=10)
        child.stdout.close()


SHADOWED = """
import subprocess, sys
base = sys.argv[1]
subprocess.run(["mount", "--bind", f"{base}/inside", f"{base}/there"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "private", f"{base}/own"], check=True)
held = [open(f"{base}/{name}", "wb+") for name in ("there/blob", "own/blob")]
for file in held:
    file.write(b"x" * (3 << 20))
    file.flush()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_file_of_a_container_is_never_taken_for_the_host_s_of_the_same_path(on_disk):
    for name in ("inside", "there", "own"):
        os.mkdir(f"{on_disk}/{name}")
    with open(f"{on_disk}/there/blob", "wb") as file:
        file.write(b"the host's own")
    child = subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", SHADOWED, on_disk],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        found = collect_panorama(files=5000, processes=1)
        places = {row.path: row.path_of_pid for row in found.files if child.pid in row.open_by}
        assert places[f"{on_disk}/inside/blob"] == 0
        assert places[f"{on_disk}/own/blob"] == child.pid
        assert f"{on_disk}/there/blob" not in places
    finally:
        child.stdin.close()
        child.wait(timeout=10)
        child.stdout.close()


OVERLAY = (
    LOOK
    + """
base = sys.argv[1]
for name in ("lower", "upper", "work", "merged"):
    os.mkdir(f"{base}/{name}")
with open(f"{base}/lower/below", "wb") as file:
    file.write(b"x" * (4 << 20))
options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, f"{base}/merged"]).returncode:
    print("no overlay file system here")
    sys.exit(77)
with open(f"{base}/merged/above", "wb") as file:
    file.write(b"x" * (2 << 20))
held = [open(f"{base}/merged/{name}", "rb") for name in ("below", "above")]
held[0].read()
from osremed.sensors import residency
def cached():
    return [residency.residency_of_path(f"{base}/{name}").value.cached_bytes for name in ("lower/below", "upper/above")]
before = cached()
found, _ = look()
after = cached()
rows = {row.path: row for row in found.files if row.path.startswith(base)}
print(json.dumps({path: [row.cached_bytes, row.filesystem == "overlay", row.open_by == (os.getpid(),), row.also_seen_as]
                  for path, row in rows.items()} | {"pid": os.getpid(), "before": before, "after": after}))
"""
)


def test_an_overlay_s_files_are_found_where_they_really_lie_with_who_uses_them(on_disk):
    rows = run_python(OVERLAY, on_disk, before=("unshare", "--mount"))
    pid, before, after = (rows.pop(name) for name in ("pid", "before", "after"))
    paths = [f"{on_disk}/lower/below", f"{on_disk}/upper/above"]
    cached = [rows[path].pop(0) for path in paths]
    assert rows == {
        paths[0]: [False, True, f"{on_disk}/merged/below (pid {pid})"],
        paths[1]: [False, True, f"{on_disk}/merged/above (pid {pid})"],
    }
    for least, seen, most, mib in zip(after, cached, before, (4, 2), strict=True):
        assert least <= seen <= most <= mib * MIB <= 2 * most


# --- who pays --------------------------------------------------------------------------------------------------------


def test_the_group_that_brought_a_file_in_pays_for_it(on_disk):
    hierarchy = cgroup.memory_hierarchy()
    if isinstance(hierarchy, Missing):
        pytest.skip(f"no memory controller: {hierarchy}")
    group = cgroup.create(hierarchy.value, f"/osremed-page-cache-test-{os.getpid()}", 256 * MIB)
    path = f"{on_disk}/paid-for"
    code = f"""
        import os
        with open({f"{group.directory}/cgroup.procs"!r}, "w") as procs:
            procs.write(str(os.getpid()))
        with open({path!r}, "wb") as file:
            file.write(b"x" * (16 << 20))
            os.fsync(file.fileno())
        print(0)
    """
    try:
        run_python(code)
        before = cgroup.stat(group).value["file"]
        found, _, row, still = look_at(path, 16)
        after = cgroup.stat(group).value["file"]
        paid = {each["group"]: each["bytes"] for each in row.charged_to.value}
        assert set(paid) == {group.path}
        assert still <= paid[group.path] <= row.cached_bytes  # who pays is looked up after the pages were counted
        assert 0.95 * after <= found.groups.value[group.path]["file"] <= 1.05 * before
    finally:
        os.unlink(path)
        cgroup.remove(group)


def test_every_page_has_one_class_and_the_sums_are_the_kernel_s():
    scanned = pagescan.scan()
    if isinstance(scanned, Missing):
        pytest.skip(str(scanned))
    meminfo = procfs.meminfo().value
    classes = scanned.value.classes
    ranges = procfs.read_parsed("/proc/iomem", pagescan.parse_ram).value
    present = sum(count for _, count in ranges) * procfs.PAGE_BYTES
    assert sum(classes.values()) == present
    for name, field in (("page cache", ("Cached", "Buffers")), ("slab", ("Slab",)), ("anonymous", ("AnonPages",))):
        counted = sum(meminfo[each] for each in field)
        assert abs(classes[name] - counted) < 0.05 * counted + 32 * MIB, (name, classes[name], counted)


def test_a_sample_of_pages_comes_near_the_whole():
    whole, sample = pagescan.scan(), pagescan.scan(most_pages=500_000)
    if isinstance(whole, Missing):
        pytest.skip(str(whole))
    assert sample.value.every > 1
    expected = whole.value.classes["page cache"]
    assert abs(sample.value.classes["page cache"] - expected) < 0.1 * expected + 16 * MIB


def test_the_document_says_when_its_figures_are_those_of_a_sample(monkeypatch):
    if isinstance(whole := pagescan.scan(), Missing):
        pytest.skip(str(whole))
    for most_pages, method in ((64 << 20, "BPF page scan"), (500_000, "sample")):
        monkeypatch.setattr(pagescan, "scan", functools.partial(SCAN, most_pages=most_pages))
        found, _ = look()
        told = page_cache_document(found)["page_scan"]
        assert told["lost_bytes"] == 0
        assert (told["every"] > 1) is (method == "sample")
        (line,) = pool_lines(Value({"eth0": 1}), told["every"])
        assert method in line.method


# --- without BPF, and in the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", ["btf", "libbpf", "privilege"])
def test_without_bpf_open_files_are_counted_and_the_gap_is_named(on_disk, monkeypatch, absent):
    path = f"{on_disk}/open"
    write(path, 4)
    if absent == "btf":
        monkeypatch.setattr(features, "BTF", "/nonexistent")
    elif absent == "libbpf":
        monkeypatch.setattr(libbpf, "NAME", "libbpf-is-not-here.so.1")
        monkeypatch.setattr(libbpf, "_loaded", libbpf._Loaded())
    else:
        monkeypatch.setattr(features, "_may_load", lambda: False)
    with open(path, "rb"):
        found, progress, row, _ = look_at(path, 4)
    assert found.method == cache.OPEN_ONLY
    assert row.open_by == (os.getpid(),)
    assert 0 < found.coverage.value < 1
    assert cache.OPEN_ONLY in cache.statement(found)
    assert any(gap.missing.reason.value in ("unsupported", "denied") for gap in progress.gaps())


NOT_ROOT = (
    LOOK
    + """
os.setgid(65534); os.setuid(65534)
found, progress = look()
print(json.dumps([found.method, len(progress.gaps()) > 0]))
"""
)


def test_an_ordinary_user_gets_what_is_open_to_him_and_the_gaps():
    assert run_python(NOT_ROOT) == [cache.OPEN_ONLY, True]


HANGING = (
    LOOK
    + """
import ctypes
directory = sys.argv[1]
try:
    server = os.open("/dev/fuse", os.O_RDWR)  # a server that never answers
except OSError as error:
    print(f"no FUSE here: {error}")
    sys.exit(77)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hangs", directory.encode(), b"fuse", 0, options):
    print("no FUSE mount here")
    sys.exit(77)
held = os.open(directory, os.O_PATH)
from osremed.sensors.bpf import features
began = time.monotonic()
with_bpf, _ = look()
features.BTF = "/nonexistent"
without, _ = look()
print(json.dumps([with_bpf.method, without.method, time.monotonic() - began < 50]))
sys.stdout.flush()
os._exit(0)
"""
)


def test_a_mount_whose_server_does_not_answer_holds_nothing_up(on_disk):
    assert run_python(HANGING, on_disk, before=("unshare", "--mount")) == [cache.BPF, cache.OPEN_ONLY, True]


def test_a_walk_that_is_given_up_says_so():
    whole = pagecache.walk().value
    given_up = pagecache.walk(give_up=lambda: True)
    if whole.inodes > 65_536:  # else one slice was enough
        assert given_up.reason is Reason.TIMED_OUT
    scanned = pagescan.scan(give_up=lambda: True)
    assert scanned.reason in (Reason.TIMED_OUT, Reason.UNSUPPORTED, Reason.DENIED)


@pytest.mark.parametrize("at", ["/fd", "/maps"])
def test_without_time_to_ask_all_who_has_a_file_open_is_not_known(on_disk, at):
    class Late(Progress):
        def expired(self, where):
            self.out_of_time = self.out_of_time or where.endswith(at)
            return super().expired(where)

    write(f"{on_disk}/blob", 2)
    found = cache.by_bpf(procfs.pids().value, Late("files", time.monotonic() + 60), pages=False)
    assert not row_of(found, f"{on_disk}/blob").open_by_whole
    assert row_of(look(pages=False)[0], f"{on_disk}/blob").open_by_whole


def test_processes_that_end_meanwhile_are_no_gap(on_disk):
    child = subprocess.Popen(["sleep", "60"])
    pids = [*procfs.pids().value, child.pid]
    child.kill()
    child.wait(timeout=10)
    progress = Progress("files", time.monotonic() + 60)
    cache.page_cache(pids, progress, pages=False)
    assert not any(str(child.pid) in gap.missing.source for gap in progress.gaps())


MANY = (
    LOOK
    + """
found, _ = look()
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
print(json.dumps([found.files_found, len(found.files), int(peak)]))
"""
)


def test_a_hundred_thousand_cached_files_are_walked_with_bounded_memory(on_disk):
    for number in range(100_000):
        fd = os.open(f"{on_disk}/{number}", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x")
        os.close(fd)
    files, rows, peak_kib = run_python(MANY)
    assert files >= 100_000
    assert rows <= cache.MOST_ROWS
    assert peak_kib < 150 * 1024


FEW_FILES = """
import json, os, resource, sys
from osremed.panorama.ask import Ask, look
told = []
for most in range(8, 20):
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        try:
            os._exit(0 if look(Ask(trace_s=0.0)).gaps else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    told.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(told))
"""


def test_a_process_that_may_open_hardly_any_files_reports_with_gaps_and_no_error():
    assert run_python(FEW_FILES) == [0] * 12
