"""Sightings of one error, from the kernel log and from NVML, become one incident with counts. Pure: time is given.

An Xid is told at once when it is first seen and once more, with its totals, when its burst is over. What follows from
an earlier fatal Xid of the same GPU (45, 43, 154, anything not graver) is listed beneath it. The repeated occurrence
of an Xid is an event, never a gauge."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from osremed.core.record import record
from osremed.timeline.catalogue import (
    NVLINK5_CODES,
    NvlinkMeaning,
    decode_nvlink5,
    recovery_action,
    sxid_meaning,
    xid_meaning,
)
from osremed.timeline.xid import InitFailedLine, NamedLine, SxidLine, XidLine, parse_line, strip_prefix

BURST_NS = 60_000_000_000  #: after so long without another one a burst is over
_LONGEST_BURST_NS = 600_000_000_000
_MOST_OPEN = 128  #: a hostile log may name any address
_PATTERN_SIGHTINGS = 64
_FOLLOWERS = (43, 45, 154)
_GRAVITY = {"RESTART_BM": 4, "RESTART_VM": 3, "REBOOT_NODE": 4, "REBOOT_SYSTEM": 4}

Line = Union[XidLine, SxidLine, InitFailedLine]


@record
class Sighting:
    """`source` is `kmsg`, `nvml` or `log`; `injected` tells that somebody other than the kernel wrote the line. `at_ns`
    is what the host's clock says; `steady_ns` the same moment by one that nobody sets, where there is one."""

    line: Line
    source: str
    at_ns: int
    injected: bool = False
    steady_ns: int | None = None

    @property
    def moment_ns(self) -> int:
        return self.at_ns if self.steady_ns is None else self.steady_ns


@record
class Report:
    """What to tell: the name of an event and its attributes."""

    name: str
    attributes: Mapping[str, Any]


