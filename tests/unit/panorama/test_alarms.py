"""What is told of the memory, when, and what is not."""

from __future__ import annotations

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.alarms import DYING, GROWTH, NODE, PAGE_CACHE, Alarms, Look
from osremed.panorama.model import ContainerRow, DyingRow, ProcessRow

MIB, SECOND = 1 << 20, 10**9
TOTAL = 8 << 30
UNIT = "/system.slice/import.service"
GAP = Missing(Reason.NO_DATA, "test")


def process(heap_mib, container=UNIT):
    return ProcessRow(
        pid=7, start_time_ticks=70, name="import", heap_bytes=heap_mib * MIB, anon_bytes=heap_mib * MIB, swap_bytes=0,
        file_bytes=GAP, shmem_bytes=GAP, cmdline=GAP, oom_score_adj=GAP, cgroup=Value(container), container=container,
    )  # fmt: skip


def group(path=UNIT, *, anon_mib=0, file_mib=0, limit_mib=0):
    return ContainerRow(
        name=path, runtime="", kind="unit", id="", cgroup=path, pod="", pod_uid="", namespace="", image="",
        usage_bytes=(anon_mib + file_mib) * MIB, anon_bytes=Value(anon_mib * MIB), file_bytes=Value(file_mib * MIB),
        shmem_bytes=Value(0), kernel_bytes=GAP, sock_bytes=GAP, processes=1,
        limit_bytes=Value(limit_mib * MIB) if limit_mib else GAP,
    )  # fmt: skip


def look(at, **other):
    facts = {"total_bytes": TOTAL, "available_bytes": 6 << 30, "cache_bytes": 1 << 30, "free_bytes": 5 << 30, **other}
    return Look(monotonic_ns=at * 120 * SECOND, **facts)


def told(alarms, looks):
    return [(at, each.name, each.attributes["state"]) for at, seen in enumerate(looks) for each in alarms.note(seen)]


def growth(heaps, container=UNIT, **other):
    return [look(at, processes=(process(heap, container),), groups=(group(container, anon_mib=heap),), **other)
            for at, heap in enumerate(heaps)]  # fmt: skip


def test_a_leak_is_told_once_after_ten_minutes_with_the_time_that_is_left():
    alarms = Alarms()
    looks = growth([100, 130, 160, 190, 220, 250, 280, 310])
    assert told(alarms, looks[:5]) == []
    (event,) = alarms.note(looks[5])
    assert (event.name, event.attributes["unit"], event.attributes["scope"]) == (GROWTH, "import.service", UNIT)
    assert event.attributes["rate_bytes_s"] == 150 * MIB / 600
    assert event.attributes["fills_in_s"] == 6 * 1024 * 600 // 150
    assert told(alarms, looks[6:]) == []


@pytest.mark.parametrize("container", [
    "/user.slice/user-1000.slice/user@1000.service/session.slice/dbus-broker.service",
    "/docker/" + "ab" * 32, "/lxc.payload.web/system.slice/nginx.service",
])  # fmt: skip
def test_a_service_of_a_user_or_inside_a_container_is_no_unit_to_restart(container):
    alarms = Alarms()
    (event,) = [each for seen in growth([100, 130, 160, 190, 220, 250], container) for each in alarms.note(seen)]
    assert (event.attributes["scope"], event.attributes["unit"]) == (container, "")


def test_a_leak_that_a_restart_ended_is_told_as_cleared():
    assert told(Alarms(), growth([100, 130, 160, 190, 220, 250, 10, 10])) == [
        (5, GROWTH, "raised"), (6, GROWTH, "cleared"),
    ]  # fmt: skip


def test_a_warm_up_and_a_sawtooth_and_a_slow_one_are_no_leaks():
    assert told(Alarms(), growth([100, 400, 500, 540, 550, 552, 553])) == []
    assert told(Alarms(), growth([100, 300, 90, 310, 95, 290, 100, 320])) == []
    assert told(Alarms(), growth([100, *[101] * 3, *[102] * 8])) == []


def test_a_heap_that_ends_where_it_began_is_no_leak():
    assert told(Alarms(), growth([1000, 996, 997, 998, 999, 1000])) == []


def test_the_limit_of_its_group_is_the_room_of_a_leak():
    heaps = [100, 130, 160, 190, 220, 250]
    looks = [look(at, processes=(process(heap),), groups=(group(anon_mib=heap, limit_mib=512),))
             for at, heap in enumerate(heaps)]  # fmt: skip
    alarms = Alarms()
    (event,) = [each for seen in looks for each in alarms.note(seen)]
    assert event.attributes["fills_in_s"] == round((512 - 250) / (150 / 600))
    assert event.attributes["limit_bytes"] == 512 * MIB


def full(hits, **other):
    facts = {"file_mib": 480, "anon_mib": 30, "limit_mib": 512, **other}
    return [look(at, groups=(group("/batch", **facts),), given_back={"/batch": count}) for at, count in enumerate(hits)]


def test_a_group_that_is_full_of_page_cache_and_reclaims_is_told_when_it_stays():
    alarms = Alarms()
    assert told(alarms, full([0, 50_000, 100_000, 150_000])) == [(2, PAGE_CACHE, "raised")]
    assert told(alarms, [look(4)]) == [(0, PAGE_CACHE, "cleared")]


def test_a_group_that_is_full_and_at_rest_or_full_of_heap_is_not():
    assert told(Alarms(), full([500, 500, 500, 510])) == []
    assert told(Alarms(), full([0, 50_000, 100_000, 150_000], file_mib=30, anon_mib=480)) == []


def test_a_host_full_of_page_cache_is_told_when_tasks_wait_for_memory():
    full_host = {"cache_bytes": 7 << 30, "free_bytes": 100 * MIB}
    calm = [look(at, stalled_us=at, **full_host) for at in range(5)]
    waits = [look(at, stalled_us=at * 6_000_000, **full_host) for at in range(5)]
    assert told(Alarms(), calm) == []
    alarms = Alarms()
    assert told(alarms, waits) == [(2, PAGE_CACHE, "raised")]
    assert alarms._told[PAGE_CACHE, NODE]["stalled_ratio"] == 0.05


def test_removed_groups_that_hold_memory_are_told_with_their_count():
    row = DyingRow("/kubepods", 100 * MIB, Value(4000))
    assert told(Alarms(), [look(at, dying=(row,)) for at in range(4)]) == [(1, DYING, "raised")]
    small = DyingRow("/kubepods", 10 * MIB, Value(4000))
    assert told(Alarms(), [look(at, dying=(small,)) for at in range(4)]) == []
