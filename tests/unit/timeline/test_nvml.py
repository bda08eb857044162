"""Our binding of NVML says what NVIDIA's own says, on the same library."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

OURS = """
import json
from osremed.sensors.nvml import Nvml, NvmlError, snapshot
from osremed.timeline.model import snapshot_as_json, snapshot_from_json
nvml = Nvml()
found = []
for index in range(nvml.count()):
    device = nvml.device(index)
    seen = snapshot(nvml, nvml.identity(index, device), device)
    assert snapshot_from_json(snapshot_as_json(seen)) == seen
    found.append(snapshot_as_json(seen))
print(json.dumps(found))
"""

COUNTED = """
import json
from osremed.sensors.nvml import Nvml, snapshot
class Counted(Nvml):
    asked = []
    def code(self, name, *arguments):
        self.asked.append(name)
        return super().code(name, *arguments)
nvml = Counted()
device = nvml.device(0)
seen = []
for _ in range(2):
    nvml.asked.clear()
    seen.append((snapshot(nvml, nvml.identity(0, device), device), list(nvml.asked)))
(first, asked), (second, again) = seen
assert first == second
print(json.dumps(sorted(set(asked) - set(again))))
"""

THEIRS = """
import json
import pynvml as n
n.nvmlInit()
found = []
for index in range(n.nvmlDeviceGetCount()):
    d = n.nvmlDeviceGetHandleByIndex(index)
    memory = n.nvmlDeviceGetMemoryInfo(d, version=n.nvmlMemory_v2)
    use = n.nvmlDeviceGetUtilizationRates(d)
    rows = n.nvmlDeviceGetRemappedRows(d)
    fields = n.nvmlDeviceGetFieldValues(d, [38, 52, 59, 230])
    found.append({
        "uuid": n.nvmlDeviceGetUUID(d), "name": n.nvmlDeviceGetName(d), "bus": n.nvmlDeviceGetPciInfo(d).bus,
        "vram_total_bytes": memory.total, "vram_used_bytes": memory.used, "vram_free_bytes": memory.free,
        "sm_util_percent": use.gpu, "memory_util_percent": use.memory,
        "temperature_celsius": n.nvmlDeviceGetTemperatureV(d, 0),
        "temperature_margin_celsius": n.nvmlDeviceGetMarginTemperature(d),
        "power_milliwatts": n.nvmlDeviceGetPowerUsage(d),
        "power_limit_milliwatts": n.nvmlDeviceGetEnforcedPowerLimit(d),
        "sm_clock_mhz": n.nvmlDeviceGetClockInfo(d, n.NVML_CLOCK_SM),
        "sm_clock_max_mhz": n.nvmlDeviceGetMaxClockInfo(d, n.NVML_CLOCK_SM),
        "clock_reasons_mask": n.nvmlDeviceGetCurrentClocksEventReasons(d),
        "ecc_corrected_count": n.nvmlDeviceGetTotalEccErrors(d, 0, 1),
        "ecc_uncorrected_count": n.nvmlDeviceGetTotalEccErrors(d, 1, 1),
        "remapped_corrected_rows": rows[0], "remapped_uncorrected_rows": rows[1],
        "remap_pending": rows[2], "remap_failed": rows[3],
        "pcie_generation": n.nvmlDeviceGetCurrPcieLinkGeneration(d), "pcie_width": n.nvmlDeviceGetCurrPcieLinkWidth(d),
        "pcie_width_max": n.nvmlDeviceGetMaxPcieLinkWidth(d), "pcie_replay_count": n.nvmlDeviceGetPcieReplayCounter(d),
        "nvlink_active_links": sum(n.nvmlDeviceGetNvLinkState(d, link) for link in range(18)),
        "mig_enabled": n.nvmlDeviceGetMigMode(d)[0],
        "nvlink_crc_count": fields[0].value.ullVal, "nvlink_replay_count": fields[1].value.ullVal,
        "nvlink_recovery_count": fields[2].value.ullVal, "recovery_action": fields[3].value.uiVal,
        "processes": [
            {"pid": p.pid, "used": p.usedGpuMemory, "gi": p.gpuInstanceId}
            for p in n.nvmlDeviceGetComputeRunningProcesses_v3(d)
        ],
    })
print(json.dumps(found))
"""


def run(environment, code):
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_metric_is_what_nvidias_binding_reads(environment, scenario):
    pytest.importorskip("pynvml")
    scenario.set(gpus=2, all__processes="7:1048576 8:-1 9:5:3:2", g1__vram_used=77, g1__temp=88, g1__field230=4)
    scenario.set(g0__rows_pending=1, g0__ecc_dbe=5, g0__ecc_sbe=6, g1__nvlinks_down=2, g0__field38=1 << 40, g1__mig=1)
    ours, theirs = run(environment, OURS), run(environment, THEIRS)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["uuid"], mine["name"]) == (other["uuid"], other["name"])
        assert mine["bdf"] == f"0000:{other['bus']:02x}:00"
        assert mine["metrics"] == {name: other[name] for name in mine["metrics"]}
        assert [each["pid"] for each in mine["processes"]] == [each["pid"] for each in other["processes"]] == [7, 8, 9]
    assert ours[0]["processes"][0] == {"pid": 7, "used_bytes": 1048576, "mig": None}
    assert ours[0]["processes"][1]["used_bytes"]["missing"] == "no_data"
    assert ours[0]["processes"][2]["mig"] == [3, 2]


def test_what_a_gpu_is_built_with_is_asked_once_and_everything_else_each_time(environment, scenario):
    scenario.set(gpus=1)
    assert run(environment, COUNTED) == ["nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetMaxPcieLinkWidth"]


def test_an_older_driver_is_read_by_its_older_calls(environment, scenario):
    scenario.set(error__nvmlDeviceGetMemoryInfo_v2=13, error__nvmlDeviceGetTemperatureV=25, all__temp=61)
    (gpu,) = run(environment, OURS)
    assert gpu["metrics"]["vram_used_bytes"] == 1073741824
    assert gpu["metrics"]["temperature_celsius"] == 61


def test_what_the_driver_refuses_is_missing_with_its_code_and_never_zero(environment, scenario):
    scenario.set(error__nvmlDeviceGetPowerUsage=4, error__nvmlDeviceGetRemappedRows=3, all__field230_error=3)
    scenario.set(error__nvmlDeviceGetComputeRunningProcesses_v3=999)
    (gpu,) = run(environment, OURS)
    metrics = gpu["metrics"]
    assert (metrics["power_milliwatts"]["missing"], metrics["remap_pending"]["missing"]) == ("denied", "unsupported")
    assert metrics["recovery_action"]["detail"] == "NVML 3: not supported"
    assert gpu["processes"]["detail"] == "NVML 999: unknown error"


def test_the_gpus_verb_shows_what_is_there_and_names_what_is_not(environment, scenario):
    scenario.set(gpus=4, g1__lost=1, g2__hang_ms=60_000, all__processes=f"{os.getpid()}:1048576")
    command = [sys.executable, "-m", "osremed", "timeline", "gpus"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7
    assert "GPU 1 UNREADABLE: gone: NVML 15: GPU is lost" in done.stdout
    assert "GPU 2 HANGS: process" in done.stdout
    assert f"[{os.getpid()}] 1.0 MiB" in done.stdout


def test_without_a_library_the_gap_is_named(environment, tmp_path):
    environment["LD_LIBRARY_PATH"] = str(tmp_path)
    command = [sys.executable, "-m", "osremed", "timeline", "gpus"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7
    assert "library not found" in done.stdout