@dataclass
class Incident:
    line: Line
    first_ns: int
    last_ns: int
    injected: bool
    began_ns: int  #: this and the next by the steady clock: when its burst is over
    seen_ns: int
    counts: Counter[str] = field(default_factory=Counter)
    followers: dict[int, Counter[str]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return most(self.counts)


def most(counts: Counter[str]) -> int:
    """The sources tell of the same occurrences: the one that saw most is right."""
    return max(counts.values(), default=0)


class Incidents:
    """`recoveries` is the driver's own verdict for each address, as the last Xid 154 or NVML told it."""

    def __init__(self, policy: Mapping[int, str] | None = None) -> None:
        self._policy = policy or {}
        self._open: dict[tuple[str, int], Incident] = {}
        self._patterns: dict[int, deque[XidLine]] = {code: deque(maxlen=_PATTERN_SIGHTINGS) for code in (13, 31)}
        self.recoveries: dict[str, int] = {}
        self.totals: Counter[tuple[str, str, str]] = Counter()  #: (kind, address, code) -> since the start
        self.overflow = 0

    def see(self, sighting: Sighting) -> list[Report]:
        """What has to be told now: the bursts that were over by then, and what this sighting adds."""
        return self.tick(sighting.moment_ns) + self._see(sighting)

    def _see(self, sighting: Sighting) -> list[Report]:
        line = sighting.line
        if isinstance(line, XidLine):
            return self._see_xid(line, sighting)
        if isinstance(line, SxidLine):
            if not line.head:  # Severity and Data lines belong to the error told before
                return []
            return self._note(("sxid", f"{line.bdf} switch {line.switch}"), line.code, sighting)
        return self._note(("init_failed", line.bdf), -1, sighting)

    def _see_xid(self, line: XidLine, sighting: Sighting) -> list[Report]:
        if line.recovery is not None and not sighting.injected:
            self.verdict(line.bdf, line.recovery)
        if line.code in self._patterns:
            self._patterns[line.code].append(line)
        root = self._root_of(line)
        if root is not None:
            counts = root.followers.setdefault(line.code, Counter())
            self._count(("xid", line.bdf), line.code, counts, sighting.source)
            root.last_ns, root.seen_ns = sighting.at_ns, max(root.seen_ns, sighting.moment_ns)
            return []
        if line.code == 162:  # power smoothing is back: what 163 told is over
            self._open.pop((f"xid {line.bdf}", 163), None)
        return self._note(("xid", line.bdf), line.code, sighting)

    def verdict(self, bdf: str, recovery: int) -> None:
        """0: the driver asks for nothing (any more)."""
        if recovery:
            self.recoveries[bdf] = recovery
        else:
            self.recoveries.pop(bdf, None)

    def _root_of(self, line: XidLine) -> Incident | None:
        """The open incident this Xid follows from; None when it stands for itself."""
        if (f"xid {line.bdf}", line.code) in self._open:
            return None
        for (place, code), incident in self._open.items():
            if place != f"xid {line.bdf}":
                continue
            named = line.root_code == code
            fatal = xid_meaning(code).severity == "fatal" and gravity(line.code) <= gravity(code)
            if named or (line.code in _FOLLOWERS and code not in _FOLLOWERS) or fatal:
                return incident
        return None

    def _note(self, place: tuple[str, str], code: int, sighting: Sighting) -> list[Report]:
        key = (" ".join(place), code)
        incident = self._open.get(key)
        if incident is None:
            if len(self._open) >= _MOST_OPEN:
                self.overflow += 1
                self._count(place, code, Counter(), sighting.source)
                return [] if self.overflow > 1 else [Report("gpu.xid_flood", {"open_incidents": len(self._open)})]
            at_ns, moment_ns = sighting.at_ns, sighting.moment_ns
            incident = Incident(sighting.line, at_ns, at_ns, sighting.injected, moment_ns, moment_ns)
            self._open[key] = incident
            self._count(place, code, incident.counts, sighting.source)
            return [self._report(incident, "raised")]
        self._count(place, code, incident.counts, sighting.source)
        incident.last_ns, incident.seen_ns = sighting.at_ns, max(incident.seen_ns, sighting.moment_ns)
        return []

    def _count(self, place: tuple[str, str], code: int, counts: Counter[str], source: str) -> None:
        """The totals grow by what no other source has told of yet."""
        before = most(counts)
        counts[source] += 1
        key = (*place, str(code))
        if key in self.totals or len(self.totals) < 8 * _MOST_OPEN:
            self.totals[key] += most(counts) - before

    def tick(self, now_ns: int) -> list[Report]:
        """Bursts that are over (by the clock of `Sighting.moment_ns`): their totals, when there was
        more than the one occurrence already told."""
        reports = []
        for key, incident in list(self._open.items()):
            over = now_ns - incident.seen_ns >= BURST_NS or now_ns - incident.began_ns >= _LONGEST_BURST_NS
            if not over:
                continue
            del self._open[key]
            if incident.count > 1 or incident.followers:
                reports.append(self._report(incident, "summary"))
        if not self._open and self.overflow:
            reports.append(Report("gpu.xid_flood", {"open_incidents": 0, "not_told": self.overflow}))
            self.overflow = 0
        return reports

    def close(self) -> list[Report]:
        """The totals of everything that is open."""
        reports = [self._report(incident, "summary") for incident in self._open.values()]
        self._open.clear()
        return reports

    def _report(self, incident: Incident, phase: str) -> Report:
        line = incident.line
        common = {
            "phase": phase,
            "bdf": line.bdf,
            "count": incident.count,
            "by_source": dict(incident.counts),
            "first_ns": incident.first_ns,
            "last_ns": incident.last_ns,
            "injected": incident.injected,
        }
        if isinstance(line, SxidLine):
            return Report("gpu.sxid", {**common, **sxid_facts(line)})
        if isinstance(line, InitFailedLine):
            return Report("gpu.init_failed", {**common, "text": line.detail})
        facts = xid_facts(line, None if incident.injected else self.recoveries.get(line.bdf), self._policy)
        followers = {str(code): most(counts) for code, counts in sorted(incident.followers.items())}
        pattern = {"pattern": pattern_of(line.code, self._patterns[line.code])} if line.code in self._patterns else {}
        return Report("gpu.xid", {**common, **facts, "followers": followers, **pattern})


def gravity(code: int) -> int:
    """How big a hammer the catalogue asks for: 0 none, 1 the application, 2 the GPU, 3 the guest, 4 the machine."""
    meaning = xid_meaning(code)
    if meaning.action in _GRAVITY:
        return _GRAVITY[meaning.action]
    return 2 if meaning.severity == "fatal" else int(meaning.action == "RESTART_APP")


def xid_facts(line: XidLine, recovery: int | None, policy: Mapping[int, str]) -> dict[str, Any]:
    """What the Xid means and asks for. Precedence: the driver's recovery action, the catalogue, local policy."""
    meaning = xid_meaning(line.code)
    words = line.nvlink
    decoded = None
    if words is not None and line.code in NVLINK5_CODES:
        decoded = decode_nvlink5(line.code, words.unit, words.severity, words.intrinfo, words.status)
    action, source = _action(recovery, decoded, meaning.action, policy.get(line.code, ""))
    return {
        "code": line.code,
        "label": meaning.label,
        "severity": decoded.severity if decoded else meaning.severity,
        "action": action,
        "action_source": source,
        "investigate": decoded.investigate if decoded else meaning.investigate,
        "others_say": dict(meaning.others),
        "pid": line.pid,
        "process": line.process,
        "mig": list(line.mig) if line.mig else None,
        "root_code": line.root_code,
        "text": line.text,
        "nvlink5": _nvlink_facts(line, decoded),
    }


def _action(recovery: int | None, decoded: NvlinkMeaning | None, catalogue: str, policy: str) -> tuple[str, str]:
    if recovery:
        return recovery_action(recovery), "driver"
    if decoded is not None and decoded.action != "XID_154_EVAL":
        return decoded.action, "catalogue"
    if catalogue:
        return catalogue, "catalogue"
    return (policy, "local policy") if policy else ("NONE_KNOWN", "none")


def _nvlink_facts(line: XidLine, decoded: NvlinkMeaning | None) -> dict[str, Any] | None:
    if line.nvlink is None:
        return {"decoded": False} if line.code in NVLINK5_CODES else None
    facts = {"unit": line.nvlink.unit, "link": line.nvlink.link, "decoded": decoded is not None}
    if decoded is not None:
        facts.update(
            subcode=decoded.subcode,
            severity=decoded.severity,
            local_effect=decoded.local_effect,
            remote_effect=decoded.remote_effect,
        )
    return facts


def sxid_facts(line: SxidLine) -> dict[str, Any]:
    label, fatal = sxid_meaning(line.code)
    severity = "fatal" if line.fatal or fatal == "always" else "non-fatal"
    facts = {"code": line.code, "label": label, "switch": line.switch, "link": line.link, "severity": severity}
    return {**facts, "fatal_to": fatal, "text": line.text}


def pattern_of(code: int, seen: Iterable[XidLine]) -> dict[str, str]:
    """Whether the Xids 13 or 31 so far speak for the hardware (one place; of 13 different processes, of 31, whose place
    is a whole GPU, different programs) or the application (one program, different GPUs or places): `verdict` is
    hardware, application or undecided, `why` says with what."""
    places: dict[tuple[Any, ...], set[int | str]] = {}
    programs: dict[str, set[tuple[Any, ...]]] = {}
    for line in seen:
        place = (line.bdf, *(line.place or ())[:2]) if code == 13 else (line.bdf,)
        places.setdefault(place, set()).add(line.pid if code == 13 else line.process)
        if line.process:
            programs.setdefault(line.process, set()).add(place)
    known = {place: len(who - {0, ""}) for place, who in places.items() if code != 13 or len(place) == 3}
    worst = max(known, key=lambda place: known[place], default=None)
    if worst is not None and known[worst] >= 3:
        where = worst[0] + (f" GPC {worst[1]} TPC {worst[2]}" if len(worst) == 3 else "")
        who = "processes" if code == 13 else "programs"
        return {"verdict": "hardware", "why": f"{known[worst]} different {who} failed at {where}"}
    spread = max(programs, key=lambda name: len(programs[name]), default="")
    if spread and len(programs[spread]) >= 2:
        return {"verdict": "application", "why": f"{spread} failed at {len(programs[spread])} different places"}
    return {"verdict": "undecided", "why": "too few occurrences to tell hardware from application"}


def incidents_of_log(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The incidents of a whole log, in the order they began. A log's times are its own affair: all of it is one
    window, so an error that comes again and again is one incident with its count."""
    incidents = Incidents()
    for line in lines:
        found = parse_line(strip_prefix(line))
        if found is not None and not isinstance(found, NamedLine):
            incidents.see(Sighting(found, "log", 0))
    return [dict(each.attributes) for each in incidents.close()]
