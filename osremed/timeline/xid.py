"""Lines of the NVIDIA driver -> sightings. Pure; every name and text in them is untrusted and bounded.

Forms: Xid with and without `PCI:`, MIG instances, pid and name (which may be `<unknown>`, quoted, or hold commas);
Xid 45 with its root, 154 with the recovery action, 144-150 with NVLink words; SXid of an NVSwitch with its
continuation lines; a GPU that fell off the bus without an Xid; RmInitAdapter; `GPU at PCI:...: GPU-<uuid>`.
"""

from __future__ import annotations

import re

from osremed.core.record import record

_BDF = r"(?:PCI:)?([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?"
_XID = re.compile(
    rf"NVRM: Xid \({_BDF}(?: GPU-I:([0-9]{{1,4}}))?(?: GPU-CI:([0-9]{{1,4}}))?\): ([0-9]{{1,4}})(?:, ?|$)(.*)",
    re.DOTALL,
)
_PID = re.compile(r"pid='?(<unknown>|[0-9]{1,10})'?,? ?")
_NAME = re.compile(r"name=('[^']{0,64}'|<unknown>)(?:, |$)")
_SXID = re.compile(rf"nvidia-nvswitch([0-9]{{1,4}}): SXid \({_BDF}\): ([0-9]{{1,6}}), ?(.*)", re.DOTALL)
_SXID_HEAD = re.compile(r"(Fatal|Non-fatal), (?:Link (-?[0-9]{1,4}) ?)?")
_NAMED = re.compile(rf"NVRM: GPU at {_BDF}: (GPU-[0-9a-fA-F-]{{8,64}})")
_OFF_BUS = re.compile(rf"NVRM: (?:The NVIDIA )?GPU (?:at )?{_BDF}[\s\S]{{0,300}}?fallen off the bus")
_INIT_FAILED = re.compile(rf"NVRM: GPU (?:at )?{_BDF}: RmInitAdapter failed!(.{{0,80}})")
_ROOT = re.compile(r"caused by previous Xid ([0-9]{1,4})")
_RECOVERY = re.compile(r"changed from 0x([0-9a-fA-F]{1,4}) .{0,60}?to 0x([0-9a-fA-F]{1,4})")
_NVLINK = re.compile(
    r"([A-Z][A-Z0-9_]{1,31}) (Nonfatal|Non-fatal|Fatal|Link Fatal) XC[0-9]{1,3} i[0-9]{1,3} Link (-?[0-9]{1,3})"
    r" \((0x[0-9a-fA-F]{1,8}) (0x[0-9a-fA-F]{1,8})"
)
_PLACE = re.compile(r"GPC ([0-9]{1,3}), TPC ([0-9]{1,3})(?:, SM ([0-9]{1,3}))?")
_PREFIX = re.compile(r"(?:.{0,120}? kernel: )?(?:<[0-9]{1,3}>)?(?:\[[ 0-9.TZ:+-]{1,40}\] ?)?(?=NVRM: |nvidia-nvswitch)")
_LONGEST_TEXT = 500


@record
class NvlinkWords:
    unit: str
    severity: str
    link: int
    intrinfo: int
    status: int


@record
class XidLine:
    """`pid` 0 and `process` empty when the driver does not tell. `root_code` is what a 45 names, `recovery` what a 154
    changed to, `place` (GPC, TPC, SM) of a 13; `mig` (GPU instance, compute instance)."""

    bdf: str
    code: int
    text: str
    pid: int = 0
    process: str = ""
    mig: tuple[int, int] | None = None
    root_code: int = 0
    recovery: int | None = None
    place: tuple[int, int, int] | None = None
    nvlink: NvlinkWords | None = None


@record
class SxidLine:
    """`head` false: a continuation of the error told before, not another one."""

    switch: int
    bdf: str
    code: int
    fatal: bool
    link: int
    text: str
    head: bool


@record
class InitFailedLine:
    bdf: str
    detail: str


