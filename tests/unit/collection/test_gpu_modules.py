"""What the GPU modules understand of the driver's and the schedulers' words, and what they refuse. A GPU that anybody
uses, or of which that is not known, is never reset."""

from __future__ import annotations

import json

import pytest
from ansible_collections.osremed.host.plugins.module_utils import _gpu
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed
from ansible_collections.osremed.host.plugins.modules import gpu_app_limits, gpu_drain


def gpu(**facts):
    return {
        "uuid": "GPU-1",
        "bdf": "0000:01:00.0",
        "index": 0,
        "processes": [],
        "metrics": {"recovery_action": 1},
        **facts,
    }


MISSING = {"missing": "no_data", "source": "nvml", "detail": ""}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "not among the GPUs that answer (2 do not)"),
        (gpu(processes=[{"pid": 7, "name": "tenant"}]), "in use by tenant[7]"),
        (gpu(processes=MISSING), "who uses it is not known"),
        (gpu(processes=None), "who uses it is not known"),
        (gpu(metrics={"recovery_action": 0}), "(nothing)"),
        (gpu(metrics={"recovery_action": 2}), "it asks for action 2"),
        (gpu(metrics={"recovery_action": MISSING}), "what it asks for is not known"),
        (gpu(metrics={}), "what it asks for is not known"),
    ],
)
def test_a_gpu_that_must_not_be_reset_is_refused_with_the_reason(found, said):
    document = {"gpus": [], "unreadable": {"0": MISSING}, "hung": {"1": {}}}
    assert said in _gpu.why_untouchable(found, document, True)


@pytest.mark.parametrize("action", [1, 4, 6])
def test_one_that_nobody_uses_and_the_driver_wants_reset_may_be(action):
    assert _gpu.why_untouchable(gpu(metrics={"recovery_action": action}), {}, True) == ""
    assert _gpu.why_untouchable(gpu(metrics={"recovery_action": 0}), {}, False) == ""
    assert _gpu.why_untouchable(gpu(processes=[{"pid": 1}]), {}, False) != ""


@pytest.mark.parametrize(
    ("state", "schedulable", "busy"),
    [
        ("IDLE", True, False),
        ("MIXED", True, True),
        ("IDLE+DRAIN", False, False),
        ("ALLOCATED+DRAIN", False, True),
        ("DOWN*+DRAIN", False, False),
        ("IDLE+COMPLETING+DRAIN", False, True),
    ],
)
def test_the_state_of_a_slurm_node_is_understood(state, schedulable, busy):
    found = gpu_drain.parse_slurm(f"NodeName=n1 Arch=x86_64 State={state} ThreadsPerCore=2 Reason=a State=b")
    assert (found["schedulable"], found["busy"], found["state"]) == (schedulable, busy, state)


def test_words_that_are_not_understood_are_refused():
    with pytest.raises(ActionFailed, match="nothing that is understood"):
        gpu_drain.parse_slurm("slurm_load_node error")
    for text in ("", "[]", "{}", '{"spec": 3}'):
        with pytest.raises(ActionFailed, match="nothing that is understood"):
            gpu_drain.parse_kubernetes(text)
    assert gpu_drain.parse_kubernetes(json.dumps({"spec": {}}))["schedulable"]
    assert not gpu_drain.parse_kubernetes(json.dumps({"spec": {"unschedulable": True}}))["schedulable"]


def test_a_variable_is_written_as_systemd_reads_it_back():
    data = gpu_app_limits.drop_in({"TORCH_X": 'a "b" 50% \\ c', "NCCL_N": 4})
    assert data.decode().splitlines()[2:] == [
        'Environment="NCCL_N=4"',
        'Environment="TORCH_X=a \\"b\\" 50%% \\\\ c"',
    ]


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "pytorch_x", "NCCL_X=1", "NCCL_X\n", "XNCCL_A"])
def test_only_variables_of_gpu_libraries_are_taken(name):
    with pytest.raises(ActionFailed, match="not a variable of a GPU library"):
        gpu_app_limits.drop_in({name: "1"})
