"""The lanes of faults, the log of what came of each, and the report."""

from __future__ import annotations

import json
import platform
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.soak.faults import ON_HOSTS, ON_PLANE, Fault, drawn
from tests.soak.hosts import UNITS, SoakHost
from tests.soak.plane import Plane
from tests.soak.verdict import Seen, Whole, violations
from tests.testbed.vm import VmError
from tests.testbed.vmqmp import QmpError

_SETTLES_S = 300
_FAILURES = (VmError, QmpError, OSError, RuntimeError, ValueError, subprocess.SubprocessError)


class Log:
    """One line of JSON an outcome, on disk when it is known."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._began = path, threading.Lock(), time.monotonic()
        self.rows: list[dict[str, Any]] = []
        path.write_text("")

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, **facts: Any) -> None:
        row = {"at_s": round(self.seconds(), 1), **facts}
        with self._lock:
            self.rows.append(row)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def lane(name: str, subject: Any, table: Mapping[str, Fault], seed: str, until_s: float, log: Log) -> None:
    """Faults one after the other, in the order of the seed, with a pause; a fault that fails is told and ends the lane:
    what comes after it would not be the same story."""
    chance = random.Random(seed)
    while log.seconds() < until_s:
        fault = drawn(table, chance)
        began = time.monotonic()
        try:
            facts = table[fault].act(subject, chance)
        except _FAILURES as error:
            log.tell(host=name, fault=fault, took_s=round(time.monotonic() - began, 1), failed=str(error)[:2000])
            return
        log.tell(host=name, fault=fault, took_s=round(time.monotonic() - began, 1), **facts)
        time.sleep(chance.uniform(1, 10))


def memory_of(hosts: Sequence[SoakHost], stop: threading.Event, samples: dict[str, list[Any]], log: Log) -> None:
    """Every half minute; a host that does not answer is asked again the next time."""
    while not stop.wait(30):
        for host in hosts:
            try:
                units = host.observe()["units"]
            except _FAILURES:
                continue
            rows = [(log.seconds(), unit, one["pid"], one["rss_kib"]) for unit, one in units.items() if one]
            samples[host.name] += [row for row in rows if row[1] in UNITS]


def deploy(plane: Plane, hosts: Sequence[SoakHost], zipapp: Path) -> None:
    """The control plane, and all that a host can have."""
    plane.start_prefect()
    plane.start_dispatcher()
    for host in hosts:
        host.prepare()
    protect = [{"cmdline": r"gateway\.py"}, {"name": "sshd"}]
    plane.roll_out(zipapp, agent_timeline="always", agent_hotspot="always", fastoom_protect=protect)
    for host in hosts:
        for unit in UNITS:
            host.until(partial(host.main_pid, unit), f"{unit} runs", 60)


def settle(plane: Plane, hosts: Sequence[SoakHost]) -> Iterator[str]:
    """Waits until every host has told everything and no run is open. What does not come is a sentence."""
    waits: list[tuple[str, Callable[[], bool]]] = [
        (
            f"{host.name} has told everything",
            lambda host=host: (host.osremed("agent", "status") or {}).get("spooled") == 0,
        )
        for host in hosts
    ]
    waits.append(("every event is decided", plane.has_decided_all))
    waits.append(("no run is open", plane.has_no_open_run))
    deadline = time.monotonic() + _SETTLES_S
    for what, is_so in waits:
        while not _asked(is_so):
            if time.monotonic() > deadline:
                yield f"not within {_SETTLES_S} s after the last fault: {what}"
                break
            time.sleep(1)


def _asked(is_so: Callable[[], bool]) -> bool:
    try:
        return is_so()
    except _FAILURES:
        return False


def soak(plane: Plane, hosts: Sequence[SoakHost], *, seed: int, minutes: float, log: Log) -> list[str]:
    """The faults, from when everything runs, and what did not hold."""
    before = {host.name: host.observe() for host in hosts}
    samples: dict[str, list[Any]] = {host.name: [] for host in hosts}
    stop, until_s = threading.Event(), log.seconds() + 60 * minutes
    watching = threading.Thread(target=memory_of, args=(hosts, stop, samples, log), daemon=True)
    watching.start()
    subjects = [(host.name, host, ON_HOSTS) for host in hosts] + [("control plane", plane, ON_PLANE)]
    with ThreadPoolExecutor(len(subjects)) as lanes:
        ends = [
            lanes.submit(lane, name, subject, table, f"{seed}:{name}", until_s, log)
            for name, subject, table in subjects
        ]
    for end in ends:
        end.result()  # what no fault foresaw ends the soak
    late = list(settle(plane, hosts))
    runs = plane.runs()  # at once: a look at the hosts takes a minute, and makes them busy enough to begin others
    stop.set()
    watching.join(180)
    seen = [Seen(host.name, before[host.name], host.observe(events=True), samples[host.name]) for host in hosts]
    failed = [row for row in log.rows if "failed" in row]
    whole = Whole(seen, plane.taken(), runs, plane.audit(), failed)
    found = late + violations(whole)
    for name, rows in samples.items():
        for unit in UNITS:
            log.tell(host=name, unit=unit, **lives_of([row for row in rows if row[1] == unit]))
    states = [run["state"] for run in whole.runs]
    log.tell(
        events=len(whole.taken), runs={state: states.count(state) for state in sorted(set(states))}, violations=found
    )
    return found


def lives_of(rows: Sequence[Any]) -> dict[str, Any]:
    """How many processes a daemon was, and its memory in MiB: least, median, most."""
    mib = [row[3] / 1024 for row in rows]
    told = (min(mib), statistics.median(mib), max(mib)) if mib else ()
    return {"lives": len({row[2] for row in rows}), "rss_mib": [round(each, 1) for each in told]}


def page(log: Log, *, seed: int, minutes: float, hosts: int, found: Sequence[str]) -> str:
    """What came of it, for docs/: made by this program, not typed."""
    faults = [row for row in log.rows if "fault" in row]
    lines = [
        "# Half an hour of faults" if minutes >= 30 else f"# {minutes:g} minutes of faults", "",
        "Made by `tools/soak`; nothing here is typed by hand. Random faults from a seed on virtual machines under the",
        "whole system; what must hold in the end is in `tests/soak/verdict.py`.", "",
        f"- seed {seed}, {minutes:g} minutes, {hosts} machines, {time.strftime('%Y-%m-%d', time.gmtime())},"
        f" Python {platform.python_version()}",
        f"- {len(faults)} faults; what did not hold: {len(found)}", *(f"  - {each}" for each in found), "",
        "| fault | times | seconds until all was well again: median, longest |", "|---|---|---|",
    ]  # fmt: skip
    for name in (*ON_HOSTS, *ON_PLANE):
        took = [row["took_s"] for row in faults if row["fault"] == name and "failed" not in row]
        if took:
            lines.append(f"| {name} | {len(took)} | {statistics.median(took):.1f}, {max(took):.1f} |")
    last = log.rows[-1]
    lines += ["", f"{last['events']} events reached the intake, each once. Runs: {json.dumps(last['runs'])}.", ""]
    lines += ["| host | daemon | lives seen | resident MiB: least, median, most |", "|---|---|---|---|"]
    for row in log.rows:
        if "unit" in row and "rss_mib" in row:
            lines.append(f"| {row['host']} | {row['unit']} | {row['lives']} | {', '.join(map(str, row['rss_mib']))} |")
    return "\n".join(lines) + "\n"