@record
class NamedLine:
    """The driver tells which uuid sits at which address, once a GPU and boot."""

    bdf: str
    uuid: str


def parse_line(text: str) -> XidLine | SxidLine | InitFailedLine | NamedLine | None:
    """What the driver said, or None for any other line. Never raises."""
    if text.startswith("NVRM: "):
        return _xid(text) or _other(text)
    return _sxid(text) if text.startswith("nvidia-nvswitch") else None


def strip_prefix(line: str) -> str:
    """A line of dmesg or of a syslog file without its time and `kernel:`; another line as it is."""
    found = _PREFIX.match(line[:400])
    return line[found.end() :] if found else line


def bdf_of(domain: str, bus: str, device: str) -> str:
    """The one spelling used everywhere: `0000:18:00`."""
    return f"{int(domain, 16):04x}:{bus}:{device}".lower()


def _xid(text: str) -> XidLine | None:
    found = _XID.match(text)
    if found is None:
        return None
    domain, bus, device, gi, ci, code, rest = found.groups()
    pid, process, rest = _owner(rest[:2000])
    number = int(code)
    root = _ROOT.search(rest) if number == 45 else None
    changed = _RECOVERY.search(rest) if number == 154 else None
    place = _PLACE.search(rest) if number == 13 else None
    return XidLine(
        bdf_of(domain, bus, device),
        number,
        rest[:_LONGEST_TEXT].strip(),
        pid,
        process,
        None if gi is None else (int(gi), int(ci or 0)),
        int(root.group(1)) if root else 0,
        int(changed.group(2), 16) if changed else None,
        (int(place.group(1)), int(place.group(2)), int(place.group(3) or 0)) if place else None,
        _nvlink(rest) if 144 <= number <= 150 else None,
    )


def _owner(rest: str) -> tuple[int, str, str]:
    """(pid, name, text after them). A name without quotes may hold `, `: it ends before the first part that begins
    like the driver's own words, with a capital letter."""
    pid = 0
    found = _PID.match(rest)
    if found:
        pid = int(found.group(1)) if found.group(1).isdigit() else 0
        rest = rest[found.end() :]
    if not rest.startswith("name="):
        return pid, "", rest
    found = _NAME.match(rest)
    if found:
        name = found.group(1).strip("'")
        return pid, "" if name == "<unknown>" else name, rest[found.end() :]
    parts = rest[5:].split(", ")
    own = next((at for at in range(1, min(len(parts), 6)) if parts[at][:1].isupper()), 1)
    return pid, ", ".join(parts[:own])[:64], ", ".join(parts[own:])


def _nvlink(rest: str) -> NvlinkWords | None:
    found = _NVLINK.search(rest)
    if found is None:
        return None
    unit, severity, link, intrinfo, status = found.groups()
    severity = severity.lower().replace("nonfatal", "non-fatal")
    return NvlinkWords(unit, severity, int(link), int(intrinfo, 16), int(status, 16))


def _other(text: str) -> XidLine | InitFailedLine | NamedLine | None:
    found = _NAMED.match(text)
    if found:
        return NamedLine(bdf_of(*found.group(1, 2, 3)), found.group(4))
    found = _INIT_FAILED.match(text)
    if found:
        return InitFailedLine(bdf_of(*found.group(1, 2, 3)), found.group(4).strip())
    found = _OFF_BUS.match(text)
    if found:
        return XidLine(bdf_of(*found.group(1, 2, 3)), 79, "fallen off the bus (told without an Xid)")
    return None


def _sxid(text: str) -> SxidLine | None:
    found = _SXID.match(text)
    if found is None:
        return None
    switch, domain, bus, device, code, rest = found.groups()
    head = _SXID_HEAD.match(rest)
    link = int(head.group(2)) if head and head.group(2) else -1
    fatal = head is not None and head.group(1) == "Fatal"
    words = rest[head.end() :] if head else rest
    bdf = bdf_of(domain, bus, device)
    return SxidLine(int(switch), bdf, int(code), fatal, link, words[:_LONGEST_TEXT].strip(), head is not None)
