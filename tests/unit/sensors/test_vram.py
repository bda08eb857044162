"""GPU memory by process: what DRM drivers write, and what a fake of NVIDIA's driver says."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.demo.fakenvml import Scenario, build
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


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    try:
        return str(build(tmp_path_factory.mktemp("driver")))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_FAKE_NVML", str(tmp_path / "scenario"))
    return Scenario(tmp_path / "scenario")


def test_a_process_that_computes_and_draws_counts_once(fake_driver, scenario):
    scenario.set(gpus=1, g0__processes="7:1073741824 8:-1", g0__drawing="7:1073741824 9:4096")
    card = vram.nvidia_cards(fake_driver).value[0]
    held = {each.pid: each.used_bytes for each in card.processes.value}
    assert (held[7], held[9]) == (Value(1 << 30), Value(4096))
    assert isinstance(held[8], Missing)
    assert len(held) == 3


def test_a_gpu_that_is_lost_is_a_card_of_missing_figures_and_hides_no_other(fake_driver, scenario):
    scenario.set(gpus=2, g0__lost=1, g1__processes="7:4096")
    lost, other = vram.nvidia_cards(fake_driver).value
    assert lost.total_bytes.reason is Reason.GONE
    assert isinstance(lost.processes, Missing)
    assert other.processes.value[0].pid == 7


def test_without_library_or_driver_it_is_told_apart_from_a_driver_that_does_not_answer(fake_driver, scenario, tmp_path):
    absent = vram.nvidia_cards(str(tmp_path / "none.so"))
    assert absent.reason is Reason.UNSUPPORTED
    assert vram.no_driver(absent, str(tmp_path))
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)  # loaded, but its library is not where this process looks
    assert not vram.no_driver(absent, str(tmp_path))
    scenario.set(init=9)
    assert vram.no_driver(vram.nvidia_cards(fake_driver), str(tmp_path / "none"))
    scenario.set(init=18)
    assert not vram.no_driver(vram.nvidia_cards(fake_driver), str(tmp_path / "none"))


def test_pinned_memory_is_what_was_taken_less_what_was_given_back(tmp_path):
    (tmp_path / "vmstat").write_bytes(b"nr_foll_pin_acquired 70\nnr_foll_pin_released 60\n")
    assert vram.pinned_bytes(str(tmp_path)) == Value(10 * os.sysconf("SC_PAGE_SIZE"))
    (tmp_path / "vmstat").write_bytes(b"nr_free_pages 1\n")
    assert isinstance(vram.pinned_bytes(str(tmp_path)), Missing)
