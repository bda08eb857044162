"""Stall totals: exact, and unsupported where the kernel has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.reading import Reason, Value
from osremed.sensors import psi

SOME = b"some avg10=0.12 avg60=0.00 avg300=0.00 total=123\n"
FULL = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=45\n"


def test_totals_are_read_and_full_may_be_absent() -> None:
    assert psi.parse(SOME + FULL) == psi.Pressure(123, 45)
    assert psi.parse(SOME) == psi.Pressure(123, None)


@pytest.mark.parametrize("data", [b"", FULL, b"some avg10=0.00\n", b"some total=-1\n", b"many total=5\n"])
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        psi.parse(data)


@given(st.binary(max_size=120), st.integers(0, 100))
def test_damage_raises_nothing_but_value_error(noise: bytes, at: int) -> None:
    try:
        psi.parse((SOME + FULL)[:at] + noise)
    except ValueError as error:
        assert not isinstance(error, UnicodeError)


def test_a_kernel_without_psi_is_unsupported_and_not_calm(tmp_path: Path) -> None:
    assert psi.node("memory", str(tmp_path)).reason is Reason.UNSUPPORTED
    assert psi.group(str(tmp_path), "memory").reason is Reason.UNSUPPORTED
    (tmp_path / "memory.pressure").write_bytes(SOME + FULL)
    assert psi.group(str(tmp_path), "memory") == Value(psi.Pressure(123, 45))
