"""A container that a real runtime started: its name from the runtime's state files, its memory, its files."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid

import pytest

from osremed.panorama.collect import collect_panorama
from osremed.panorama.sources import kernel_sources

pytestmark = pytest.mark.kernel
MIB = 1 << 20
HELD = 24 * MIB
_LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]  # the runtime's own are above a sandbox's


def podman(*words):
    command = ["podman", "--runtime", shutil.which("runc") or "/usr/sbin/runc", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """(id, name) of a container that keeps 24 MiB in its /dev/shm."""
    for needed in ("podman", "runc", "busybox"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed; tools/install_system test")
    root, name = tmp_path_factory.mktemp("rootfs"), f"osremed-{uuid.uuid4().hex[:8]}"
    for folder in ("bin", "proc", "sys", "dev", "etc", "tmp"):
        (root / folder).mkdir()
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
    script = f"/bin/busybox dd if=/dev/zero of=/dev/shm/held bs=1M count={HELD // MIB}; exec /bin/busybox sleep 600"
    started = podman(
        "run", "-d", "--name", name, "--network", "none", *_LIMITS, "--rootfs", str(root), "/bin/busybox",
        "sh", "-c", script,
    )  # fmt: skip
    try:
        if started.returncode:
            pytest.skip(f"no container starts here: {started.stderr.strip()[-200:]}")
        give_up = time.monotonic() + 60
        while "24+0 records out" not in podman("logs", name).stdout + podman("logs", name).stderr:
            assert time.monotonic() < give_up, "the container did not fill its memory"
            time.sleep(0.2)
        yield started.stdout.strip(), name
    finally:
        podman("rm", "-f", "-t", "0", name)


def test_a_real_container_has_its_name_runtime_and_memory(container):
    identity, name = container
    found = collect_panorama(files=0, processes=1000)
    rows = [row for row in found.containers if row.id == identity]
    assert [(row.name, row.runtime, row.kind) for row in rows] == [(name, "podman", "container")]
    assert HELD <= rows[0].usage_bytes < 2 * HELD
    assert rows[0].processes >= 1
    assert [row.name for row in found.processes if row.container == rows[0].cgroup] == ["busybox"]


def test_its_file_is_found_in_its_own_namespace_and_it_pays(container):
    identity, _ = container
    found = collect_panorama(files=2000, processes=1, sources=kernel_sources())
    if not found.page_cache:
        pytest.skip(f"no BPF here: {[str(gap.missing) for gap in found.gaps]}")
    held = [row for row in found.files if row.cached_bytes == HELD and row.path.endswith("/held")]
    assert len(held) == 1
    assert [each["group"].rpartition("-")[2] for each in held[0].charged_to.value] == [identity]
