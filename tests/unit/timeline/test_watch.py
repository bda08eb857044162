"""The watch as a process on a driver that misbehaves: every condition is told once, and once when it is over."""

from __future__ import annotations

import os
import signal

import pytest

from osremed.core.units import parse_bytes

MIB = parse_bytes("1 MiB")

#: event -> (what the driver says while it holds, what it says before and after)
CONDITIONS = {
    "gpu.temperature": ({"margin": 2}, {"margin": 40}),
    "gpu.throttle": ({"clock_reasons": "0x40"}, {"clock_reasons": 0}),
    "gpu.ecc": ({"ecc_dbe": 3}, {"ecc_dbe": 3}),
    "gpu.row_remap": ({"rows_pending": 1}, {"rows_pending": 0}),
    "gpu.pcie_replay": ({"pcie_replay": 100_000}, {"pcie_replay": 100_000}),
    "gpu.pcie_width": ({"pcie_width": 8}, {"pcie_width": 16}),
    "gpu.nvlink": ({"nvlinks_down": 1}, {"nvlinks_down": 0}),
    "gpu.lost": ({"lost": 1}, {"lost": 0}),
    "gpu.recovery_action": ({"field230": 1}, {"field230": 0}),
    "gpu.probe_hang": ({"hang_ms": 60_000}, {"hang_ms": 0}),
    "gpu.vram_expectation": ({"vram_used": 70_000 * MIB}, {"vram_used": 1024 * MIB}),
    "gpu.stuck": ({"sm_util": 0, "processes": f"{os.getpid()}:1000"}, {"sm_util": 50}),
}


def say(scenario, which):
    state = {}
    for index, phases in enumerate(CONDITIONS.values()):
        state.update({f"g{index}__{key}": value for key, value in phases[which].items()})
    scenario.set(**state)


def told(events, state):
    return sorted((e["name"], e["attributes"]["gpu"]) for e in events if e["attributes"].get("state") == state)


def test_each_condition_of_sixteen_gpus_is_told_once_and_once_when_it_is_over(scenario, watch):
    scenario.set(gpus=16)
    running = watch(growth_bytes=1 << 40)
    running.wait_for_status(lambda found: len(found["gpus"]) == 16, "all GPUs are read")
    expected = sorted((name, index) for index, name in enumerate(CONDITIONS))
    say(scenario, 0)
    events = running.wait_for(lambda found: len(told(found, "raised")) >= len(expected), "every condition is raised")
    assert told(events, "raised") == expected
    say(scenario, 1)
    events = running.wait_for(lambda found: len(told(found, "cleared")) >= len(expected), "every condition clears")
    assert told(events, "cleared") == expected
    assert told(events, "raised") == expected


def test_a_call_that_hangs_is_told_with_the_state_of_its_process_and_the_others_go_on(scenario, watch):
    scenario.set(gpus=3, g1__hang_ms=60_000)
    running = watch()
    events = running.wait_for(lambda found: found, "the hang is told")
    assert [each["name"] for each in events] == ["gpu.probe_hang"]
    facts = events[0]["attributes"]
    assert (facts["gpu"], facts["state"]) == (1, "raised")
    assert facts["process_state"] in "SDR"
    assert facts["wchan"]
    status = running.wait_for_status(lambda found: "1" in found["hung"], "the status says it")
    assert [each["index"] for each in status["gpus"]] == [0, 2]


def test_the_first_answer_may_take_its_time_and_later_ones_may_not(scenario, watch):
    """Without persistence mode the driver initialises the GPU for whoever comes first."""
    scenario.set(gpus=1, init_ms=4000)
    running = watch(deadline_s=3.0, first_deadline_s=60.0)
    running.wait_for_status(lambda found: found["gpus"], "the GPU is read")
    assert running.events() == []
    scenario.set(g0__hang_ms=60_000)
    running.wait_for(lambda found: told(found, "raised") == [("gpu.probe_hang", 0)], "now it hangs", deadline_s=40.0)


