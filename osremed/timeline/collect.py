"""One look at every GPU, now: the driver's processes are started, asked once and ended."""

from __future__ import annotations

import select
import time
from typing import Any

from osremed.core.reading import Missing, Reason
from osremed.timeline.holders import holder
from osremed.timeline.probing import Probe, serve_gpu, serve_inventory


def survey(deadline_s: float = 5.0) -> dict[str, Any]:
    """{driver_version, gpus, unreadable, hung}; a Missing under `inventory` when the driver does not answer. Waits for
    the deadline at most twice: once for the inventory, once for all GPUs together."""
    told = _ask_all({-1: Probe(serve_inventory)}, deadline_s)[-1]
    document: dict[str, Any] = {"inventory": told, "gpus": [], "unreadable": {}, "hung": {}}
    if "count" not in told:
        return document
    document["inventory"] = {"gpus": told["count"], "driver_version": told["driver"]}
    answers = _ask_all({index: Probe(serve_gpu(index)) for index in range(min(told["count"], 64))}, deadline_s)
    for index, answer in sorted(answers.items()):
        if "snapshot" in answer:
            document["gpus"].append(_with_holders(answer["snapshot"]))
        else:
            document["hung" if "wchan" in answer else "unreadable"][str(index)] = answer
    return document


def _with_holders(snapshot: dict[str, Any]) -> dict[str, Any]:
    if isinstance(snapshot["processes"], list):
        snapshot["processes"] = [{**each, **holder(each["pid"])} for each in snapshot["processes"]]
    return snapshot


def _ask_all(probes: dict[int, Probe], deadline_s: float) -> dict[int, Any]:
    """The answer of each, or its Hang, or a Missing when it ended without a word."""
    answers: dict[int, Any] = {}
    poll = select.poll()
    for probe in probes.values():
        probe.ask(time.monotonic_ns())
        poll.register(probe.fd, select.POLLIN)
    try:
        while len(answers) < len(probes):
            ready = {fd for fd, _ in poll.poll(50)}
            for number, probe in probes.items():
                if number in answers:
                    continue
                if probe.fd in ready:
                    fd, told = probe.fd, probe.answers()
                    if told:
                        answers[number] = {key: each for key, each in told[0].items() if key != "ended"}
                        poll.unregister(fd)
                    continue
                fd, hang = probe.fd, probe.expire(time.monotonic_ns(), deadline_s)
                if hang is not None:
                    poll.unregister(fd)
                    answers[number] = {**hang.as_json(), **_missing_hang(deadline_s)}
    finally:
        for probe in probes.values():
            probe.close()
    return answers


def _missing_hang(deadline_s: float) -> dict[str, str]:
    return Missing(Reason.TIMED_OUT, "nvml", f"no answer in {deadline_s:g} s").as_json()
