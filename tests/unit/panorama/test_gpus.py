"""GPU memory: by process and container, beside RAM and never in it, and a finding when it grows."""

from __future__ import annotations

import json
import os

import pytest

from osremed.core.reading import Missing, Value
from osremed.demo.fakenvml import Scenario, build
from osremed.panorama.collect import Sources, collect_panorama
from osremed.panorama.detect import detect
from osremed.panorama.document import as_document
from osremed.panorama.gpus import gpu_memory
from osremed.panorama.growth import measured
from osremed.panorama.page import page
from osremed.panorama.read_back import panorama_of
from osremed.panorama.render import render
from osremed.sensors import vram

GIB, MIB = 1 << 30, 1 << 20
CONTAINER = "/docker/" + "0123456789abcdef" * 4
DRM = (
    b"drm-driver:\tamdgpu\ndrm-client-id:\t27\ndrm-pdev:\t0000:03:00.0\n"
    b"drm-resident-vram:\t2048 KiB\ndrm-resident-gtt:\t8 KiB\n"
)


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    try:
        return str(build(tmp_path_factory.mktemp("driver")))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def scenario(fake_driver, tmp_path, monkeypatch):
    monkeypatch.setenv("OSREMED_FAKE_NVML", str(tmp_path / "scenario"))
    real = vram.nvidia_cards
    monkeypatch.setattr(vram, "nvidia_cards", lambda: real(fake_driver))
    state = Scenario(tmp_path / "scenario")
    state.set(gpus=1, g0__vram_total=80 * GIB, g0__vram_used=9 * GIB, g0__processes=f"10:{8 * GIB} 4000000:{MIB}")
    return state


@pytest.fixture
def host(proc):
    proc.process(10, name="train")
    proc._write("10/cgroup", f"4:memory:{CONTAINER}\n")
    return proc


def look(proc):
    sources = Sources(gpus=lambda progress, pids: gpu_memory(pids, progress, proc.root))
    return collect_panorama(proc_root=proc.root, sources=sources)


def test_each_process_is_named_with_its_container_and_what_it_holds(host, scenario):
    found = look(host)
    first, foreign = found.vram
    assert (first.pid, first.name, first.container, first.bytes) == (10, "train", CONTAINER, Value(8 * GIB))
    assert (foreign.pid, foreign.name, foreign.container) == (4000000, "", "")
    assert found.gpus[0].total_bytes == Value(80 * GIB)
    assert found.gpus[0].unnamed_bytes == Value(GIB - MIB)


def test_gpu_memory_is_in_no_line_of_the_balance(host, scenario):
    balance = look(host).balance
    scenario.set(g0__vram_used=79 * GIB, g0__processes=f"10:{79 * GIB}")
    assert look(host).balance == balance


def test_a_drm_client_counts_what_lies_on_the_device(host, scenario):
    scenario.set(init=9)
    os.symlink("/dev/dri/renderD128", os.path.join(host.root, "10", "fd", "3"))
    host._write("10/fdinfo/3", DRM.decode())
    found = look(host)
    assert [(row.gpu, row.bytes, row.source) for row in found.vram] == [("0000:03:00.0", Value(2 * MIB), "DRM fdinfo")]
    assert found.vram[0].regions == {"vram": 2 * MIB, "gtt": 8 << 10}
    assert not [gap for gap in found.gaps if gap.layer == "gpus"]  # no NVIDIA driver is no gap


def test_a_driver_that_does_not_answer_is_a_gap(host, scenario):
    scenario.set(g0__lost=1)
    found = look(host)
    assert any("GPU is lost" in gap.missing.detail for gap in found.gaps)
    assert isinstance(found.gpus[0].used_bytes, Missing)


def grown(host, scenario, by_bytes, seconds):
    before = look(host)
    scenario.set(g0__vram_used=9 * GIB + by_bytes, g0__processes=f"10:{8 * GIB + by_bytes}")
    after = look(host)
    return after.__class__(**{
        **{name: getattr(after, name) for name in after.__dataclass_fields__},
        "growth": measured(before, after, seconds),
    })  # fmt: skip


def test_gpu_memory_that_grows_is_a_finding_with_who_and_how_fast(host, scenario):
    found = [each for each in detect(grown(host, scenario, GIB, 8.0)) if each.finding.name == "vram-growth"]
    assert [each.kind for each in found] == ["growing"]
    assert "train (10)" in found[0].finding.summary
    assert "128.0 MiB/s" in found[0].finding.summary
    assert found[0].finding.evidence == ("panorama.vram[0]", "panorama.growth")
    assert (found[0].advice.action, found[0].advice.arguments["pid"]) == ("proc_signal", 10)
    assert found[0].held_bytes == 9 * GIB


@pytest.mark.parametrize("by_bytes", [0, 32 * MIB, -GIB])
def test_noise_and_shrinking_are_none(host, scenario, by_bytes):
    assert "vram-growth" not in [each.finding.name for each in detect(grown(host, scenario, by_bytes, 8.0))]


def test_the_document_text_and_page_show_it_and_it_is_read_back(host, scenario):
    found = look(host)
    document = json.loads(json.dumps(as_document(found)))
    assert document["vram"][0]["name"] == "train"
    assert panorama_of(document).vram == found.vram
    text = render(found)
    assert "GPU memory (a pool of its own" in text
    assert "train (10)" in text
    assert '"vram":[{' in page(document)