def test_a_library_that_ends_its_process_leaves_no_figures_that_look_current(scenario, watch):
    scenario.set(gpus=2)
    running = watch()
    running.wait_for_status(lambda found: len(found["gpus"]) == 2, "both GPUs are read")
    scenario.set(g1__crash=1)
    events = running.wait_for(lambda found: told(found, "raised"), "it is told")
    assert told(events, "raised") == [("gpu.unreadable", 1)]
    status = running.wait_for_status(lambda found: "1" in found["unreadable"], "the status says it")
    assert [each["index"] for each in status["gpus"]] == [0]
    scenario.set(g1__crash=0)
    running.wait_for(lambda found: told(found, "cleared") == [("gpu.unreadable", 1)], "it is read again")


def test_memory_that_grows_by_the_allocators_steps_is_told_with_their_signature(scenario, watch):
    scenario.set(gpus=2, g0__processes=f"{os.getpid()}:1000")
    running = watch(growth_bytes=64 * MIB)
    running.wait_for_status(lambda found: len(found["gpus"]) == 2, "both GPUs are read")
    used = [1024 * MIB]

    def grow(events):
        used[0] += 26 * MIB
        scenario.set(g0__vram_used=used[0])
        return events

    events = running.wait_for(grow, "the growth is told")
    assert [(each["name"], each["attributes"]["gpu"]) for each in events] == [("gpu.vram_growth", 0)]
    facts = events[0]["attributes"]
    assert facts["slope_bytes_per_s"] > 0
    assert facts["grown_bytes"] >= 64 * MIB
    assert facts["signature"] == "caching allocator, segment of its own (k x 2 MiB)"
    assert facts["holders"][0]["pid"] == os.getpid()
    events = running.wait_for(lambda found: len(found) > 1, "it is over once the memory stays")
    assert (events[1]["name"], events[1]["attributes"]["state"]) == ("gpu.vram_growth", "cleared")


def test_a_card_that_drops_out_and_a_driver_that_is_gone_are_told_for_the_host(scenario, watch):
    scenario.set(gpus=8)
    running = watch()
    running.wait_for_status(lambda found: len(found["gpus"]) == 8, "all GPUs are read")
    scenario.set(gpus=7)
    events = running.wait_for(lambda found: found, "the drop is told")
    assert (events[0]["name"], events[0]["attributes"]["gpus"], events[0]["attributes"]["expected"]) == (
        "gpu.card_drop",
        7,
        8,
    )
    scenario.set(gpus=8)
    running.wait_for(lambda found: told(found, "cleared"), "the card is back")
    scenario.set(error__nvmlDeviceGetCount_v2=9, init=9)
    events = running.wait_for(lambda found: any(each["name"] == "gpu.driver" for each in found), "the driver is gone")
    scenario.set(error__nvmlDeviceGetCount_v2=None, init=None)
    running.wait_for(lambda found: len(told(found, "cleared")) >= 2, "the driver is back")


def test_a_card_that_left_stays_lost_when_its_number_is_another_ones(scenario, watch):
    """The driver is loaded anew without the lost GPU 1: what was GPU 2 is GPU 1 now, with its own counters."""
    uuids = [f"GPU-{number}{number}000000-0000-0000-0000-000000000000" for number in range(3)]
    scenario.set(gpus=3, **{f"g{n}__uuid": uuid for n, uuid in enumerate(uuids)}, g2__ecc_dbe=7)
    scenario.set(**{f"g{number}__bus": 0x18 + number for number in range(3)})
    running = watch()
    running.wait_for_status(lambda found: len(found["gpus"]) == 3, "all GPUs are read")
    scenario.set(g1__lost=1)
    running.wait_for(lambda found: told(found, "raised") == [("gpu.lost", 1)], "GPU 1 is lost")
    scenario.set(init=9, error__nvmlDeviceGetCount_v2=9)
    running.wait_for(lambda found: ("gpu.driver", -1) in told(found, "raised"), "the driver is gone")
    scenario.set(gpus=2, g1__lost=None, g1__uuid=uuids[2], g1__bus=0x1A, g1__ecc_dbe=7, g2__uuid=None)
    scenario.set(init=None, error__nvmlDeviceGetCount_v2=None)
    wanted = [uuids[0], uuids[2]]
    for look in range(4):
        before_ns = running.status()["updated_ns"]
        found = running.wait_for_status(
            lambda found, after=before_ns: (
                found["updated_ns"] > after and [each["uuid"] for each in found["gpus"]] == wanted
            ),
            f"look {look} with the new numbers",
        )
    assert ("gpu.lost", "gpu1", uuids[1]) in {(each["name"], each["subject"], each["uuid"]) for each in found["alerts"]}
    events = running.events()
    assert "gpu.ecc" not in {each["name"] for each in events}
    assert "gpu.lost" not in {name for name, _ in told(events, "cleared")}


