from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osremed.core.errors import BadInput
from osremed.hotspot.diff import compare
from osremed.hotspot.formats import perfscript, pprof, protobuf
from osremed.hotspot.formats.table import FORMATS, guess, write
from osremed.hotspot.model import Frame, Profile, frame_text, weight_s
from osremed.hotspot.tree import stack_of
from tests.unit.hotspot.made import frame, profile, sample

HOSTILE = "a;b c\n</script><script>\x1b[2J (x) [y]"
MADE = profile(
    sample(1, frame("main", line=3), frame("work", line=14), Frame("native", "memcpy", "/usr/lib/libc.so.6")),
    sample(2, frame("main", line=3), Frame("kernel", "do_syscall_64")),
    sample(3, frame("main", line=3), frame("work", line=15)),
)


def folded(made: Profile) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in made.samples:
        text = ";".join(frame_text(part._replace(line=0)) for part in stack_of(each))
        found[text] = found.get(text, 0.0) + each.weight_ns / 1e9
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_what_goes_out_comes_in_again(name: str) -> None:
    data = write(MADE, name, "cpu")
    assert guess(data) == name
    back = FORMATS[name].read(data, "x")
    assert weight_s(back.samples) == pytest.approx(weight_s(MADE.samples), rel=0.02)
    one, two = folded(MADE), folded(back)
    assert {text.split(" (")[0] for text in two} == {text.split(" (")[0] for text in one}
    leaves = {each.stack[-1].name.split(" ")[0] for each in back.samples}
    assert leaves == {"memcpy", "do_syscall_64", "work"}


@pytest.mark.parametrize("name", ["perf", "firefox"])
def test_formats_with_times_keep_them(name: str) -> None:
    back = FORMATS[name].read(write(MADE, name, "cpu"), "x")
    for one, two in zip(MADE.samples, back.samples):
        assert abs(one.at_ns - two.at_ns) < 2_000_000


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_break_no_format(name: str) -> None:
    made = profile(sample(1, frame(HOSTILE, file=HOSTILE), Frame("native", HOSTILE, HOSTILE), process=HOSTILE))
    back = FORMATS[name].read(write(made, name, "cpu"), "x")
    assert len(back.samples) == 1
    assert len(back.samples[0].stack) == 2


def test_merged_samples_count_as_many() -> None:
    texts = (b"app;a 600\napp;b 400\n", b"app;a 400\napp;b 600\n")
    one, two = (FORMATS["folded"].read(text, "x") for text in texts)
    found = compare(one, two)
    assert found.samples == (1000, 1000)
    assert [change.significant for change in found.functions] == [True, True]


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_profile_or_bad_input(name: str, data: bytes) -> None:
    for candidate in (data, gzip.compress(data), b"\n\x04" + data):
        try:
            FORMATS[name].read(candidate, "x")
        except BadInput:
            continue


@pytest.mark.parametrize("name", FORMATS)
@given(at=st.integers(0, 5000), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(name: str, at: int, byte: int) -> None:
    data = bytearray(write(MADE, name, "cpu"))
    data[at % len(data)] = byte
    try:
        FORMATS[name].read(bytes(data), "x")
    except BadInput:
        return


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda each: st.lists(each, max_size=3)
                    | st.dictionaries(st.sampled_from(["shared", "frames", "profiles", "threads", "meta", "startTime",
                                                       "samples", "weights", "type"]), each)))  # fmt: skip
def test_any_json_is_a_profile_or_bad_input(document: object) -> None:
    for name in ("speedscope", "firefox"):
        try:
            FORMATS[name].read(json.dumps(document).encode(), "x")
        except BadInput:
            continue


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_varints_come_back(value: int) -> None:
    assert protobuf.read_varint(protobuf.varint(value), 0)[0] == value & ((1 << 64) - 1)


def test_pprof_says_values_period_and_time() -> None:
    plain = gzip.decompress(pprof.export(MADE.samples, 17, 18, 19))
    found = {number: value for number, value, body in protobuf.fields(plain) if not body}
    assert (found[9], found[10], found[12]) == (17, 18, 19)
    strings = [body for number, _, body in protobuf.fields(plain) if number == 6]
    assert strings[0] == b""
    assert b"nanoseconds" in strings


def test_a_pprof_bomb_is_refused() -> None:
    with pytest.raises(BadInput, match="larger"):
        pprof.parse(gzip.compress(bytes(600 << 20), 9))


def test_perf_script_as_perf_writes_it() -> None:
    text = (
        b"# captured on: a day\n"
        b"python3  4242/4243 [001]  3171.123456:   10101010 cpu-clock:pppH: \n"
        b"\tffffffff8104e2c6 native_write+0x6 ([kernel.kallsyms])\n"
        b"\t    7f1c2a0b1234 PyEval+0x12 (/usr/lib/libpython3.11.so.1.0)\n\n"
        b"swap per 1  3171.2: cpu-clock: \n\n"
    )
    with pytest.raises(BadInput, match=r"x:6"):
        perfscript.parse(text, "x")
    back = perfscript.parse(text.replace(b"3171.2:", b"3171.200000:"), "x")
    assert (back.samples[0].process, back.samples[0].pid) == ("python3", 4242)
    assert [each.name for each in back.samples[0].stack] == ["PyEval", "native_write"]


@pytest.mark.parametrize("line", [b"a;b", b"a;b x", b"a;b -1", b"12", b"a;b 99999999999999999999"])
def test_a_line_that_is_not_folded_is_named(line: bytes) -> None:
    with pytest.raises(BadInput, match="x:2"):
        FORMATS["folded"].read(b"a;b 1\n" + line + b"\n", "x")
