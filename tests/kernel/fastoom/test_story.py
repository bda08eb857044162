"""The near-OOM story: the right ones die, in the right order, before the kernel has to."""

from __future__ import annotations

import pytest

from tests.kernel.fastoom.conftest import MIB, kernel_oom_kills, until

pytestmark = pytest.mark.kernel


def test_exporters_first_then_the_preferred_then_the_hog_and_never_the_protected(make_group, workload, guard) -> None:
    group = make_group(160 * MIB)
    gateway = workload.start(group, "ota-gateway", 20)
    for index in range(2):
        workload.start(group, f"exporter{index}", 1, adj=999)
    workload.start(group, "logcollect", 24)
    hog = workload.start(group, "worker", kind="leak")
    guard.policy(
        scopes=[{"cgroup": group.path}],
        protect=[{"cmdline": r"\bota-gateway\b"}],
        prefer=[{"name": "logcollect"}],
    )
    guard.start()
    workload.go(hog)
    until(lambda: hog.poll() is not None, "the hog outlived the guard")
    guard.until(lambda: guard.actions()[-1:] == ["recovered"], "no record of the end of the need")

    kills = [event for event in guard.events() if event["action"] == "killed"]
    order = [one["name"] for event in kills for one in event["killed"]]
    assert sorted(order[:2]) == ["exporter0", "exporter1"]
    assert order[2:] == ["logcollect", "worker"]
    assert all("kernel policy" in one["why"] for one in kills[0]["killed"][:2])
    assert kernel_oom_kills(group) == 0
    assert gateway.poll() is None
    spared = {one["name"]: one["why"] for one in kills[0]["spared"]}
    assert "protected by cmdline" in spared["ota-gateway"]
    for event in kills:
        assert 0 < event["crossed_ns"] <= event["decided_ns"] <= event["signalled_ns"] <= event["freed_ns"]
        assert all(one["freed"] for one in event["killed"])
        assert event["level"] in ("medium", "high")
        assert event["available_after_bytes"] > event["available_bytes"]
        assert event["missing"] == []


def test_mapped_files_and_shared_memory_count_for_nobody(make_group, workload, guard, tmp_path) -> None:
    group = make_group(192 * MIB)
    mapped, shared = tmp_path / "mapped", tmp_path / "shared"
    mapped.write_bytes(bytes(80 * MIB))
    with open("/dev/shm/" + group.path.strip("/"), "wb") as segment:
        segment.truncate(110 * MIB)
    shared.symlink_to(segment.name)
    try:
        innocents = [workload.start(group, "mapper", kind="maps-file", extra=str(mapped)) for _ in range(2)]
        innocents += [workload.start(group, "sharer", kind="shares-memory", extra=str(shared)) for _ in range(2)]
        hog = workload.start(group, "worker", kind="leak")
        guard.policy(scopes=[{"cgroup": group.path}])
        guard.start()
        workload.go(hog)
        until(lambda: hog.poll() is not None, "the hog outlived the guard")
        guard.until(lambda: guard.actions()[-1:] == ["recovered"], "no record of the end of the need")
        first = guard.events()[0]
        assert [one["name"] for one in first["killed"]] == ["worker"]
        assert first["killed"][0]["heap_bytes"] < 100 * MIB, (
            "the test proves nothing: the hog is the largest by RSS too"
        )
        assert [process.poll() for process in innocents] == [None] * 4
        assert kernel_oom_kills(group) == 0
    finally:
        workload.end()
        (tmp_path / "shared").resolve().unlink()


def test_a_process_of_another_group_is_never_touched(make_group, workload, guard) -> None:
    watched, other = make_group(128 * MIB), make_group(192 * MIB)
    bystander = workload.start(other, "bystander", 150, adj=999)
    hog = workload.start(watched, "worker", kind="leak")
    guard.policy(scopes=[{"cgroup": watched.path}], prefer=[{"name": "bystander"}])
    guard.start()
    workload.go(hog)
    until(lambda: hog.poll() is not None, "the hog outlived the guard")
    guard.until(lambda: "recovered" in guard.actions(), "no record of the end of the need")
    assert bystander.poll() is None
    assert {one["name"] for event in guard.events() for one in event["killed"]} == {"worker"}
