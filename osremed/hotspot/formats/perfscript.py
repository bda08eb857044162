"""The text of `perf script`: an event's head line, its frames from the leaf, an empty line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from osremed.core.errors import BadInput
from osremed.hotspot.formats.imports import plain_sample, timed
from osremed.hotspot.model import Frame, Profile, Sample, frame_text

_HEAD = re.compile(
    r"(.{1,64}?)\s+([0-9]{1,10})(?:/[0-9]{1,10})?\s+(?:\[[0-9]{1,5}\]\s+)?([0-9]{1,10})\.([0-9]{6,9}):\s+(?:([0-9]{1,18})\s+)?([\w:/.-]{1,64}):.*"
)
_FRAME = re.compile(r"\s+([0-9a-f]{1,16})\s+(.{1,2048}?)(?:\+0x[0-9a-f]{1,16})?\s+\((.{1,1024})\)")


def export(samples: Sequence[Sample]) -> bytes:
    """Times are wall time in seconds; addresses are 0: names and objects are what is known."""
    lines = []
    for sample in samples:
        comm = "".join(each if each.isprintable() and not each.isspace() else "_" for each in sample.thread) or "_"
        stamp = f"{sample.at_ns // 10**9}.{sample.at_ns % 10**9:09d}"
        event = "cpu-clock" if sample.state == "cpu" else "off-cpu"
        lines.append(f"{comm} {sample.pid}/{sample.tid} {stamp}: {sample.weight_ns} {event}: ")
        lines += [f"\t{0:16x} {_name(frame)} ({_object(frame)})" for frame in reversed(sample.stack)]
        lines.append("")
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")


def _name(frame: Frame) -> str:
    text = frame.name if frame.kind == "native" else frame_text(frame._replace(file="") if frame.file else frame)
    return "".join(each if each.isprintable() else "_" for each in text).strip() or "_"


def _object(frame: Frame) -> str:
    if frame.kind == "kernel":
        return "[kernel.kallsyms]"
    where = f"{frame.file}:{frame.line}" if frame.line else frame.file
    return "".join(each if each.isprintable() and each not in "()" else "_" for each in where) or "[unknown]"


def parse(data: bytes, where: str = "perf script") -> Profile:
    """BadInput with file:line for a line that is neither head, frame nor empty."""
    samples: list[Sample] = []
    head: re.Match[str] | None = None
    frames: list[Frame] = []
    for number, line in enumerate([*data.decode("utf-8", "backslashreplace").split("\n"), ""], start=1):
        if not line.strip():
            if head is not None:
                samples.append(_sample(head, frames))
            head, frames = None, []
        elif line.startswith("#"):
            continue
        elif head is None:
            head = _HEAD.fullmatch(line)
            if head is None:
                raise BadInput(f"not an event of perf script: {line[:80]!r}", where=f"{where}:{number}")
        else:
            frames.append(_frame(line, f"{where}:{number}"))
    return timed("perf", samples, where)


def _frame(line: str, where: str) -> Frame:
    match = _FRAME.fullmatch(line)
    if match is None:
        raise BadInput(f"not a frame of perf script: {line[:80]!r}", where=where)
    name, place = match[2], match[3]
    if place.startswith("[kernel") or place.endswith(".ko]"):
        return Frame("kernel", name)
    file, _, digits = place.rpartition(":")
    if file.endswith(".py") and digits.isdigit() and len(digits) < 10:
        return Frame("python", name, file, int(digits))
    return Frame("native", name if name != "[unknown]" else f"[{place}]", place)


def _sample(head: re.Match[str], frames: Sequence[Frame]) -> Sample:
    at_ns = int(head[3]) * 10**9 + int(head[4].ljust(9, "0"))
    weight_ns = int(head[5] or 1)
    # A period is nanoseconds for clocks and a count for counters: only its proportion matters within one profile.
    sample = plain_sample(at_ns, weight_ns, head[1], int(head[2]), tuple(reversed(frames)))
    return sample._replace(state="off") if head[6].startswith("off-cpu") else sample