def test_what_happened_while_no_watch_ran_is_told_by_the_next_one(scenario, watch):
    """A card, a link and a memory error: of the same boot and driver, so that it is no new beginning."""
    scenario.set(gpus=3, all__ecc_dbe=1)
    first = watch()
    first.wait_for_status(lambda found: len(found["gpus"]) == 3, "all GPUs are read")
    first.process.terminate()
    assert first.process.wait(20) == 0
    scenario.set(gpus=2, g0__nvlinks_down=2, g1__ecc_dbe=4)
    expected = {("gpu.card_drop", -1), ("gpu.nvlink", 0), ("gpu.ecc", 1)}
    second = watch()
    events = second.wait_for(lambda found: {*told(found, "raised")} >= expected, "all of it is told")
    assert {*told(events, "raised")} == expected


def test_a_driver_that_is_replaced_at_run_time_is_told_and_read_on(scenario, watch):
    scenario.set(gpus=2, driver="570.1")
    running = watch()
    running.wait_for_status(lambda found: len(found["gpus"]) == 2, "both GPUs are read")
    scenario.set(driver="580.2")
    events = running.wait_for(lambda found: found, "the change is told")
    facts = events[0]["attributes"]
    assert (events[0]["name"], facts["before"], facts["after"]) == ("gpu.driver_changed", "570.1", "580.2")
    before_ns = running.status()["updated_ns"]
    running.wait_for_status(lambda found: found["updated_ns"] > before_ns and len(found["gpus"]) == 2, "read on")
    assert [each["name"] for each in running.events()] == ["gpu.driver_changed"]


def test_ten_thousand_xids_of_the_driver_are_one_event_and_a_count(scenario, watch):
    scenario.set(gpus=1)
    running = watch()
    running.wait_for_status(lambda found: found["gpus"], "the GPU is read")
    for _ in range(10_000):
        scenario.event(0, 31)
    events = running.wait_for(lambda found: found, "the first is told")
    running.wait_for_status(lambda found: sum(each["count"] for each in found["errors"]) == 10_000, "all are counted")
    assert len(running.events()) == len(events) == 1
    facts = events[0]["attributes"]
    assert (events[0]["name"], facts["code"], facts["uuid"]) == (
        "gpu.xid",
        31,
        "GPU-00000000-0000-0000-0000-000000000000",
    )
    assert facts["action"] == "RESTART_APP"


def test_a_lost_gpu_hides_no_xids_of_the_others(scenario, watch):
    scenario.set(gpus=2, g1__lost=1)
    running = watch()
    events = {"followed": 1, "missed": [1]}
    running.wait_for_status(lambda found: found["driver_events"] == events, "the others are followed")
    scenario.event(0, 31)
    running.wait_for(lambda found: "gpu.xid" in {each["name"] for each in found}, "the Xid is told")


def test_without_a_driver_and_without_cards_nothing_is_told_and_the_gap_is_named(environment, watch, scenario):
    scenario.set(init=9)
    running = watch()
    status = running.wait_for_status(
        lambda found: found["inventory"].get("detail", "not asked yet") != "not asked yet", "the gap is named"
    )
    assert status["inventory"]["missing"] == "gone"
    assert "driver not loaded" in status["inventory"]["detail"]
    status = running.wait_for_status(lambda found: found["driver_events"]["missing"] == "gone", "nor are there events")
    assert "driver not loaded" in status["driver_events"]["detail"]
    assert running.events() == []


def test_the_metrics_file_leaves_out_what_could_not_be_read(scenario, watch):
    scenario.set(gpus=2, g0__temp=77, error__nvmlDeviceGetPowerUsage=3)
    running = watch()
    metrics = running.prefix / "run/osremed/timeline.prom"
    running.wait_for_status(
        lambda _: metrics.exists() and metrics.read_text().count("temperature_celsius{") == 2, "both GPUs are read"
    )
    text = metrics.read_text()
    assert 'osremed_gpu_temperature_celsius{index="0",uuid="GPU-00000000-0000-0000-0000-000000000000"} 77' in text
    assert "power_milliwatts{" not in text
    assert "osremed_gpu_watch_probes_hung 0" in text


