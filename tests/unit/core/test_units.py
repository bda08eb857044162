"""A quantity in text carries its unit, or it is refused with an example."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.core.units import format_bytes, format_duration, parse_bytes, parse_duration_s, parse_ratio

PARSERS = [parse_duration_s, parse_bytes, parse_ratio]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10), ("5m", 300), ("2h", 7200), ("1d", 86400), (" 1.5 s ", 1.5), ("0s", 0)],
)
def test_durations(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("512MiB", 512 << 20), ("4 GB", 4_000_000_000), ("1B", 1), ("0.5KiB", 512), ("2TiB", 2 << 40)]
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(("text", "ratio"), [("5%", 0.05), ("100%", 1.0), ("0%", 0.0), ("12.5 %", 0.125)])
def test_shares(text, ratio):
    assert parse_ratio(text) == ratio


@given(st.integers(0, 10**12), st.sampled_from(["B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]))
def test_a_unit_scales_its_number(number, unit):
    base = 1024 if unit.endswith("iB") else 1000
    assert parse_bytes(f"{number}{unit}") == pytest.approx(number * base ** "BKMGT".index(unit[0].upper()), rel=1e-15)


@given(st.integers(0, 1 << 60))
def test_a_formatted_size_parses_back_to_within_its_digits(count):
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.051, abs=0.5)


@given(st.floats(0.001, 1e6))
def test_a_formatted_duration_parses_back_to_within_its_digits(seconds):
    text = format_duration(seconds).replace(" min", "m")
    assert parse_duration_s(text) == pytest.approx(seconds, rel=0.3, abs=0.0001)


@pytest.mark.parametrize("parse", PARSERS)
@given(number=st.integers(0, 10**9))
def test_a_bare_number_is_refused_with_an_example(parse, number):
    with pytest.raises(BadInput, match="no unit") as caught:
        parse(str(number))
    assert "for example" in caught.value.hint


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "-1s", "1e3s", "1 fortnight", "nan%", "inf s", "1,5s", "٣s", "1s\n2s", "1.s", None, 5, ["1s"]],
)
def test_anything_else_is_bad_input(parse, text):
    with pytest.raises(BadInput):
        parse(text)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text())
def test_any_text_is_a_number_or_bad_input(parse, text):
    with contextlib.suppress(BadInput):
        assert parse(text) >= 0


def test_more_than_everything_is_refused():
    with pytest.raises(BadInput, match="more than 100%"):
        parse_ratio("101%")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (39_200_000, "37.4 MiB"), (3 << 50, "3072.0 TiB")],
)
def test_sizes_for_people(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0042, "4.2 ms"), (1.31, "1.31 s"), (720, "12 min"), (86400, "24 h"), (604800, "7 d")]
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text
