"""A process's device numbers -> GPUs: CUDA's rules for what a process sees, and what is not known is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors.nvml import METRICS, GpuProcess, Identity, Snapshot
from osremed.timeline.ledger import OF_CONTEXT, OF_HOST, UNSEEN, Line, Place, Share
from osremed.timeline.ordinals import Sight, on_gpu, sight_of, visible

UUIDS = tuple(f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(4))
MIB = 1 << 20


def gpus(count=4, names=(), mig=0, pids=()):
    metrics = {**dict.fromkeys(METRICS, Missing(Reason.NO_DATA, "test")), "mig_enabled": Value(mig)}
    found = []
    for index in range(count):
        held = tuple(GpuProcess(pid, Value(1), None) for pid in (pids[index] if pids else ()))
        name = names[index] if names else "H100"
        found.append(Snapshot(Identity(index, UUIDS[index], name, f"0000:{24 + index:02x}:00"), metrics, Value(held)))
    return found


@pytest.mark.parametrize(
    ("told", "numbers"),
    [
        (None, (0, 1, 2, 3)),
        ("", ()),
        ("2,0", (2, 0)),
        ("1,7,0", (1,)),
        ("1,-1,0", (1,)),
        ("no,0", ()),
        (f"{UUIDS[3]},0", (3, 0)),
        ("GPU-2", (2,)),
        ("GPU-", ()),
        (f"MIG-{UUIDS[1]}/3/0", (1,)),
    ],
)
def test_numbers_count_what_the_environment_shows(told, numbers):
    variables = {} if told is None else {"CUDA_VISIBLE_DEVICES": told}
    assert visible(variables, gpus()) == Value(tuple(UUIDS[number] for number in numbers))


@pytest.mark.parametrize(
    ("told", "more", "why"),
    [
        ("1,1", {}, "twice"),
        ("MIG-5a2b5c1e-0000-0000-0000-000000000000", {}, "whose GPU it does not say"),
        ("0", {"mig": 1}, "split into instances"),
        ("0", {"names": ("A", "B", "A", "A")}, "CUDA_DEVICE_ORDER"),
    ],
)
def test_what_cuda_alone_knows_is_missing_with_the_reason(told, more, why):
    found = visible({"CUDA_VISIBLE_DEVICES": told}, gpus(**more))
    assert isinstance(found, Missing)
    assert why in found.detail


def test_gpus_that_differ_are_told_apart_by_uuid_and_in_the_order_of_the_bus():
    mixed = gpus(names=("A", "B", "A", "A"))
    assert visible({"CUDA_VISIBLE_DEVICES": UUIDS[1]}, mixed) == Value((UUIDS[1],))
    ordered = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert visible(ordered, mixed[::-1]) == Value((UUIDS[1],))


@given(st.text(alphabet="GPU-MIG0123,/ \x00é", max_size=60))
def test_no_environment_makes_up_a_gpu(told):
    found = visible({"CUDA_VISIBLE_DEVICES": told}, gpus())
    assert isinstance(found, Missing) or set(found.value) <= set(UUIDS)


def share(device, mib):
    place = Place("cudaMalloc", "/x/libc10_cuda.so", device, (Line("ask", "/srv/a.py", device + 10),), device)
    return Share(place, mib * MIB, (mib * MIB,), 0, (1,))


FOUND = [share(0, 500), share(1, 26), share(UNSEEN, 3), share(OF_CONTEXT, 2), share(OF_HOST, 900)]
TWO = frozenset(UUIDS[:2])


def devices(found):
    return [each.place.device for each in found]


def test_only_what_lies_on_the_gpu_or_may_lie_there_explains_its_growth():
    found, gaps = on_gpu(FOUND, Sight(UUIDS[1], Value(TWO), Value(UUIDS)))
    assert devices(found) == [1, UNSEEN, OF_CONTEXT]
    assert [gap.split(" may")[0] for gap in gaps] == ["2.0 MiB", "3.0 MiB"]
    swapped, _ = on_gpu(FOUND, Sight(UUIDS[1], Value(TWO), Value((UUIDS[1], UUIDS[0]))))
    assert devices(swapped) == [0, UNSEEN, OF_CONTEXT]


def test_a_process_that_the_driver_has_on_one_gpu_alone_needs_no_numbers():
    found, gaps = on_gpu(FOUND, Sight(UUIDS[1], Value(frozenset(UUIDS[1:2])), Missing(Reason.DENIED, "environ")))
    assert (devices(found), gaps) == ([0, 1, UNSEEN, OF_CONTEXT], [])


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (Missing(Reason.DENIED, "/proc/1/environ"), "/proc/1/environ"),
        (Value(UUIDS[:1]), "it uses device 1"),
        (Value((UUIDS[0], UUIDS[3])), "it chose its GPUs itself"),
    ],
)
def test_numbers_that_cannot_be_trusted_leave_everything_in_and_say_so(shown, why):
    found, (gap,) = on_gpu(FOUND, Sight(UUIDS[1], Value(TWO), shown))
    assert devices(found) == [0, 1, UNSEEN, OF_CONTEXT]
    assert why in gap


def test_a_container_counts_the_gpus_whose_device_files_it_has(tmp_path):
    there = gpus(pids=((7,), (), (7,), (9,)))
    inside = tmp_path / "7"
    (inside / "root" / "dev").mkdir(parents=True)
    (inside / "environ").write_bytes(b"HOME=/root\0")
    for node in ("nvidia6", "nvidia4", "nvidiactl", "nvidia-uvm"):
        (inside / "root" / "dev" / node).touch()
    assert isinstance(sight_of(7, UUIDS[2], there, 4, str(tmp_path)).visible, Missing), "no minor numbers to be read"
    for index, each in enumerate(there):
        place = tmp_path / "driver" / "nvidia" / "gpus" / f"{each.identity.bdf}.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t H100\nDevice Minor: \t {4 + index}\n")
    sight = sight_of(7, UUIDS[2], there, 4, str(tmp_path))
    assert sight == Sight(UUIDS[2], Value(frozenset((UUIDS[0], UUIDS[2]))), Value((UUIDS[0], UUIDS[2])))
    assert sight_of(9, UUIDS[3], there, 4, str(tmp_path)).listed == Value(frozenset(UUIDS[3:]))


def test_where_a_gpu_was_not_read_the_numbers_are_not_known():
    sight = sight_of(7, UUIDS[0], gpus(3), 4)
    assert isinstance(sight.visible, Missing)
    assert isinstance(sight.listed, Missing)