HEAD = '{"apiVersion": "osremed/v1", "kind": "TimelinePolicy"'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + ', "interval": 1}', "unknown key"),
        (HEAD + ', "interval_s": 0}', "0.1"),
        (HEAD + ', "window_s": 1, "window_s": 2}', "twice"),
        (HEAD + ', "growth_window_s": 86400}', "interval_s of 22 or more"),
        ('{"apiVersion": "osremed/v1", "kind": "FastoomPolicy"}', "TimelinePolicy"),
        ("[]", "object"),
        ("{", "JSON"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_and_nothing_starts(tmp_path, monkeypatch, capsys, text, says):
    from osremed.cli.main import main

    monkeypatch.setenv("OSREMED_PREFIX", str(tmp_path))
    path = tmp_path / "timeline.json"
    path.write_text(text)
    assert main(["timeline", "run", "--policy", str(path)]) == 2
    assert says in capsys.readouterr().err


def test_thresholds_of_a_changed_policy_count_at_once_and_a_wrong_one_changes_nothing(scenario, watch):
    scenario.set(gpus=1, g0__margin=12)
    running = watch()
    first = running.wait_for_status(lambda found: found["gpus"], "the GPU is read")
    assert first["policy_sha256"] == running.policy_sha256()
    assert not first["alerts"]

    wanted = running.change_policy(temperature_margin_celsius=20)
    running.wait_for_status(lambda found: found["policy_sha256"] == wanted, "the new policy is obeyed")
    running.wait_for_status(lambda found: [each["name"] for each in found["alerts"]] == ["gpu.temperature"], "it rings")

    wrong = running.change_policy(temperature_margin_celsius="hot")
    found = running.wait_for_status(lambda found: found["policy_error"], "the wrong one is told")
    assert (found["policy_sha256"], found["policy_rejected_sha256"]) == (wanted, wrong)
    assert [each["name"] for each in found["alerts"]] == ["gpu.temperature"]

    running.policy.unlink()
    running.process.send_signal(signal.SIGHUP)
    running.wait_for_status(lambda found: found["policy_sha256"] == "" and not found["policy_error"], "the defaults")


def test_a_watch_takes_up_and_drops_calls_and_dumps_with_its_policy(scenario, watch, tmp_path):
    scenario.set(gpus=1)
    running = watch(calls_per_s=0, dumps="")
    assert running.wait_for_status(lambda found: found["gpus"], "the GPU is read")["calls"] is None
    for settings, followed in (({"dumps": str(tmp_path)}, True), ({"calls_per_s": 0, "dumps": ""}, False)):
        running.change_policy(**settings)
        running.wait_for_status(lambda found, wanted=followed: (found["calls"] is not None) == wanted, f"{settings}")
    updated_ns = running.status()["updated_ns"]
    running.wait_for_status(lambda found: found["updated_ns"] > updated_ns + 1e9 and found["gpus"], "it goes on")


def test_a_state_directory_that_takes_nothing_stops_no_metrics(scenario, watch, tmp_path):
    scenario.set(gpus=1, g0__temp=78)
    (tmp_path / "host/var/lib/osremed/timeline/baseline.json").mkdir(parents=True)
    running = watch()
    metrics = tmp_path / "host/run/osremed/timeline.prom"
    running.wait_for_status(lambda _: metrics.exists() and "} 78\n" in metrics.read_text(), "the metrics are written")
    running.wait_for_status(lambda found: found["gpus"][0]["metrics"]["temperature_celsius"] == 78, "so is the status")


def test_what_happened_while_the_disk_took_nothing_is_told_as_soon_as_it_does(scenario, watch, tmp_path):
    """And not with whatever is told next, which may be tomorrow."""
    scenario.set(gpus=1)
    blocked = tmp_path / "host/var/lib/osremed/events/timeline"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the folder should be")
    running = watch()
    running.wait_for_status(lambda found: found["gpus"], "the GPU is read")
    scenario.event(0, 79)
    running.wait_for_status(lambda found: found["events"]["failure"], "it is said that an event waits")
    blocked.unlink()
    events = running.wait_for(lambda found: found, "the event is told")
    assert [each["name"] for each in events] == ["gpu.xid"]
    running.wait_for_status(lambda found: not found["events"]["failure"], "nothing waits any more")
