"""GPU memory by process: what DRM drivers write, and a pynvml of the test's own."""

from __future__ import annotations

import contextlib
import os
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors import vram

AMDGPU = (
    b"pos:\t0\nflags:\t02100002\nmnt_id:\t26\nino:\t525\ndrm-driver:\tamdgpu\ndrm-client-id:\t27\ndrm-pdev:\t0000:03:00.0\n"
    b"drm-memory-vram:\t262144 KiB\ndrm-memory-gtt: \t2048 KiB\ndrm-resident-vram:\t131072 KiB\ndrm-engine-gfx:\t1 ns\n"
)


def test_resident_memory_is_taken_where_the_driver_tells_it_and_the_older_name_elsewhere():
    client = vram.parse_drm_fdinfo(AMDGPU, 9)
    assert (client.pid, client.driver, client.device, client.client_id) == (9, "amdgpu", "0000:03:00.0", 27)
    assert client.regions == {"vram": 128 << 20, "gtt": 2 << 20}
    assert client.device_bytes == 128 << 20


def test_another_descriptor_is_no_client():
    assert vram.parse_drm_fdinfo(b"pos:\t0\nflags:\t0100000\n", 1) is None


def test_a_size_in_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="size"):
        vram.parse_drm_fdinfo(b"drm-driver:\tx\ndrm-resident-vram:\t7 parsecs\n", 1)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data):
    with contextlib.suppress(ValueError):
        vram.parse_drm_fdinfo(b"drm-driver:\tx\n" + data, 1)


def test_descriptors_that_share_a_client_count_once(tmp_path):
    for pid in (5, 6):
        for kind in ("fd", "fdinfo"):
            (tmp_path / str(pid) / kind).mkdir(parents=True)
        os.symlink("/dev/dri/renderD128", tmp_path / str(pid) / "fd" / "3")
        os.symlink("/dev/null", tmp_path / str(pid) / "fd" / "4")
        (tmp_path / str(pid) / "fdinfo" / "3").write_bytes(AMDGPU)
    (tmp_path / "6" / "fdinfo" / "3").write_bytes(AMDGPU.replace(b"id:\t27", b"id:\t28"))
    (tmp_path / "5" / "fdinfo" / "4").write_bytes(AMDGPU)  # not of a GPU: never read
    clients, missing = vram.drm_clients([5, 6, 7], str(tmp_path))
    assert sorted((client.pid, client.client_id) for client in clients) == [(5, 27), (6, 28)]
    assert missing == []


class NVMLError(Exception):
    pass


def library(monkeypatch, compute, graphics, *, fails=False):
    def init():
        if fails:
            raise NVMLError("Driver Not Loaded")

    process = types.SimpleNamespace
    fake = types.SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=init, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [process(pid=p, usedGpuMemory=b) for p, b in compute],
        nvmlDeviceGetGraphicsRunningProcesses=lambda handle: [process(pid=p, usedGpuMemory=b) for p, b in graphics],
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", fake)


def test_a_process_that_computes_and_draws_counts_once(monkeypatch):
    library(monkeypatch, [(7, 1 << 30)], [(7, 1 << 30), (8, None)])
    rows = vram.nvml_processes().value
    assert [(row.gpu, row.pid) for row in rows] == [(0, 7), (0, 8)]
    assert rows[0].bytes == Value(1 << 30)
    assert isinstance(rows[1].bytes, Missing)


def test_without_library_or_driver_it_is_unsupported(monkeypatch):
    library(monkeypatch, [], [], fails=True)
    assert vram.nvml_processes().reason is Reason.UNSUPPORTED
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert vram.nvml_processes().reason is Reason.UNSUPPORTED


def test_pinned_memory_is_what_was_taken_less_what_was_given_back(tmp_path):
    (tmp_path / "vmstat").write_bytes(b"nr_foll_pin_acquired 70\nnr_foll_pin_released 60\n")
    assert vram.pinned_bytes(str(tmp_path)) == Value(10 * os.sysconf("SC_PAGE_SIZE"))
    (tmp_path / "vmstat").write_bytes(b"nr_free_pages 1\n")
    assert isinstance(vram.pinned_bytes(str(tmp_path)), Missing)
