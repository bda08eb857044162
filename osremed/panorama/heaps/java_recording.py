"""Where the objects hang that a Java program makes and keeps: Flight Recorder's old objects, with the path to the root.

A recording runs while the program grows; at its end the JVM collects garbage and walks its heap at safepoints, for
which somebody agreed.
Only objects made during the recording are sampled, some hundred of them."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.panorama.heaps.java import estimate_s, readable, stopped_s
from osremed.panorama.heaps.model import Pause, Recording, RootPath
from osremed.sensors import jattach, jfr
from osremed.sensors.address_space import AddressSpace
from osremed.sensors.jfr import Chunk

_FILE_LIMIT_BYTES = 64 << 20
_MOST_STEPS = 200
_FRAMES = 6
#: A recording tells only samples that a collection has passed since (HotSpot, jfr/leakprofiler): without one in the
#: window it would be empty. This one runs whatever -XX:+DisableExplicitGC says.
_COLLECT = "GC.class_histogram"
#: The walk with paths takes longer than a histogram: 0.3 to 0.6 s for 100 to 500 MB on two busy cores.
_PATHS_PAUSE_S = 0.3
_PATHS = 10
_EVENT = "jdk.OldObjectSample"
_OWN = "jdk.jfr."  #: what the recorder itself makes


def recorded(space: AddressSpace, seconds: float, limit_s: float, heap_bytes: int) -> Reading[Recording]:
    """Records for `seconds`, then the paths; each command of the JVM gets `limit_s`. Missing as for jattach.command,
    UNSUPPORTED by a JVM without Flight Recorder. The recording and its file are removed in any case."""
    folder = jattach.tmp_folder(space)
    if isinstance(folder, Missing):
        return folder
    try:
        return _recorded(space, folder.value, seconds, limit_s, heap_bytes)
    finally:
        os.close(folder.value)


def _recorded(space: AddressSpace, folder: int, seconds: float, limit_s: float, heap_bytes: int) -> Reading[Recording]:
    name = f"osremed-{uuid.uuid4().hex}"
    before = jattach.counters(space)
    began = jattach.command(space, f"JFR.start name={name} settings=profile maxsize=32m", limit_s)
    if isinstance(began, Missing):
        unknown = began.reason is Reason.MALFORMED
        return Missing(Reason.UNSUPPORTED, began.source, f"no Flight Recorder: {began.detail}") if unknown else began
    file = f"{name}.jfr"  # it cannot be guessed
    source = f"{space.root}/{space.pid}/root/tmp/{file}"
    try:
        time.sleep(seconds)
        dumped = jattach.command(space, _COLLECT, limit_s)
        if isinstance(dumped, Value):
            dumped = jattach.command(space, f"JFR.dump name={name} filename=/tmp/{file} path-to-gc-roots=true", limit_s)
        data = dumped if isinstance(dumped, Missing) else _read(folder, file, source)
    finally:
        jattach.command(space, f"JFR.stop name={name}", limit_s)
        with contextlib.suppress(OSError):
            os.unlink(file, dir_fd=folder)
    if isinstance(data, Missing):
        return data
    pause = Pause(_PATHS_PAUSE_S + 2 * estimate_s(heap_bytes), stopped_s(before, jattach.counters(space)))
    try:
        samples, paths = paths_of(data.value)
    except (ValueError, RecursionError) as error:
        return Missing(Reason.MALFORMED, source, str(error))
    return Value(Recording(seconds, samples, paths, pause))


def _read(folder: int, name: str, source: str) -> Reading[bytes]:
    """The file another user's process wrote: never through a link it may have put there, and bounded."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(fd, "rb") as stream:
            data = stream.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        return missing_from_oserror(error, source)
    if len(data) > _FILE_LIMIT_BYTES:
        return Missing(Reason.UNSUPPORTED, source, f"a recording of more than {_FILE_LIMIT_BYTES >> 20} MiB")
    return Value(data)


