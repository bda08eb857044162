"""The state of a watch: one thread that asks every GPU's probe, follows the kernel log and tells what it finds."""

from __future__ import annotations

import os
import select
import time
from typing import Any

from osremed.core.clock import Clock
from osremed.core.event import Event, new_event_id
from osremed.core.log import Log
from osremed.core.outbox import Outbox
from osremed.core.paths import HostPaths, host_name
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors import kmsg, procfs
from osremed.sensors.nvml import EVENT_XID, Snapshot
from osremed.timeline.alerts import Alerts
from osremed.timeline.baseline import Baseline
from osremed.timeline.baseline import load as load_baseline
from osremed.timeline.baseline import save as save_baseline
from osremed.timeline.callwatch import Budget, Calls
from osremed.timeline.catalogue import recovery_action
from osremed.timeline.dumpwatch import serve_dumps
from osremed.timeline.incidents import Incidents, Report, Sighting
from osremed.timeline.jobtrace import directory_of
from osremed.timeline.logplace import LogPlace
from osremed.timeline.memorychain import sentence
from osremed.timeline.model import Inventory, snapshot_from_json
from osremed.timeline.ordinals import sight_of
from osremed.timeline.pci import pci_gpus
from osremed.timeline.probing import Probe, serve_events, serve_gpu, serve_inventory
from osremed.timeline.rankreports import Jobs, dump_reports
from osremed.timeline.rules import History, Holds, Judgement, asked_for, holders
from osremed.timeline.settings import Settings
from osremed.timeline.tracewatch import OVERDUE, Traces
from osremed.timeline.xid import NamedLine, XidLine, parse_line

_MOST_GPUS = 64
_HOST, _EVENTS, _DUMPS, _TRACE = -1, -2, -3, -4  #: probes that are no GPU's
_OF_EVENTS = ("followed", "missed", "missing", "source", "detail")
_PATIENT = (_EVENTS, _DUMPS, _TRACE)  #: they may take their time


