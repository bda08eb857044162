"""Samples -> stack trees and tables of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from osremed.hotspot.model import Frame, Sample, frame_text

ROOT = Frame("note", "all")


class Node:
    """A frame under its callers. `weight` counts all below; `own` what ended here."""

    __slots__ = ("children", "frame", "own", "weight")

    def __init__(self, frame: Frame) -> None:
        self.frame, self.weight, self.own = frame, 0.0, 0.0
        self.children: dict[Frame, Node] = {}

    def sorted_children(self) -> list[Node]:
        return sorted(self.children.values(), key=lambda node: (-node.weight, node.frame))


class Share(NamedTuple):
    """A function over all stacks: `own_s` at the leaf, `total_s` anywhere (recursion counts once)."""

    frame: Frame
    own_s: float
    total_s: float


def alike(samples: Iterable[Sample]) -> list[Sample]:
    """One sample, with the weight of all, for those of one program in one state, call and stack. Stacks repeat: what
    asks neither when nor which thread reads a twentieth of them."""
    found: dict[tuple[object, ...], list[Sample]] = {}
    for sample in samples:
        key = (sample.stack, sample.process, sample.container, sample.state, sample.syscall)
        found.setdefault(key, []).append(sample)
    return [same[0]._replace(weight_ns=sum(each.weight_ns for each in same)) for same in found.values()]


@functools.lru_cache(maxsize=8192)  # asked for every frame of every sample, and frames are few
def whole_function(frame: Frame) -> Frame:
    """The frame without its line: what belongs to one function merges."""
    return frame._replace(line=0)


def stack_of(sample: Sample) -> tuple[Frame, ...]:
    """Process at the root, then the stack by function; off the CPU the system call at the leaf."""
    process = Frame("note", sample.process or "?", sample.container)
    frames = (process, *(whole_function(frame) for frame in sample.stack))
    if sample.state == "off" and sample.syscall:
        return (*frames, Frame("note", f"waits in {sample.syscall}"))
    return frames


def folded(samples: Iterable[Sample]) -> dict[tuple[Frame, ...], int]:
    """Nanoseconds by stack, by function and with the process at the root."""
    found: dict[tuple[Frame, ...], int] = {}
    for sample in alike(samples):
        key = stack_of(sample)
        found[key] = found.get(key, 0) + sample.weight_ns
    return found


def build(samples: Iterable[Sample]) -> Node:
    """The tree in seconds."""
    root = Node(ROOT)
    for frames, weight_ns in folded(samples).items():
        add(root, frames, weight_ns / 1e9)
    return root


def add(root: Node, frames: Sequence[Frame], weight: float) -> None:
    node = root
    node.weight += weight
    for frame in frames:
        child = node.children.get(frame)
        if child is None:
            child = node.children[frame] = Node(frame)
        child.weight += weight
        node = child
    node.own += weight


def functions(samples: Iterable[Sample]) -> tuple[Share, ...]:
    """Every function, the heaviest first."""
    own: dict[Frame, float] = {}
    total: dict[Frame, float] = {}
    for sample in alike(samples):
        frames = [whole_function(frame) for frame in sample.stack]
        for frame in set(frames):
            total[frame] = total.get(frame, 0.0) + sample.weight_ns
        if frames:
            own[frames[-1]] = own.get(frames[-1], 0.0) + sample.weight_ns
    shares = [Share(frame, own.get(frame, 0.0) / 1e9, weight / 1e9) for frame, weight in total.items()]
    return tuple(sorted(shares, key=lambda share: (-share.own_s, -share.total_s, share.frame)))


def by(samples: Iterable[Sample], key: Callable[[Sample], str]) -> list[tuple[str, float]]:
    """Seconds by a property of the sample, the most first."""
    found: dict[str, float] = {}
    for sample in samples:
        name = key(sample)
        found[name] = found.get(name, 0.0) + sample.weight_ns
    return sorted(((name, weight / 1e9) for name, weight in found.items()), key=lambda row: (-row[1], row[0]))


def heaviest_stack(samples: Iterable[Sample]) -> str:
    """The stack with the most weight, root first, in one line."""
    found: dict[tuple[Frame, ...], int] = {}
    for sample in samples:
        found[sample.stack] = found.get(sample.stack, 0) + sample.weight_ns
    if not found:
        return ""
    return " > ".join(frame_text(frame) for frame in max(found, key=lambda stack: found[stack]))
