"""What XID and SXid codes mean and ask for, and the decode of NVLink 5 errors. Tables are generated
(`tools/make_gpu_tables.py`) and carry their source and what other tools say otherwise."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from osremed.core.record import field, record

#: Field 230 and Xid 154: the driver's own verdict.
RECOVERY_ACTIONS = (
    "NONE",
    "RESET_GPU",
    "REBOOT_NODE",
    "DRAIN_P2P",
    "DRAIN_AND_RESET",
    "RECOVER_IMEX_DOMAIN",
    "RESET_BUS",
    "REBOOT_SYSTEM",
)
_ORDER = ("unexpected", "unknown", "informational", "non-fatal", "link fatal", "fatal")
NVLINK5_CODES = range(144, 151)


@record
class XidMeaning:
    """`others` maps a tool to what it says otherwise."""

    code: int
    label: str
    severity: str
    action: str
    investigate: str
    others: Mapping[str, str] = field(default_factory=dict)


@record
class NvlinkMeaning:
    """`severity` is the worse of the rule's and the log's; `bits` > 1 tells that the status word held several errors
    and that the worst was taken."""

    unit: str
    subcode: int
    severity: str
    action: str
    investigate: str
    local_effect: str
    remote_effect: str
    bits: int


@lru_cache(maxsize=1)
def tables() -> dict[str, Any]:
    data = pkgutil.get_data("osremed.timeline", "tables.json")
    assert data is not None
    found: dict[str, Any] = json.loads(data)
    return found


def xid_meaning(code: int) -> XidMeaning:
    """The catalogue's entry; `unknown`, without an action, for a code it does not list."""
    entry = tables()["xid"]["codes"].get(str(code))
    if entry is None:
        return XidMeaning(code, "not in the catalogue", "unknown", "", "")
    action, investigate = entry["action"], entry["investigate"]
    return XidMeaning(code, entry["label"], entry["severity"], action, investigate, entry["others"])


def sxid_meaning(code: int) -> tuple[str, str]:
    """(label, `no` | `potential` | `always` | `unknown`): whether it is fatal, and to what."""
    entry = tables()["sxid"]["codes"].get(str(code))
    return (entry["label"], entry["fatal"]) if entry else ("not in the guide", "unknown")


def recovery_action(number: int) -> str:
    return RECOVERY_ACTIONS[number] if 0 <= number < len(RECOVERY_ACTIONS) else f"UNKNOWN_{number}"


def worse(left: str, right: str) -> str:
    """The graver of two severities; a word that is not known counts as unknown."""

    def rank(word: str) -> int:
        return _ORDER.index(word) if word in _ORDER else 1

    return left if rank(left) >= rank(right) else right


def decode_nvlink5(code: int, unit: str, log_severity: str, intrinfo: int, status: int) -> NvlinkMeaning | None:
    """The rule for an Xid 144-150; None when none fits (the base code then stands, and the report says so). A status
    word with several bits set fits no rule as a whole: each bit is looked up and the worst taken."""
    subcode = (intrinfo >> 20) & 0x3F
    whole = _rule(code, unit, intrinfo, status)
    if whole is not None:
        return _nvlink_meaning(whole, subcode, log_severity, 1)
    found = [_rule(code, unit, intrinfo, 1 << bit) for bit in range(32) if status >> bit & 1]
    rules = [rule for rule in found if rule is not None]
    if not rules:
        return None
    worst = max(rules, key=lambda rule: _ORDER.index(rule["severity"].lower()))
    return _nvlink_meaning(worst, subcode, log_severity, len(rules))


def _rule(code: int, unit: str, intrinfo: int, status: int) -> Mapping[str, str] | None:
    for rule in tables()["nvlink5"]["rules"]:
        if int(rule["xid"]) != code or unit not in rule["unit"].split("/") or int(rule["error_status"], 16) != status:
            continue
        if _fits(rule["intrinfo_v1"], intrinfo) or _fits(rule["intrinfo_v2"], intrinfo):
            known: Mapping[str, str] = rule
            return known
    return None


def _fits(pattern: str, word: int) -> bool:
    bits = f"{word & 0xFFFFFFFF:032b}"
    return len(pattern) == 32 and all(want in ("-", have) for want, have in zip(pattern, bits))


def _nvlink_meaning(rule: Mapping[str, str], subcode: int, log_severity: str, bits: int) -> NvlinkMeaning:
    return NvlinkMeaning(
        rule["unit"],
        subcode,
        worse(rule["severity"].lower(), log_severity.lower()),
        rule["immediate_action"],
        rule["investigatory_action"],
        rule["local_effect"],
        rule["remote_effect"],
        bits,
    )
