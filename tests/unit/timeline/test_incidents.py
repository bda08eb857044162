"""Sightings become incidents: told at once, counted, the root first; the driver's own verdict before any table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Missing, Reason, Value
from osremed.sensors.nvml import METRICS, Identity, Snapshot
from osremed.timeline.alerts import Alerts
from osremed.timeline.catalogue import decode_nvlink5, sxid_meaning, tables, worse, xid_meaning
from osremed.timeline.growth import MIB, growth, step_kind
from osremed.timeline.incidents import BURST_NS, Incidents, Sighting, gravity, incidents_of_log, pattern_of
from osremed.timeline.rules import History, Holds, asked_for, pcie_replay, stuck
from osremed.timeline.settings import MOST_LOOKS, Settings, parse_settings
from osremed.timeline.xid import XidLine, parse_line

GPU = "PCI:0000:18:00"


def see(incidents, text, at_s=0.0, source="kmsg", injected=False):
    return incidents.see(Sighting(parse_line(text), source, int(at_s * 1e9), injected))


def xid(code, rest="pid=1, name=python, Ch 1", gpu=GPU):
    return f"NVRM: Xid ({gpu}): {code}, {rest}"


def test_a_repeated_xid_is_told_once_and_its_count_when_the_burst_is_over():
    incidents = Incidents()
    first = see(incidents, xid(31))
    assert [each.attributes["phase"] for each in first] == ["raised"]
    for step in range(9):
        assert see(incidents, xid(31), step) == []
    assert incidents.tick(8 * 10**9 + BURST_NS - 1) == []
    (summary,) = incidents.tick(8 * 10**9 + BURST_NS)
    assert (summary.attributes["phase"], summary.attributes["count"]) == ("summary", 10)
    assert incidents.tick(10**15) == []
    assert [each.attributes["phase"] for each in see(incidents, xid(31), 10**6)] == ["raised"]


def test_the_kernel_log_and_nvml_tell_of_the_same_occurrences():
    incidents = Incidents()
    for _ in range(3):
        see(incidents, xid(94))
        see(incidents, xid(94), source="nvml")
    (summary,) = incidents.tick(BURST_NS)
    assert summary.attributes["count"] == 3
    assert summary.attributes["by_source"] == {"kmsg": 3, "nvml": 3}
    for code in (48, 45):
        see(incidents, xid(code), 10**6)
        see(incidents, xid(code), 10**6, source="nvml")
    assert incidents.close()[0].attributes["followers"] == {"45": 1}
    assert incidents.totals == {("xid", "0000:18:00", str(code)): count for code, count in ((94, 3), (48, 1), (45, 1))}


def test_what_follows_a_fatal_xid_is_listed_beneath_it():
    incidents = Incidents()
    assert see(incidents, xid(48))
    for code in (45, 45, 43, 31):
        assert see(incidents, xid(code), 1) == []
    assert see(incidents, xid(31, gpu="PCI:0000:19:00"), 1), "another GPU stands for itself"
    (summary,) = (each for each in incidents.tick(10**12) if each.attributes["code"] == 48)
    assert summary.attributes["followers"] == {"31": 1, "43": 1, "45": 2}


def test_a_graver_xid_is_not_hidden_by_the_one_before_it():
    incidents = Incidents()
    see(incidents, xid(48))
    (report,) = see(incidents, xid(79), 1)
    assert (report.attributes["code"], report.attributes["action"]) == (79, "RESTART_BM")
    assert gravity(79) > gravity(48) > gravity(31) > gravity(63)


def test_45_names_its_root_and_alone_stands_for_itself():
    incidents = Incidents()
    see(incidents, xid(13))
    assert see(incidents, xid(45, "Ch 1, caused by previous Xid 13"), 1) == []
    (alone,) = see(Incidents(), xid(45, "Ch 1, caused by previous Xid 13"))
    assert alone.attributes["root_code"] == 13


def test_errors_of_hours_that_are_read_at_once_are_told_each():
    """As after a watch was down: nothing ticks between the lines."""
    incidents, told = Incidents(), []
    for hours, code in enumerate((79, 48, 31)):
        told += see(incidents, xid(code), 3600 * hours)
    assert [(each.attributes["code"], each.attributes["phase"]) for each in told] == [
        (79, "raised"),
        (48, "raised"),
        (31, "raised"),
    ]


def test_a_clock_that_is_set_back_neither_holds_an_incident_open_nor_joins_what_is_far_apart():
    incidents, hour_ns = Incidents(), 3600 * 10**9
    incidents.see(Sighting(parse_line(xid(79)), "kmsg", 10**18, steady_ns=0))
    assert incidents.tick(BURST_NS) == []
    later = Sighting(parse_line(xid(31)), "kmsg", 10**18 - hour_ns, steady_ns=hour_ns)
    assert [each.attributes["phase"] for each in incidents.see(later)] == ["raised"]


def test_163_is_over_when_162_comes():
    incidents = Incidents()
    see(incidents, xid(163, "x"))
    see(incidents, xid(163, "x"))
    see(incidents, xid(162, "x"))
    assert [each.attributes["code"] for each in incidents.tick(10**12)] == []


def test_the_drivers_verdict_comes_before_the_catalogue_and_local_policy_last():
    incidents = Incidents({167: "DRAIN"})
    assert see(incidents, xid(109))[0].attributes["action_source"] == "catalogue"
    assert see(incidents, xid(167, "x", "PCI:0000:19:00"))[0].attributes["action"] == "DRAIN"
    see(incidents, xid(154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"), 1)
    incidents.tick(10**18)
    (report,) = see(incidents, xid(109), 10**9)
    assert (report.attributes["action"], report.attributes["action_source"]) == ("REBOOT_NODE", "driver")


def test_an_injected_line_is_marked_and_gives_no_verdict():
    incidents = Incidents()
    see(incidents, xid(154, "changed from 0x0 (None) to 0x1 (GPU Reset Required)"), injected=True)
    assert incidents.recoveries == {}
    (report,) = see(incidents, xid(79), injected=True)
    assert report.attributes["injected"] is True


def test_one_switch_error_of_three_lines_is_one_event():
    incidents = Incidents()
    head = "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"
    told = see(incidents, head)
    for rest in ("Severity 1 Engine instance 30 Sub-engine instance 00", "Data {0x00000001, 0x0}"):
        told += see(incidents, f"nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, {rest}")
    assert [(each.name, each.attributes["severity"], each.attributes["link"]) for each in told] == [
        ("gpu.sxid", "fatal", 30)
    ]


def test_a_flood_of_made_up_addresses_is_bounded_and_counted():
    incidents = Incidents()
    told = [each for at in range(10_000) for each in see(incidents, xid(31, gpu=f"PCI:{at:04x}:00:00"))]
    assert len(told) == 129
    assert told[-1].name == "gpu.xid_flood"
    last = incidents.tick(10**12)[-1]
    assert (last.name, last.attributes["not_told"]) == ("gpu.xid_flood", 10_000 - 128)
    assert len(incidents.totals) <= 1024


def test_a_log_is_read_as_one_window():
    found = incidents_of_log([xid(48), xid(45), "other", xid(48), xid(63, gpu="PCI:0000:19:00")])
    assert [(each["code"], each["count"], each["followers"]) for each in found] == [(48, 2, {"45": 1}), (63, 1, {})]


def test_every_code_has_a_meaning_and_disagreements_are_stated():
    codes = tables()["xid"]["codes"]
    assert len(codes) == 172
    assert "2025-10" in tables()["xid"]["source"]
    assert xid_meaning(109).others == {"gpud": "no action"}
    assert xid_meaning(32).others["gpud"].startswith("reboot")
    assert xid_meaning(4000).severity == "unknown"
    assert xid_meaning(4000).action == ""
    assert sxid_meaning(12020) == ("egress sequence ID error", "always")


@pytest.mark.parametrize(
    ("code", "unit", "log", "intrinfo", "status", "expected"),
    [
        (144, "SAW_MVB", "fatal", 0x00000021, 0x2, ("fatal", "RESET_GPU", 1)),
        (144, "SAW_MVB", "non-fatal", 0x00000021, 0x1, ("non-fatal", "IGNORE", 1)),
        (144, "SAW_MVB", "fatal", 0x00000021, 0x1, ("fatal", "IGNORE", 1)),
        (144, "SAW_MVB", "non-fatal", 0x00000021, 0x3, ("fatal", "RESET_GPU", 2)),
        (149, "NETIR_LINK_DOWN", "link fatal", 0x011001C6, 0x0, ("link fatal", "RESET_GPU", 1)),
    ],
)
def test_an_nvlink_error_is_decoded_by_unit_status_and_pattern(code, unit, log, intrinfo, status, expected):
    found = decode_nvlink5(code, unit, log, intrinfo, status)
    assert (found.severity, found.action, found.bits) == expected


def test_an_nvlink_error_without_a_rule_keeps_the_base_code_and_says_so():
    assert decode_nvlink5(149, "NO_SUCH_UNIT", "fatal", 0, 0) is None
    (report,) = see(Incidents(), xid(149, "NO_SUCH_UNIT Fatal XC0 i0 Link 1 (0x0 0x0)"))
    assert report.attributes["nvlink5"] == {"unit": "NO_SUCH_UNIT", "link": 1, "decoded": False}
    assert report.attributes["action"] == "WORKFLOW_NVLINK5_ERR"
    assert worse("fatal", "non-fatal") == worse("non-fatal", "fatal") == "fatal"


def test_xid_13_at_one_place_speaks_for_the_hardware_and_spread_for_the_application():
    same = [XidLine("0000:18:00", 13, "", pid, f"job{pid}", place=(1, 2, pid % 2)) for pid in (5, 6, 7)]
    assert pattern_of(13, same)["verdict"] == "hardware"
    assert "GPC 1 TPC 2" in pattern_of(13, same)["why"]
    spread = [XidLine("0000:18:00", 13, "", 5, "train", place=(gpc, 0, 0)) for gpc in range(3)]
    assert pattern_of(13, spread)["verdict"] == "application"
    assert pattern_of(13, spread[:1])["verdict"] == "undecided"


def test_xid_31_of_different_jobs_on_one_gpu_speaks_for_the_hardware():
    jobs = [XidLine("0000:18:00", 31, "", pid, f"job{pid}") for pid in (5, 6, 7)]
    assert pattern_of(31, jobs)["verdict"] == "hardware"
    restarted = [XidLine("0000:18:00", 31, "", pid, "train") for pid in (5, 6, 7)]
    assert pattern_of(31, restarted)["verdict"] == "undecided", "one buggy program that was started anew"
    nameless = [XidLine("0000:18:00", 31, "", pid) for pid in (5, 6, 7)]
    assert pattern_of(31, nameless)["verdict"] == "undecided"
    one = [XidLine(f"0000:{bus}:00", 31, "", 5, "train") for bus in ("18", "19")]
    assert pattern_of(31, one)["verdict"] == "application"


def test_growth_is_robust_against_one_outlier():
    flat = [(float(at), 1000 * MIB) for at in range(60)]
    flat[30] = (30.0, 9000 * MIB)
    assert growth(flat).slope_bytes_per_s == 0
    steady = [(float(at), (1000 + 14 * (at // 10)) * MIB) for at in range(60)]
    found = growth(steady)
    assert 1.0 * MIB < found.slope_bytes_per_s < 1.8 * MIB
    assert found.steps == (14 * MIB,) * 5
    assert "segment of its own" in found.signature
    assert step_kind(2 * MIB).endswith("(2 MiB)")
    assert step_kind(20 * MIB).endswith("(20 MiB)")
    assert step_kind(3 * MIB + 1).startswith("not")
    assert growth(steady[:2]) is None


def snapshot(**metrics):
    absent = Missing(Reason.NO_DATA, "test")
    told = {name: Value(metrics[name]) if name in metrics else absent for name in METRICS}
    return Snapshot(Identity(0, "GPU-x", "x", "0000:18:00"), told, Value(()))


@given(
    looks=st.lists(st.tuples(st.integers(1, 30), st.none() | st.integers(0, 9)), min_size=1), asked=st.integers(0, 9)
)
def test_a_series_is_what_was_read_in_its_window_whenever_it_is_asked_for(looks, asked):
    history, at_s, read = History(100), 0, []
    for number, (step, value) in enumerate(looks):
        at_s += step
        history.add(at_s, snapshot() if value is None else snapshot(sm_util_percent=value))
        read += [] if value is None else [(at_s, value)]
        if number >= asked:
            for window_s in (20, 100, math.inf):
                expected = [each for each in read if at_s - each[0] <= min(window_s, 100)]
                assert history.series("sm_util_percent", window_s) == expected


@pytest.mark.parametrize("step_s", [0.05, 0.19, 0.2, 0.2005, 0.204, 0.21, 0.3])
def test_a_window_is_covered_once_looks_that_far_apart_fill_it_and_not_before(step_s):
    history, covered = History(1.6), []
    for number in range(40):
        history.add(number * step_s, snapshot())
        covered.append(history.covers(1.6))
    first = covered.index(True)
    assert 1.6 * 0.9 - step_s <= first * step_s <= 1.6
    assert all(covered[first:])


def test_the_longest_window_that_a_policy_may_have_is_covered():
    settings = parse_settings({"growth_window_s": 40960.0}, "test")
    history = History(settings.growth_window_s)
    for number in range(2 * MOST_LOOKS):
        history.add(number * settings.interval_s, snapshot())
    assert history.covers(settings.growth_window_s)


def test_the_usual_replay_rate_follows_the_links_speed():
    def replays(count, generation):
        history = History(100)
        for at_s, replayed in ((0, 0), (60, count)):
            history.add(at_s, snapshot(pcie_replay_count=replayed, pcie_width=16, pcie_generation=generation))
        return pcie_replay(history, Settings())

    assert replays(31, 5) is False
    assert isinstance(replays(32, 5), Holds)
    assert replays(16, 4) is False
    assert isinstance(replays(17, 4), Holds)


def test_a_condition_that_becomes_another_is_told_again_and_the_status_says_what_it_is_now():
    alerts, asks = Alerts(), "gpu.recovery_action"
    told = [alerts.judge(asks, "GPU-x", asked_for(action), {}) for action in ("RESET_GPU", "RESET_GPU", "REBOOT_NODE")]
    assert [[each.attributes["action"] for each in reports] for reports in told] == [["RESET_GPU"], [], ["REBOOT_NODE"]]
    assert alerts.active[asks, "GPU-x"].facts["action"] == "REBOOT_NODE"
    hotter = [alerts.judge("gpu.temperature", "GPU-x", Holds(f"{left} left", {}), {}) for left in (5, 3)]
    assert [len(reports) for reports in hotter] == [1, 0]
    assert alerts.active["gpu.temperature", "GPU-x"].why == "3 left"


def test_a_condition_that_cannot_be_judged_neither_raises_nor_clears():
    alerts, history = Alerts(), History(100)
    history.add(0, snapshot())
    assert alerts.judge_all("gpu0", history, Settings(), {}) == []
    assert stuck(history, Settings()) is None
    raised = alerts.judge("gpu.ecc", "gpu0", Holds("x", {}), {})
    assert raised
    assert [alerts.judge("gpu.ecc", "gpu0", None, {}) for _ in range(9)] == [[]] * 9
    assert ("gpu.ecc", "gpu0") in alerts.active
    assert alerts.judge("gpu.ecc", "gpu0", False, {}) == [], "one quiet look is not the end"
    assert alerts.judge("gpu.ecc", "gpu0", False, {})[0].attributes["state"] == "cleared"
