"""Every documented form of a driver line, and hostile ones."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osremed.sensors import kmsg
from osremed.timeline.xid import InitFailedLine, NamedLine, SxidLine, XidLine, parse_line, strip_prefix

FORMS = {
    "with pid and name": (
        "NVRM: Xid (PCI:0000:18:00): 43, pid=123, name=python3, Ch 00000008",
        XidLine("0000:18:00", 43, "Ch 00000008", 123, "python3"),
    ),
    "old, without PCI, pid and name": (
        "NVRM: Xid (0000:3b:00): 8, Channel 00000001",
        XidLine("0000:3b:00", 8, "Channel 00000001"),
    ),
    "upper case and eight digits of domain and a function": (
        "NVRM: Xid (PCI:00000000:AF:00.0): 79, GPU has fallen off the bus.",
        XidLine("0000:af:00", 79, "GPU has fallen off the bus."),
    ),
    "unknown owner, quoted": (
        "NVRM: Xid (PCI:0000:18:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        XidLine("0000:18:00", 79, "GPU has fallen off the bus."),
    ),
    "unknown owner, without quotes": (
        "NVRM: Xid (PCI:0000:18:00): 62, pid=<unknown>, name=<unknown>, 4a5c0000 00000000",
        XidLine("0000:18:00", 62, "4a5c0000 00000000"),
    ),
    "a name that holds commas": (
        "NVRM: Xid (PCI:0000:18:00): 31, pid=7, name=my, app, x, Ch 00000010, intr 10000000. MMU Fault",
        XidLine("0000:18:00", 31, "Ch 00000010, intr 10000000. MMU Fault", 7, "my, app, x"),
    ),
    "MIG, GPU instance alone": (
        "NVRM: Xid (PCI:0000:18:00 GPU-I:05): 94, pid=9, name=a.out, Contained: SM (0x1).",
        XidLine("0000:18:00", 94, "Contained: SM (0x1).", 9, "a.out", (5, 0)),
    ),
    "MIG, with compute instance": (
        "NVRM: Xid (PCI:0000:18:00 GPU-I:05 GPU-CI:02): 13, Graphics SM Warp Exception on (GPC 1, TPC 2, SM 1): x",
        XidLine(
            "0000:18:00",
            13,
            "Graphics SM Warp Exception on (GPC 1, TPC 2, SM 1): x",
            mig=(5, 2),
            place=(1, 2, 1),
        ),
    ),
    "45 with its root": (
        "NVRM: Xid (PCI:0000:18:00): 45, pid=9, name=p, Ch 00000008, caused by previous Xid 13",
        XidLine("0000:18:00", 45, "Ch 00000008, caused by previous Xid 13", 9, "p", root_code=13),
    ),
    "154 with the driver's verdict": (
        "NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
        XidLine(
            "0000:18:00",
            154,
            "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
            recovery=1,
        ),
    ),
    "without any text": ("NVRM: Xid (PCI:0000:18:00): 119", XidLine("0000:18:00", 119, "")),
    "off the bus, short": (
        "NVRM: GPU 0000:5e:00.0: GPU has fallen off the bus.",
        XidLine("0000:5e:00", 79, "fallen off the bus (told without an Xid)"),
    ),
    "off the bus, one record of several lines": (
        "NVRM: The NVIDIA GPU 0000:5e:00.0\nNVRM: (PCI ID: 10de:2330) installed in this system has\n"
        "NVRM: fallen off the bus and is not responding to commands.",
        XidLine("0000:5e:00", 79, "fallen off the bus (told without an Xid)"),
    ),
    "initialisation failed": (
        "NVRM: GPU 0000:5e:00.0: RmInitAdapter failed! (0x62:0x40:2477)",
        InitFailedLine("0000:5e:00", "(0x62:0x40:2477)"),
    ),
    "the uuid": (
        "NVRM: GPU at PCI:0000:5e:00: GPU-7c9a2f30-1111-2222-3333-444455556666",
        NamedLine("0000:5e:00", "GPU-7c9a2f30-1111-2222-3333-444455556666"),
    ),
    "SXid, head": (
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
        SxidLine(3, "0000:c1:00", 12028, False, 32, "egress non-posted PRIV error (First)", True),
    ),
    "SXid, continuation": (
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Severity 0 Engine instance 32 Sub-engine instance 00",
        SxidLine(3, "0000:c1:00", 12028, False, -1, "Severity 0 Engine instance 32 Sub-engine instance 00", False),
    ),
}

NOT_OURS = [
    "",
    "NVRM: ",
    "NVRM: Xid",
    "NVRM: Xid (PCI:0000:18:00): , pid=1",
    "NVRM: Xid (PCI:0000:18:00): 99999999999999999999",
    "NVRM: Xid (PCI:zzzz:18:00): 79",
    "systemd[1]: NVRM: Xid (PCI:0000:18:00): 79, a program says so",
    'audit: comm="NVRM: Xid (PCI:0000:18:00): 79"',
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.124.06",
    "nvidia-nvswitch3: open (major=234)",
]


@pytest.mark.parametrize(("line", "means"), FORMS.values(), ids=FORMS.keys())
def test_a_documented_form_is_read(line, means):
    assert parse_line(line) == means


@pytest.mark.parametrize("line", NOT_OURS)
def test_another_line_says_nothing(line):
    assert parse_line(line) is None


def test_nvlink_words_are_read():
    line = parse_line(
        "NVRM: Xid (PCI:0000:19:00): 149, NETIR_LINK_EVT Link Fatal XC0 i0 Link 03 (0x004001c6 0x0 0x0 0x0)"
    )
    assert line.nvlink is not None
    assert (line.nvlink.unit, line.nvlink.severity, line.nvlink.link) == ("NETIR_LINK_EVT", "link fatal", 3)
    assert (line.nvlink.intrinfo, line.nvlink.status) == (0x004001C6, 0)
    general = parse_line(
        "NVRM: Xid (PCI:0000:19:00): 145, RLW_CTRL Nonfatal XC0 i0 Link -1 (0x00000062 0x80000000 0x0)"
    )
    assert (general.nvlink.link, general.nvlink.severity) == (-1, "non-fatal")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "[   12.345678] ",
        "<4>[   12.345678] ",
        "Nov 22 04:00:00 host kernel: ",
        "2026-11-22T04:00:00+00:00 h kernel: [1.2] ",
    ],
)
def test_a_line_of_a_log_file_is_read_without_what_stands_before_it(prefix):
    line = strip_prefix(prefix + "NVRM: Xid (PCI:0000:18:00): 79, x")
    assert parse_line(line) == XidLine("0000:18:00", 79, "x")


def test_a_program_that_logs_a_driver_line_is_not_taken_for_the_driver():
    line = "Nov 22 04:00:00 host app[77]: NVRM: Xid (PCI:0000:18:00): 79, x"
    assert parse_line(strip_prefix(line)) is None


def test_a_kernel_record_is_unescaped_and_its_writer_told_by_facility():
    line = kmsg.parse(b"4,1234,5678901,-;NVRM: Xid (PCI:0000:18:00): 31, name=a\\x0ab\\xc3\\xa4\n SUBSYSTEM=pci\n")
    assert (line.seq, line.usec, line.facility, line.level) == (1234, 5678901, 0, 4)
    assert line.text.endswith("name=a\nbä")
    assert not line.injected
    assert kmsg.parse(b"12,1,2,-;x\n").injected
    assert kmsg.parse(b"6,1,2,-,caller=T1;x").text == "x"


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        assert isinstance(kmsg.parse(data).text, str)


def mutated(rng):
    """A documented line with a few characters changed, cut, doubled or added."""
    text = list(rng.choice([form[0] for form in FORMS.values()]))
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(text) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            text[at : at + rng.randrange(1, 8)] = []
        elif kind == 1:
            text.insert(at, chr(rng.choice([0, 10, 39, 40, 41, 44, 58, 48, 57, 97, 0x2028, 0x10FFFF, 0xD800])))
        elif kind == 2:
            text[at:at] = text[at : at + 20]
        else:
            text[at:at] = str(rng.randrange(1 << 70))
    return "".join(text)


def fuzz(count, seed):
    rng = random.Random(seed)
    understood = 0
    for _ in range(count):
        found = parse_line(strip_prefix(mutated(rng)))
        if isinstance(found, XidLine):
            assert 0 <= found.code <= 9999
            assert 0 <= found.pid < 10**10
            assert len(found.process) <= 64
            assert len(found.text) <= 500
        understood += found is not None
    return understood


def test_mutated_lines_never_break_the_parser():
    assert fuzz(20_000, 7) > 1000
