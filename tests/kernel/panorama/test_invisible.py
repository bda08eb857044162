"""Kernel memory that no counter shows: put there in a known amount, it appears under its owner and goes with it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from osremed.core.reading import Missing, Value
from osremed.panorama import invisible
from osremed.panorama.layers import Progress
from osremed.sensors import alloctrace, kernelowners, pagescan, procfs
from osremed.sensors.bpf import features, perf

pytestmark = pytest.mark.kernel

MIB = 1 << 20
F_SETPIPE_SZ = 1031
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_RX_RING = 263, 5


@pytest.fixture(autouse=True)
def needs_bpf():
    found = kernelowners.kernel_holdings()
    if isinstance(found, Missing):
        pytest.skip(str(found))


def ours(kind):
    """(bytes, uncounted bytes) of what this process holds of a kind."""
    rows = [row for row in kernelowners.kernel_holdings().value if row.kind == kind and os.getpid() in row.pids]
    return sum(row.bytes for row in rows), sum(row.uncounted_bytes for row in rows)


def line(name):
    found = invisible.invisible(Progress("invisible", time.monotonic() + 30))
    return next((each for each in found.lines if each.name == name), None)


def residual():
    """What the counters leave over, as the balance computes it, read until two readings agree."""
    from osremed.panorama.collect import collect_panorama

    return collect_panorama(files=1, processes=1).balance.value.residual_bytes


def close(found, expected):
    return abs(found - expected) <= 0.05 * expected


def settles(holds, seen, within_s=30.0):
    """Waits until `holds()`; fails with what was `seen()` last."""
    give_up = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up, seen()
        time.sleep(0.1)


def test_a_packet_ring_is_found_with_its_owner_and_goes_when_it_is_closed():
    before = residual()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
        block, blocks = 1 << 16, 1024  # small blocks, so that they are pages and not vmalloc
        packets.setsockopt(
            SOL_PACKET, PACKET_RX_RING, struct.pack("=IIII", block, blocks, 2048, block // 2048 * blocks)
        )
        held, uncounted = ours(kernelowners.PACKET_RING)
        assert held == 64 * MIB
        assert uncounted == held
        told = line("packet rings")
        assert close(told.bytes.value, 64 * MIB)
        assert f"({os.getpid()})" in told.parts[0].name
        settles(lambda: abs(residual() - before - 64 * MIB) < 24 * MIB, lambda: (residual() - before) / MIB)
    assert ours(kernelowners.PACKET_RING) == (0, 0)


def test_an_unread_tcp_queue_is_found_with_its_owner():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * MIB)
        server.bind(("127.0.0.1", 0))
        server.listen()
        pairs = []
        try:
            before = residual()
            for _ in range(12):
                client = socket.create_connection(server.getsockname())
                accepted, _ = server.accept()
                pairs.append((client, accepted))
                client.setblocking(False)
                sent, deadline = 0, time.monotonic() + 5
                while time.monotonic() < deadline:
                    try:
                        sent += client.send(b"x" * MIB)
                    except BlockingIOError:
                        break
            assert ours(kernelowners.QUEUE)[0] > 32 * MIB
            # What was not acknowledged yet is in both queues; and others allocate and free meanwhile.
            settles(lambda: close(ours(kernelowners.QUEUE)[0], sockstat_bytes()), lambda: ours(kernelowners.QUEUE))
            uncounted = ours(kernelowners.QUEUE)[1]
            settles(
                lambda: abs(residual() - before - uncounted) <= 0.05 * uncounted + 16 * MIB,
                lambda: (uncounted / MIB, (residual() - before) / MIB),
            )
            assert f"({os.getpid()})" in line("socket queues").parts[0].name
        finally:
            for client, accepted in pairs:
                client.close()
                accepted.close()
    assert ours(kernelowners.QUEUE)[0] < MIB


XDP = """
__attribute__((section("xdp"), used)) int pass(void *context) { return 2; }
char LICENSE[] __attribute__((section("license"), used)) = "GPL";
"""
SEND = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20000):
    sender.sendto(b"x" * 1400, (sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def wire(tmp_path):
    """A veth pair into a network namespace, whose packets come out of a page pool: (namespace, our address)."""
    if not (shutil.which("clang") and shutil.which("ip")) or os.geteuid():
        pytest.skip("needs root, clang and ip")
    (tmp_path / "pass.c").write_text(XDP)
    words = ["clang", "-O2", "-target", "bpf", "-c", "pass.c", "-o", "pass.o"]
    subprocess.run(words, check=True, cwd=tmp_path)
    space, near, far, address = f"osr-pp-{os.getpid()}", f"pn{os.getpid()}"[:15], f"pf{os.getpid()}"[:15], "10.213.77.1"

    def ip(*words):
        subprocess.run(["ip", *words], check=True, cwd=tmp_path)

    ip("netns", "add", space)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        ip("addr", "add", f"{address}/30", "dev", near)
        ip("-n", space, "addr", "add", "10.213.77.2/30", "dev", far)
        ip("link", "set", near, "up")
        ip("-n", space, "link", "set", far, "up")
        ip("link", "set", "dev", near, "xdp", "obj", "pass.o", "sec", "xdp")
        yield space, address
    finally:
        ip("netns", "del", space)


def test_what_lies_in_a_page_pool_is_counted_there_and_not_in_the_queue_too(wire):
    space, address = wire
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * MIB)
        server.bind((address, 0))
        port = str(server.getsockname()[1])
        subprocess.run(["ip", "netns", "exec", space, sys.executable, "-c", SEND, address, port], check=True)
        settles(lambda: ours(kernelowners.QUEUE)[0] > 16 * MIB, lambda: ours(kernelowners.QUEUE))
        pools = pagescan.scan()
        if isinstance(pools, Missing) or sum(pools.value.pools.values()) < 8 * MIB:
            pytest.skip("packets of this kernel's veth come out of no page pool")
        held, uncounted = ours(kernelowners.QUEUE)
        assert uncounted < held // 8


def sockstat_bytes():
    with open("/proc/net/sockstat", encoding="ascii") as lines:
        tcp = next(line.split() for line in lines if line.startswith("TCP:"))
    return int(tcp[tcp.index("mem") + 1]) * procfs.PAGE_BYTES


def test_a_full_pipe_is_found_and_goes_when_it_is_read():
    reader, writer = os.pipe()
    try:
        size = fcntl.fcntl(writer, F_SETPIPE_SZ, MIB)
        os.set_blocking(writer, False)
        written = os.write(writer, b"x" * size)
        rows = [row for row in kernelowners.kernel_holdings().value if row.inode == os.fstat(reader).st_ino]
        assert [(row.kind, row.bytes, row.uncounted_bytes) for row in rows] == [(kernelowners.PIPE, size, size)]
        assert os.getpid() in rows[0].pids
        while written:
            written -= len(os.read(reader, MIB))
        left = [row for row in kernelowners.kernel_holdings().value if row.inode == os.fstat(reader).st_ino]
        assert sum(row.bytes for row in left) <= 2 * procfs.PAGE_BYTES  # two spare pages
    finally:
        os.close(reader)
        os.close(writer)


def test_pages_are_as_large_as_this_kernel_s(monkeypatch):
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        sizes = []
        for page_bytes in (procfs.PAGE_BYTES, 16 * procfs.PAGE_BYTES):  # as a kernel with pages of 64 KiB has them
            monkeypatch.setattr(kernelowners, "PAGE_BYTES", page_bytes)
            rows = [row for row in kernelowners.kernel_holdings().value if row.inode == os.fstat(reader).st_ino]
            sizes.append(rows[0].bytes)
        assert sizes == [procfs.PAGE_BYTES, 16 * procfs.PAGE_BYTES]
    finally:
        os.close(reader)
        os.close(writer)


def test_what_is_spliced_into_a_pipe_counts_as_page_cache_not_twice(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" * 65536)
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    with open(path, "rb") as file:
        moved = libc.splice(file.fileno(), None, writer, None, ctypes.c_size_t(65536), 0)
        if moved <= 0:
            pytest.skip("no splice here")
        row = next(row for row in kernelowners.kernel_holdings().value if row.inode == os.fstat(reader).st_ino)
        assert row.bytes >= moved
        assert row.uncounted_bytes == 0
    os.close(reader)
    os.close(writer)


def test_a_perf_ring_is_found():
    opened = perf.open_event(0, hz=1)
    if isinstance(opened, Missing):
        pytest.skip(str(opened))
    fd = opened.value
    with mmap.mmap(fd, (1 + 64) * procfs.PAGE_BYTES):
        assert ours(kernelowners.PERF_RING) == (65 * procfs.PAGE_BYTES,) * 2
    os.close(fd)
    assert ours(kernelowners.PERF_RING) == (0, 0)


def test_an_io_uring_is_found():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    parameters = ctypes.create_string_buffer(120)
    fd = libc.syscall(425, 4096, parameters)  # io_uring_setup
    if fd < 0:
        pytest.skip(f"no io_uring here: {os.strerror(ctypes.get_errno())}")
    held, uncounted = ours(kernelowners.IO_URING)
    os.close(fd)
    assert held == uncounted
    assert held >= 4096 * 64  # the submission entries alone
    assert ours(kernelowners.IO_URING) == (0, 0)


def test_a_thing_that_two_processes_have_open_counts_once_with_both():
    reader, writer = os.pipe()
    os.write(writer, b"x" * 10_000)
    child = os.fork()
    if not child:
        os.read(reader, 0)
        time.sleep(60)
        os._exit(0)
    try:
        rows = [row for row in kernelowners.kernel_holdings().value if row.inode == os.fstat(reader).st_ino]
        assert len(rows) == 1
        assert {os.getpid(), child} <= set(rows[0].pids)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_without_bpf_there_are_no_lines_and_a_gap(monkeypatch):
    monkeypatch.setattr(features, "BTF", "/nonexistent")
    progress = Progress("invisible", time.monotonic() + 30)
    found = invisible.invisible(progress)
    assert found.lines == ()
    assert [gap.missing.reason.value for gap in progress.gaps()] == ["unsupported"]
    assert isinstance(found.pinned_bytes, Value)


def test_a_trace_names_the_kernel_code_that_keeps_pages():
    """Packet rings that are set up while the trace runs, and kept, are named with the function that allocates them."""
    kept, stop = [], threading.Event()

    def set_up():
        while not stop.wait(0.2):
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            kept.append(packets)
            packets.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("=IIII", 1 << 16, 16, 2048, 16 * 32))

    thread = threading.Thread(target=set_up)
    thread.start()
    traced = alloctrace.trace_allocations(2.0)
    stop.set()
    thread.join()
    for packets in kept:
        packets.close()
    if isinstance(traced, Missing):
        pytest.skip(str(traced))
    ring = [keeper for keeper in traced.value.keepers if "packet_set_ring" in keeper.functions]
    assert 2 * MIB <= sum(keeper.bytes for keeper in ring) <= len(kept) * MIB
    assert ring[0].counted_as == ""
    assert ring[0].pid == os.getpid()
    freed = alloctrace.trace_allocations(0.3).value.keepers
    assert not any("packet_set_ring" in keeper.functions for keeper in freed)
