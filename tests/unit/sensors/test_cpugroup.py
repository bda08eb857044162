"""CPU groups, as both versions write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.sensors.cpugroup import Quota, Throttling, parse_cpu_max, parse_throttling


def test_both_versions_tell_throttling_alike() -> None:
    first = parse_throttling(b"nr_periods 9\nnr_throttled 4\nthrottled_time 2500000000\n")
    second = parse_throttling(b"usage_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 2500000\n")
    assert first == second == Throttling(9, 4, 2.5)


def test_without_throttling_there_is_none_to_tell() -> None:
    with pytest.raises(ValueError, match="no throttled time"):
        parse_throttling(b"usage_usec 5\n")


def test_a_limit_of_version_2() -> None:
    assert parse_cpu_max(b"50000 100000\n").cpus == 0.5
    assert parse_cpu_max(b"max 100000\n") == Quota(None, 100000)


@given(st.binary(max_size=60))
def test_any_bytes_are_figures_or_a_value_error(data: bytes) -> None:
    for parse in (parse_throttling, parse_cpu_max):
        try:
            parse(data)
        except ValueError:
            continue