def paths_of(data: bytes) -> tuple[int, tuple[RootPath, ...]]:
    """(objects sampled, where they hang: the most first). Pure; ValueError for what is no recording."""
    counts: Counter[tuple[str, str, str]] = Counter()
    shown: dict[tuple[str, str, str], RootPath] = {}
    for chunk in jfr.chunks(data):
        for event in chunk.events(_EVENT):
            found = _path(chunk, event)
            if found.held_in.startswith(_OWN):
                continue
            key = (found.held_in, found.container, found.object)
            counts[key] += 1
            if key not in shown or len(found.path) < len(shown[key].path):
                shown[key] = found
    ranked = [
        RootPath(held_in, container, shown[held_in, container, kind].detail, kind, shown[held_in, container, kind].path,
                 count, shown[held_in, container, kind].stack)
        for (held_in, container, kind), count in counts.most_common(_PATHS)
    ]  # fmt: skip
    return sum(counts.values()), tuple(ranked)


def _path(chunk: Chunk, event: Mapping[str, Any]) -> RootPath:
    """From what cannot go away down to the object: `Leak.SESSIONS -> java.util.HashMap.table -> …`."""
    at = _record(chunk, event.get("object"))
    kind, steps = _type(chunk, at), []
    container, detail, held_in = kind, _word(chunk, at, "description"), ""
    for _ in range(_MOST_STEPS):
        referrer = _record(chunk, at.get("referrer"))
        owner = _record(chunk, referrer.get("object"))
        if not owner:
            break
        field = _word(chunk, _record(chunk, referrer.get("field")), "name")
        if _type(chunk, owner) == "java.lang.Class" and field:
            held_in = f"{_word(chunk, owner, 'description').partition('Class Name: ')[2] or '?'}.{field}"
            break
        steps.append(f"{_type(chunk, owner)}.{field}" if field else _type(chunk, owner))
        container, detail, at = _type(chunk, owner), _word(chunk, owner, "description"), owner
    held_in = held_in or _root(chunk, event)
    path = " -> ".join(dict.fromkeys((held_in, *reversed(steps), kind)))  # a list's chain of nodes counts once
    return RootPath(held_in, container, detail, kind, path, 1, _stack(chunk, event))


def _root(chunk: Chunk, event: Mapping[str, Any]) -> str:
    root = _record(chunk, event.get("root"))
    system = _word(chunk, _record(chunk, root.get("system")), "system")
    kind = _word(chunk, _record(chunk, root.get("type")), "type")
    return ": ".join(filter(None, (system, kind, _word(chunk, root, "description")))) or "a root that is not told"


def _stack(chunk: Chunk, event: Mapping[str, Any]) -> tuple[str, ...]:
    """Where it was made, innermost first."""
    frames = _record(chunk, event.get("stackTrace")).get("frames") or []
    names = []
    for frame in frames[:_FRAMES]:
        method = _record(chunk, _record(chunk, frame).get("method"))
        names.append(f"{_type(chunk, method)}.{_symbol(chunk, method.get('name'))}")
    return tuple(names)


def _type(chunk: Chunk, owner: Mapping[str, Any]) -> str:
    return readable(_symbol(chunk, _record(chunk, owner.get("type")).get("name")).replace("/", ".")) or "?"


def _symbol(chunk: Chunk, value: Any) -> str:
    """A symbol is a record around its string; a plain string is taken as it is."""
    told = chunk.get(value)
    text = chunk.get(told.get("string")) if isinstance(told, Mapping) else told
    return text if isinstance(text, str) else ""


def _word(chunk: Chunk, owner: Mapping[str, Any], name: str) -> str:
    text = chunk.get(owner.get(name))
    return text.strip() if isinstance(text, str) else ""


def _record(chunk: Chunk, value: Any) -> Mapping[str, Any]:
    told = chunk.get(value)
    return told if isinstance(told, Mapping) else {}
