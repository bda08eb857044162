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
from osremed.sensors import jattach, jfr, procfs
from osremed.sensors.address_space import AddressSpace, ProcessLost, open_address_space
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


def new_name() -> str:
    """Of a recording and its file; it cannot be guessed. Whoever may have to end it for another chooses it."""
    return f"osremed-{uuid.uuid4().hex}"


def recorded(space: AddressSpace, name: str, seconds: float, limit_s: float, heap_bytes: int) -> Reading[Recording]:
    """Records for `seconds`, then the paths; each of four commands of the JVM gets `limit_s`. Missing as for
    jattach.command, UNSUPPORTED by a JVM without Flight Recorder. The recording and its file are removed in any case
    but one, which is said: that the JVM does not answer."""
    folder = jattach.tmp_folder(space)
    if isinstance(folder, Missing):
        return folder
    try:
        before = jattach.counters(space)
        data = _recorded(space, folder.value, name, seconds, limit_s)
    finally:
        os.close(folder.value)
    if isinstance(data, Missing):
        return data
    pause = Pause(_PATHS_PAUSE_S + 2 * estimate_s(heap_bytes), stopped_s(before, jattach.counters(space)))
    try:
        samples, paths = paths_of(data.value)
    except (ValueError, RecursionError) as error:
        return Missing(Reason.MALFORMED, _source(space, name), str(error))
    return Value(Recording(seconds, samples, paths, pause))


def _recorded(space: AddressSpace, folder: int, name: str, seconds: float, limit_s: float) -> Reading[bytes]:
    began = jattach.command(space, f"JFR.start name={name} settings=profile maxsize=32m", limit_s)
    if isinstance(began, Missing) and began.reason is not Reason.TIMED_OUT:
        unknown = began.reason is Reason.MALFORMED
        return Missing(Reason.UNSUPPORTED, began.source, f"no Flight Recorder: {began.detail}") if unknown else began
    try:
        data = began if isinstance(began, Missing) else _dumped(space, folder, name, seconds, limit_s)
    finally:
        left = stop(space, folder, name, limit_s)  # also of a start that it may answer later
    return left or data


def _dumped(space: AddressSpace, folder: int, name: str, seconds: float, limit_s: float) -> Reading[bytes]:
    time.sleep(seconds)
    dumped = jattach.command(space, _COLLECT, limit_s)
    if isinstance(dumped, Value):
        file = f"/tmp/{name}.jfr"  # noqa: S108  as the JVM sees it
        dumped = jattach.command(space, f"JFR.dump name={name} filename={file} path-to-gc-roots=true", limit_s)
    return dumped if isinstance(dumped, Missing) else _read(folder, f"{name}.jfr", _source(space, name))


def stop(space: AddressSpace, folder: int, name: str, limit_s: float) -> Missing | None:
    """Ends the recording of that name, if there is one, and removes its file from `folder`. Missing when the JVM did
    not answer: both may be left then, or come yet."""
    try:
        stopped = jattach.command(space, f"JFR.stop name={name}", limit_s)
    finally:  # also of a JVM that ended
        with contextlib.suppress(OSError):
            os.unlink(f"{name}.jfr", dir_fd=folder)
    if isinstance(stopped, Value) or stopped.reason is not Reason.TIMED_OUT:
        return None
    why = f"it did not answer JFR.stop within {limit_s:.1f} s: the recording {name} and its file may be left"
    return Missing(Reason.TIMED_OUT, _source(space, name), why)


def stop_for_another(pid: int, start_time_ticks: int, name: str, limit_s: float, root: str) -> None:
    """What `recorded` does at its end, for a reader that was ended before it. Nothing for what is no JVM, or is another
    process by now."""
    stat, opened = procfs.stat(pid, root), open_address_space(pid, root)
    if isinstance(stat, Missing) or isinstance(opened, Missing) or stat.value.start_time_ticks != start_time_ticks:
        return
    if isinstance(jattach.jvm_mapping(opened.value), Missing):
        return
    folder = jattach.tmp_folder(opened.value)
    if isinstance(folder, Value):
        with contextlib.suppress(ProcessLost):
            stop(opened.value, folder.value, name, limit_s)
        os.close(folder.value)


def _source(space: AddressSpace, name: str) -> str:
    return f"{space.root}/{space.pid}/root/tmp/{name}.jfr"


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
