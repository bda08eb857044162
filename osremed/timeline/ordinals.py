"""Which GPU a process means by a number: CUDA counts those that the process may see, in its own order."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.core.units import format_bytes
from osremed.sensors import procfs
from osremed.sensors.nvml import Snapshot
from osremed.timeline.kineto import environment
from osremed.timeline.ledger import NO_DEVICE, OF_HOST, Share, by_device

VARIABLE = "CUDA_VISIBLE_DEVICES"
_NODE = re.compile(r"nvidia([0-9]{1,4})")
_MINOR = re.compile(rb"Device Minor:\s*([0-9]{1,4})")
_INDEX = re.compile(r"[0-9]{1,4}")
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-fA-F-]{36})/[0-9]{1,3}/[0-9]{1,3}")


@record
class Sight:
    """What is known of one process: `gpu` is the UUID that is asked about, `listed` those on which the driver has the
    process, `visible` the UUIDs by the process's numbers."""

    gpu: str
    listed: Reading[frozenset[str]]
    visible: Reading[tuple[str, ...]]


def visible(variables: Mapping[str, str], gpus: Sequence[Snapshot]) -> Reading[tuple[str, ...]]:
    """UUIDs by number, of a process with this environment that can open all of `gpus`. Missing where CUDA's answer is
    its own secret: GPUs of several kinds in its order of speed, an instance by its own UUID, a list it refuses."""
    ordered = sorted(gpus, key=_address)
    uuids = tuple(each.identity.uuid for each in ordered)
    told = variables.get(VARIABLE)
    split = any(each.metrics["mig_enabled"] == Value(1) for each in gpus)
    by_speed = len({each.identity.name for each in gpus}) > 1 and variables.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
    found: list[str] = []
    for word in [str(at) for at in range(len(uuids))] if told is None else told.split(","):
        one = word.strip()
        if one.startswith("MIG-"):
            return _instance(one, uuids) if not found else _cannot(f"{VARIABLE} has instances among GPUs")
        if split:
            return _cannot(f"a GPU is split into instances, and {VARIABLE} names none")
        if _INDEX.fullmatch(one) and by_speed:
            return _cannot("the GPUs differ, and CUDA_DEVICE_ORDER is not PCI_BUS_ID")
        fitting = _fitting(one, uuids)
        if len(fitting) != 1:
            break  # what CUDA does not know ends its list
        found += fitting
    if len(set(found)) != len(found):
        return _cannot(f"{VARIABLE} names a GPU twice")
    return Value(tuple(found))


def _address(each: Snapshot) -> str:
    return each.identity.bdf


def _fitting(word: str, uuids: Sequence[str]) -> list[str]:
    if _INDEX.fullmatch(word):
        return list(uuids[int(word) : int(word) + 1])
    return [uuid for uuid in uuids if word.startswith("GPU-") and uuid.startswith(word)]


def _instance(word: str, uuids: Sequence[str]) -> Reading[tuple[str, ...]]:
    """CUDA shows a process one instance, the first."""
    named = _OLD_MIG.fullmatch(word)
    if named is None or named.group(1) not in uuids:
        return _cannot(f"{VARIABLE} names an instance ({word[:48]}) whose GPU it does not say")
    return Value((named.group(1),))


def _cannot(why: str) -> Missing:
    return Missing(Reason.NO_DATA, VARIABLE, why)


def sight_of(pid: int, gpu: str, snapshots: Sequence[Snapshot], count: int, root: str = procfs.PROC) -> Sight:
    """`count` is how many GPUs the driver has: `snapshots` may be of fewer. The environment is the one the process was
    started with: what it changed itself is not to be seen."""
    listed: set[str] = set()
    for each in snapshots:
        if isinstance(each.processes, Value) and pid in {process.pid for process in each.processes.value}:
            listed.add(each.identity.uuid)
    whole = len(snapshots) == count and all(isinstance(each.processes, Value) for each in snapshots)
    unread = Missing(Reason.NO_DATA, "nvml", "not every GPU and its processes could be read")
    if not whole:
        return Sight(gpu, unread, unread)
    if listed == {gpu}:
        return Sight(gpu, Value(frozenset(listed)), Value((gpu,)))
    variables, within_reach = environment(pid, root), _within_reach(pid, snapshots, root)
    if isinstance(variables, Missing):
        return Sight(gpu, Value(frozenset(listed)), variables)
    if isinstance(within_reach, Missing):
        return Sight(gpu, Value(frozenset(listed)), within_reach)
    return Sight(gpu, Value(frozenset(listed)), visible(variables.value, within_reach.value))


def _within_reach(pid: int, snapshots: Sequence[Snapshot], root: str) -> Reading[list[Snapshot]]:
    """Those whose device files the process has: a container may have some of them only."""
    try:
        found = [_NODE.fullmatch(name) for name in os.listdir(f"{root}/{pid}/root/dev")]
    except OSError as error:
        return missing_from_oserror(error, f"{root}/{pid}/root/dev")
    nodes = {int(each.group(1)) for each in found if each}
    if not nodes or len(nodes) >= len(snapshots):
        return Value(list(snapshots))
    reached = []
    for each in snapshots:
        path = f"{root}/driver/nvidia/gpus/{each.identity.bdf}.0/information"
        minor = procfs.read_parsed(path, _minor)
        if isinstance(minor, Missing):
            return minor
        if minor.value in nodes:
            reached.append(each)
    return Value(reached)


def _minor(data: bytes) -> int:
    found = _MINOR.search(data)
    if found is None:
        raise ValueError("has no minor number")
    return int(found.group(1))


def on_gpu(found: Sequence[Share], sight: Sight) -> tuple[list[Share], list[str]]:
    """What lies on the GPU or may lie there, and what is not known of it. Pure."""
    of_gpus = [share for share in found if share.place.device != OF_HOST]
    if sight.listed == Value(frozenset((sight.gpu,))):
        return of_gpus, []
    numbers = [device for device in by_device(of_gpus) if device >= 0]
    why = _doubt(numbers, sight)
    if why or isinstance(sight.visible, Missing):
        return of_gpus, [f"the GPUs of this process are not told apart: {why or sight.visible}"]
    uuids = sight.visible.value
    mine = [share for share in of_gpus if share.place.device < 0 or uuids[share.place.device] == sight.gpu]
    return mine, [
        f"{format_bytes(held)} may lie on another GPU: {NO_DEVICE[device]}"
        for device, held in sorted(by_device(mine).items())
        if device < 0
    ]


def _doubt(numbers: Sequence[int], sight: Sight) -> str:
    """Why the environment cannot be what the process goes by; "" when nothing speaks against it."""
    if isinstance(sight.visible, Missing):
        return ""
    for number in numbers:
        if number >= len(sight.visible.value):
            return f"it uses device {number}, and its environment shows {len(sight.visible.value)}"
        uuid = sight.visible.value[number]
        if isinstance(sight.listed, Value) and uuid not in sight.listed.value:
            return f"device {number} would be {uuid}, where the driver does not have it: it chose its GPUs itself"
    return ""
