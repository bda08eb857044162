"""Which control groups are asked whether their CPU limit stops them."""

from __future__ import annotations

from pathlib import Path

from osremed.core.reading import Missing, Value
from osremed.hotspot.hostseconds import Throttling


def group(root: Path, path: str, quota: str = "max", *, throttled_s: int = 1) -> tuple[str, str]:
    """A control group (v2) with its limit."""
    directory = root / path.lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.max").write_text(f"{quota} 100000\n")
    (directory / "cpu.stat").write_text(f"nr_periods 9\nnr_throttled 4\nthrottled_usec {throttled_s}000000\n")
    return str(directory), path


def test_a_limit_is_seen_however_many_groups_without_one_run(tmp_path: Path) -> None:
    groups = dict(group(tmp_path, f"/g{number:03}") for number in range(250))
    assert isinstance(Throttling().totals(groups), Missing)
    groups.update([group(tmp_path, "/z", "5000", throttled_s=7)])
    assert Throttling().totals(groups) == Value({"/z": 7.0})


def test_the_limit_of_a_slice_or_a_pod_above_is_seen(tmp_path: Path) -> None:
    group(tmp_path, "/kube.slice")
    group(tmp_path, "/kube.slice/pod1", "5000", throttled_s=3)
    groups = dict(group(tmp_path, f"/kube.slice/pod1/{name}") for name in ("a", "b"))
    groups.update([group(tmp_path, "/kube.slice/pod1/a/inner", "9000", throttled_s=2)])
    assert Throttling().totals(groups) == Value({"/kube.slice/pod1": 3.0, "/kube.slice/pod1/a/inner": 2.0})


def test_what_is_too_much_to_read_is_a_gap(tmp_path: Path) -> None:
    throttling = Throttling()
    read = throttling.totals(dict(group(tmp_path, f"/g{number:03}", "5000") for number in range(230)))
    assert isinstance(read, Value)
    assert len(read.value) == 200
    assert throttling.gaps() == ("30 control groups with a CPU limit were not read: their throttling is not known",)
    throttling.totals({})
    assert throttling.gaps() == ()


def test_a_limited_group_that_cannot_be_read_is_not_told_as_none(tmp_path: Path) -> None:
    directory, path = group(tmp_path, "/web", "5000")
    Path(directory, "cpu.stat").write_text("usage_usec 5\n")
    read = Throttling().totals({directory: path})
    assert isinstance(read, Missing)
    assert "no group with a CPU limit" not in str(read)
