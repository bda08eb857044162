"""An inference server whose GPUs grow by 26 and 14 MiB a request: the alert names the line and the cause."""

from __future__ import annotations

import json

import pytest

from tests.kernel.timeline.conftest import MIB, PYTHONS, STORY, THE_LINE, say

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("python", PYTHONS[1:], ids=lambda each: each.split("/")[-3])
def test_growth_of_two_gpus_is_explained_by_the_line_that_asked_for_it(
    cuda, following, program, scenario, watch, python
):
    following().close()  # skips where there is no BPF
    servers = [program(python, "serve", cuda, size) for size in (26, 14)]
    pids = [pid for _, pid in servers]

    def grow(events):
        for gpu, (server, _) in enumerate(servers):
            taken = int(say(server, None))
            scenario.set(**{f"g{gpu}__vram_used": 1024 * MIB + taken})
        return len(events) >= 2

    scenario.set(gpus=2, **{f"g{gpu}__processes": f"{pid}:1000" for gpu, pid in enumerate(pids)})
    running = watch(growth_bytes=64 * MIB)
    running.wait_for_status(
        lambda found: {each["pid"] for each in found["calls"]["processes"]} >= set(pids), "both servers are followed"
    )
    events = {each["attributes"]["gpu"]: each["attributes"] for each in running.wait_for(grow, "the growth is told")}
    for gpu, size in ((0, 26), (1, 14)):
        chain = events[gpu]["chains"][0]
        assert chain["pid"] == pids[gpu]
        assert chain["line"] == f"{STORY}:{THE_LINE}"
        assert chain["family"] == "caching allocator"
        assert chain["cause"] == "inference-reserve"
        assert chain["signature"] == "caching allocator, segment of its own (k x 2 MiB)"
        assert chain["gaps"] == []
        place = chain["places"][0]
        assert place["function"] == "cudaMalloc"
        assert place["library"].endswith("/libc10_cuda.so")
        assert place["symbol"].endswith("CUDACachingAllocator6Native6mallocEm")
        assert set(place["sizes"]) == {size * MIB}
        functions = [line.split(" ")[0] for line in place["python"]]
        assert functions[:3] == [
            "ModelRunner.attention",
            "ModelRunner.execute_model",
            "context_decorator.<locals>.decorate_context",
        ]
        assert chain["seen_bytes"] >= events[gpu]["grown_bytes"] - size * MIB
        assert chain["explained"] > 0.9
        assert chain["runbook"] == "gpu-vram-growth"
        assert json.dumps(events[gpu])


@pytest.mark.parametrize("shown", ["", "GPU-00000000-0000-0000-0000-000000000001,0"])
def test_the_growth_of_one_gpu_is_not_explained_by_what_the_process_holds_on_another(
    cuda, following, program, scenario, watch, shown
):
    following().close()  # skips where there is no BPF
    environment = {"CUDA_VISIBLE_DEVICES": shown} if shown else {}
    device = 0 if shown else 1  # GPU 1, as the process counts
    server, pid = program(PYTHONS[-1], "devices", cuda, 26, device, 600, **environment)
    scenario.set(gpus=2, **{f"g{gpu}__processes": f"{pid}:1000" for gpu in range(2)})
    running = watch(growth_bytes=64 * MIB)
    running.wait_for_status(
        lambda found: pid in {each["pid"] for each in found["calls"]["processes"]}, "the server is followed"
    )

    def grow(events):
        scenario.set(g1__vram_used=1024 * MIB + int(say(server, None)))
        return events

    (event, *_) = running.wait_for(grow, "the growth is told")
    chain = event["attributes"]["chains"][0]
    assert event["attributes"]["gpu"] == 1
    assert [place["device"] for place in chain["places"]] == [device]
    assert set(chain["places"][0]["sizes"]) == {26 * MIB}
    assert chain["line"] == f"{STORY}:{THE_LINE}"
    assert chain["gaps"] == []
    assert chain["explained"] > 0.9
