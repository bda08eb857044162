"""Folded stacks: `root;caller;leaf count`, one a line. Counts are samples; weights leave as milliseconds."""

from __future__ import annotations

from collections.abc import Iterable

from osremed.core.errors import BadInput
from osremed.hotspot.formats.imports import Merged, frame_of, imported
from osremed.hotspot.model import Frame, Profile, Sample, frame_text
from osremed.hotspot.tree import stack_of

_MOST_FRAMES = 4096


def export(samples: Iterable[Sample]) -> bytes:
    """Weights in whole milliseconds; stacks that round to 0 are 1."""
    folded: dict[str, int] = {}
    for sample in samples:
        line = ";".join(_plain(frame) for frame in stack_of(sample))
        folded[line] = folded.get(line, 0) + sample.weight_ns
    return "".join(f"{line} {max(1, round(weight / 1e6))}\n" for line, weight in sorted(folded.items())).encode()


def _plain(frame: Frame) -> str:
    """A frame's text without what separates frames and lines."""
    return "".join(each if each.isprintable() and each != ";" else "_" for each in frame_text(frame)) or "_"


def parse(data: bytes, where: str = "folded") -> Profile:
    """The first frame is the process. BadInput with file:line."""
    stacks = []
    for number, line in enumerate(data.decode("utf-8", "backslashreplace").split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        stack, _, count = text.rpartition(" ")
        frames = stack.split(";")
        if not stack or not count.isascii() or not count.isdigit() or len(count) > 15 or len(frames) > _MOST_FRAMES:
            raise BadInput(f"not a folded stack: {text[:80]!r}", where=f"{where}:{number}", hint="a;b;c 42")
        stack_frames = tuple(frame_of(frame) for frame in frames[1:])
        stacks.append(Merged(frames[0], stack_frames, int(count) * 1_000_000, int(count)))
    return imported("folded", stacks, where)