class Watch:
    """The state of one watch: `round` asks, `listen` takes what comes."""

    def __init__(self, settings: Settings, paths: HostPaths, clock: Clock, *, log: Log | None = None) -> None:
        self.settings, self._paths, self.clock = settings, paths, clock
        self.log = log or Log("timeline")
        self.outbox, self._host = Outbox(os.path.join(paths.events, "timeline")), host_name(paths)
        self.told = 0
        self.alerts, self.incidents = Alerts(), Incidents()
        self.inventory: Reading[Inventory] | None = None
        self.snapshots: dict[int, Snapshot] = {}
        self.unreadable: dict[int, Missing] = {}
        self.driver_events: dict[str, Any] = {"missing": "no_data", "source": "nvml", "detail": "not asked yet"}
        self._identities: dict[str, dict[str, Any]] = {}
        self._histories: dict[int, History] = {}
        self.probes: dict[int, Probe] = {_HOST: Probe(serve_inventory), _EVENTS: Probe(serve_events)}
        self._left: list[Probe] = []  #: their children may not have ended yet
        self._poll = select.poll()
        self._expected = settings.expected_gpus
        self._baseline = Baseline()
        boot = procfs.boot_id()
        self._boot_id = boot.value if isinstance(boot, Value) else ""
        kept = os.path.join(os.path.dirname(paths.events), "timeline")
        self._baseline_path = os.path.join(kept, "baseline.json")
        self._log_place = LogPlace(os.path.join(kept, "kernel-log.json"), self._boot_id)
        self.kmsg = kmsg.open_kmsg(after_seq=self._log_place.load())
        self._jobs = Jobs()
        self.traces = Traces(directory_of(paths))
        self.calls: Calls | None = None
        self._follow_calls(settings.calls_per_s)
        self._follow_dumps(settings.dumps)
        if isinstance(self.kmsg, Value):
            self._poll.register(self.kmsg.value.fd, select.POLLIN)

    def obey(self, settings: Settings) -> None:
        """From now on these count. What was seen so far stays, as far as the new windows reach."""
        before, self.settings = self.settings, settings
        if settings.expected_gpus != before.expected_gpus:
            self._expected = settings.expected_gpus
        if settings.calls_per_s != before.calls_per_s:
            self._follow_calls(settings.calls_per_s)
        if settings.dumps != before.dumps:
            self._follow_dumps(settings.dumps)
        for history in self._histories.values():
            history.keep_s = self._keep_s

    @property
    def _keep_s(self) -> float:
        return max(self.settings.growth_window_s, self.settings.stuck_s)

    def _follow_calls(self, calls_per_s: float) -> None:
        if self.calls is not None:
            if isinstance(self.calls.probes, Value):
                self._poll.unregister(self.calls.probes.value.fileno())
            self.calls.close()
        self.calls = Calls(Budget(calls_per_s)) if calls_per_s else None
        if self.calls is not None and isinstance(self.calls.probes, Value):
            self._poll.register(self.calls.probes.value.fileno(), select.POLLIN)

    def _drop(self, number: int) -> None:
        probe = self.probes.pop(number, None)
        if probe is not None:
            if probe.fd >= 0:
                self._poll.unregister(probe.fd)
            probe.close()
            self._left.append(probe)

    def _follow_dumps(self, directory: str) -> None:
        self._drop(_DUMPS)
        if directory:
            self.probes[_DUMPS] = Probe(serve_dumps(directory))

    # --- asking ---

    def round(self) -> None:
        """One question to every probe that can take one, and a look for processes that compute."""
        self._left = [each for each in self._left if not each.gone()]
        if self.traces.overdue(self.clock.monotonic_ns()):
            self._traced(OVERDUE.as_json())
        for number, probe in list(self.probes.items()):
            self._ask(number, probe)
        if self.calls is not None:
            self.calls.look({each["pid"] for snapshot in self.snapshots.values() for each in holders(snapshot)})
        for name, judgement in self._jobs.look(self.calls, self.settings.stuck_s).items():
            self.judge(name, _HOST, judgement)

    def _ask(self, number: int, probe: Probe) -> None:
        before, asked = probe.fd, False
        try:
            asked = probe.ask(self.clock.monotonic_ns())
        except OSError as error:  # no process, descriptor or memory left: the next round tries again
            self.log.error("a probe could not be started", gpu=number if number >= 0 else "", why=error.strerror)
            if number >= 0:
                self._gpu_unreadable(number, missing_from_oserror(error, "probe").as_json())
        if before not in (-1, probe.fd):
            self._poll.unregister(before)
        if asked:
            self._poll.register(probe.fd, select.POLLIN)
        elif probe.hang is not None:  # still there: SIGKILL does not reach a process in state D
            self._hung(number, probe)

    def listen(self, until_ns: int) -> None:
        """Takes answers, events and kernel lines until the moment (monotonic) has come."""
        while True:
            rest_ns = until_ns - self.clock.monotonic_ns()
            if rest_ns <= 0:
                return
            self.wait_once(min(rest_ns / 1e6, 100.0))

    def wait_once(self, timeout_ms: float) -> None:
        ready = {fd for fd, _ in self._poll.poll(timeout_ms)}
        if isinstance(self.kmsg, Value) and self.kmsg.value.fd in ready:
            self.read_kernel_log(self.kmsg.value)
        if self.calls is not None:
            self.calls.take()
        now_ns = self.clock.monotonic_ns()
        for number, probe in list(self.probes.items()):
            if probe.fd in ready:
                self._take(number, probe)
            elif number not in _PATIENT and probe.asked_ns:
                self._expire(number, probe, now_ns)
        self.tell(self.incidents.tick(self.clock.monotonic_ns()))

    def _expire(self, number: int, probe: Probe, now_ns: int) -> None:
        fd, deadline_s = probe.fd, self.settings.deadline_s
        if not probe.answered:
            deadline_s = max(deadline_s, self.settings.first_deadline_s)
        if probe.expire(now_ns, deadline_s) is not None:
            self._poll.unregister(fd)
            self._hung(number, probe)

    def _hung(self, number: int, probe: Probe) -> None:
        assert probe.hang is not None
        hang = probe.hang
        why = f"the driver did not answer in {hang.waited_s:.1f} s; process {hang.pid} in state {hang.state}"
        self.judge("gpu.probe_hang", number, Holds(why, hang.as_json()))
        if number >= 0:
            self.snapshots.pop(number, None)

    def _take(self, number: int, probe: Probe) -> None:
        fd = probe.fd
        answers = probe.answers()
        if probe.fd != fd:
            self._poll.unregister(fd)
        for answer in answers:
            self._answer(number, answer)
            if number not in _PATIENT and not answer.get("ended"):
                self.judge("gpu.probe_hang", number, False)

    # --- what an answer means ---

    def _answer(self, number: int, answer: dict[str, Any]) -> None:
        if number == _EVENTS:
            self._driver_event(answer)
        elif number == _DUMPS:
            self.tell(dump_reports(answer))
        elif number == _TRACE:
            self._traced(answer)
        elif number == _HOST:
            self._inventory(answer)
        elif "snapshot" in answer:
            self._snapshot(number, snapshot_from_json(answer["snapshot"]))
        elif "missing" in answer:
            self._gpu_unreadable(number, answer)

    def _traced(self, answer: dict[str, Any]) -> None:
        self._drop(_TRACE)
        self.log.info("trace", **self.traces.done(answer))

    def _inventory(self, answer: dict[str, Any]) -> None:
        if "count" not in answer:
            present = pci_gpus()
            self.inventory = Missing(_reason(answer), str(answer.get("source")), str(answer.get("detail")))
            if self.inventory.reason is Reason.GONE:
                self.incidents.recoveries.clear()
            absent = present or self._expected
            holds = Holds(f"the driver does not answer: {self.inventory}", {"pci_gpus": present})
            self.judge("gpu.driver", -1, holds if absent else False)
            return
        before, found = self.inventory, Inventory(min(answer["count"], _MOST_GPUS), answer["driver"])
        self.inventory = Value(found)
        self.judge("gpu.driver", -1, False)
        if before is None or isinstance(before, Missing):
            self._baseline = load_baseline(self._baseline_path, self._boot_id, found.driver_version)
        if isinstance(before, Value) and before.value.driver_version != found.driver_version:
            self._driver_replaced(before.value.driver_version, found.driver_version)
        self._expected = self.settings.expected_gpus or max(
            self._expected, pci_gpus(), found.count, self._baseline.gpus
        )
        short: Judgement = False
        if found.count < self._expected:
            why = f"{found.count} of {self._expected} GPUs are there"
            short = Holds(why, {"gpus": found.count, "expected": self._expected}, str(found.count))
        self.judge("gpu.card_drop", -1, short)
        for index in [each for each in self.probes if each >= found.count]:  # no GPU has that number any more
            self._drop(index)
            self.snapshots.pop(index, None)
            self.unreadable.pop(index, None)
        for index in range(found.count):
            if index not in self.probes:
                self.probes[index] = Probe(serve_gpu(index))
                self._ask(index, self.probes[index])

    def _driver_replaced(self, before: str, after: str) -> None:
        """Every probe starts anew, with the library that is there now; counters begin anew."""
        self.tell([Report("gpu.driver_changed", {"before": before, "after": after})])
        for number, probe in self.probes.items():
            if number not in (_HOST, _DUMPS, _TRACE) and probe.fd >= 0:
                self._poll.unregister(probe.fd)
                probe.close()
        self._histories.clear()
        self.incidents.recoveries.clear()
        self._baseline = Baseline(self._expected)

    def _snapshot(self, index: int, snapshot: Snapshot) -> None:
        self.snapshots[index] = snapshot
        self.unreadable.pop(index, None)
        identity = snapshot.identity
        for known in self._identities.values():
            if known.get("gpu") == index and known["uuid"] != identity.uuid:  # a card left, and the numbers moved up
                del known["gpu"]
        self._identities[identity.bdf] = {"gpu": index, "uuid": identity.uuid, "bdf": identity.bdf}
        history = self._histories.get(index)
        if history is None or history.samples[-1][1].identity.uuid != identity.uuid:
            first, last = (part.get(identity.uuid) for part in (self._baseline.first, self._baseline.last))
            history = self._histories[index] = History(self._keep_s, first, last)
        history.add(self.clock.monotonic_ns() / 1e9, snapshot)
        asked = snapshot.metrics["recovery_action"]
        if isinstance(asked, Value):
            self.incidents.verdict(identity.bdf, asked.value)
        facts = {**self._identities[identity.bdf], "gpu_name": identity.name}
        self.judge("gpu.unreadable", index, False)
        reports = self.alerts.judge_all(identity.uuid, history, self.settings, facts)
        self.tell([self._explained(each) for each in reports])

    def _explained(self, report: Report) -> Report:
        """Growth of memory with the code that asked for it, as far as it was seen."""
        facts = report.attributes
        if report.name != "gpu.vram_growth" or facts["state"] != "raised" or self.calls is None:
            return report
        window_s = self.settings.growth_window_s + self.settings.interval_s
        since_ns = time.monotonic_ns() - round(window_s * 1e9)
        count = self.inventory.value.count if isinstance(self.inventory, Value) else 0
        snapshots = list(self.snapshots.values())
        sights = {each["pid"]: sight_of(each["pid"], facts["uuid"], snapshots, count) for each in facts["holders"]}
        chains = self.calls.explain(sights, facts["grown_bytes"], since_ns)
        why = f"{facts['why']}; {sentence(chains[0])}" if chains else facts["why"]
        return Report(report.name, {**facts, "why": why, "chains": chains})

    def _gpu_unreadable(self, index: int, answer: dict[str, Any]) -> None:
        missing = Missing(_reason(answer), str(answer["source"]), str(answer["detail"]))
        self.unreadable[index] = missing
        self.snapshots.pop(index, None)
        name = "gpu.lost" if answer.get("error") == 15 else "gpu.unreadable"
        self.judge(name, index, Holds(str(missing), {"nvml": missing.detail}))

    def _driver_event(self, answer: dict[str, Any]) -> None:
        if "followed" in answer or "missing" in answer:
            self.driver_events = {key: answer[key] for key in answer if key in _OF_EVENTS}
        if answer.get("type") != EVENT_XID:
            return
        index = answer["index"]
        bdf = self._of_number(index).get("bdf", f"index {index}")
        mig = answer["mig"] and (answer["mig"][0], answer["mig"][1])
        line = XidLine(bdf, answer["data"], "told by NVML", mig=mig)
        self.see(Sighting(line, "nvml", self.clock.wall_ns(), steady_ns=self.clock.monotonic_ns()))

    # --- the kernel log ---

    def read_kernel_log(self, reader: kmsg.KmsgReader) -> None:
        lines = reader.drain()
        told = [self.kernel_line(line, catching_up=reader.catching_up) for line in lines]
        if any(told):
            self.keep_log_place()

    def keep_log_place(self) -> None:
        """At once after an Xid, else with the status; not past what is told in memory alone."""
        if isinstance(self.kmsg, Value) and not self.outbox.pending:
            try:
                self._log_place.keep(self.kmsg.value.last_seq)
            except OSError as error:
                self.log.error("the place in the kernel log is not kept", why=error.strerror, path=error.filename)

    def kernel_line(self, line: kmsg.KernelLine, *, catching_up: bool = False) -> bool:
        """Whether it tells of an error. What was written before anybody listened happened then."""
        found = parse_line(line.text)
        if isinstance(found, NamedLine):
            if not line.injected:
                self._identities.setdefault(found.bdf, {"uuid": found.uuid, "bdf": found.bdf})
            return False
        if found is None:
            return False
        now_ns = self.clock.monotonic_ns()
        age_ns = max(0, now_ns - line.usec * 1000) if catching_up else 0
        self.see(Sighting(found, "kmsg", self.clock.wall_ns() - age_ns, line.injected, now_ns - age_ns))
        return True

    def see(self, sighting: Sighting) -> None:
        self.tell(self.incidents.see(sighting), sighting.at_ns)
        line = sighting.line
        if isinstance(line, XidLine) and line.recovery is not None and not sighting.injected:
            holds = asked_for(recovery_action(line.recovery))
            subject = self._identities.get(line.bdf, {}).get("gpu")
            self.judge("gpu.recovery_action", subject if subject is not None else -1, holds if line.recovery else False)

    # --- telling ---

    def judge(self, name: str, number: int, judgement: Judgement) -> None:
        """`number` is a GPU's index; below 0 the condition is the host's. What was raised before anybody knew which GPU
        has that number ends as soon as that one is well."""
        if number < 0:
            self.tell(self.alerts.judge(name, "host", judgement, {}))
            return
        known = self._of_number(number)
        facts = known or {"gpu": number}
        reports = self.alerts.judge(name, known.get("uuid", f"gpu{number}"), judgement, facts)
        if judgement is False and known and not reports:
            reports = self.alerts.judge(name, f"gpu{number}", judgement, facts)
        self.tell(reports)

    def _of_number(self, index: int) -> dict[str, Any]:
        """The identity of the GPU that has the number; empty before it was read."""
        return next((each for each in self._identities.values() if each.get("gpu") == index), {})

    def tell(self, reports: list[Report], at_ns: int | None = None) -> list[Event]:
        """`at_ns`: when it happened; None: now."""
        if not reports:
            return []
        named = [Report(each.name, {**self._who(each), **each.attributes}) for each in reports]
        time_ns = self.clock.wall_ns() if at_ns is None else at_ns
        events = [Event(new_event_id(), each.name, self._host, time_ns, each.attributes) for each in named]
        self.outbox.tell(events)
        self.told += len(events)
        for event in events:
            facts = event.attributes
            state = facts.get("state", facts.get("phase", ""))
            write = self.log.info if state == "cleared" else self.log.warning
            write(event.name, state=state, gpu=facts.get("gpu", ""), why=facts.get("why", facts.get("label", "")))
        if self.outbox.failure:
            self.log.error("events wait in memory", failure=self.outbox.failure)
        probe = self.traces.wanted(named, self.snapshots, self.settings.trace_every_s, self.clock.monotonic_ns())
        if probe is not None:
            self.probes[_TRACE] = probe
            self._ask(_TRACE, probe)
        return events

    def _who(self, report: Report) -> dict[str, Any]:
        known = self._identities.get(str(report.attributes.get("bdf", "")), {})
        return {"gpu": -1, "uuid": "", **known}

    def keep_baseline(self) -> None:
        """For the next watch. OSError when it cannot be written."""
        if not isinstance(self.inventory, Value):
            return
        last = {each.identity.uuid: each for each in self.snapshots.values()}
        first = {each.baseline.identity.uuid: each.baseline for each in self._histories.values() if each.baseline}
        kept = Baseline(self._expected, {**self._baseline.first, **first}, {**self._baseline.last, **last})
        save_baseline(self._baseline_path, self._boot_id, self.inventory.value.driver_version, kept)

    def close(self) -> None:
        for probe in self.probes.values():
            probe.close()
        if isinstance(self.kmsg, Value):
            self.kmsg.value.close()
        if self.calls is not None:
            self.calls.close()
        self.outbox.close()


def _reason(answer: dict[str, Any]) -> Reason:
    return Reason(answer.get("missing", "no_data"))
