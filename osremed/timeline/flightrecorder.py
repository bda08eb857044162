"""Dumps of PyTorch's flight recorder (c10d), NCCL and gloo -> one table of collectives.

A dump is a pickle of plain data, or JSON. It is read by an unpickler that knows no globals at all: a pickle that names
a class or function is code from a stranger, and is refused. `pg_id` is local to a rank, so groups are keyed by name
and ranks. Verified with dumps of version 2.10 (torch 2.13)."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.files import read_bytes
from osremed.core.record import record

_LARGEST_DUMP = 512 << 20
_RANK_IN_NAME = re.compile(r"([0-9]{1,6})(?:\.(?:pkl|pickle|json|bin|trace))?\Z")
_PEER = re.compile(r":(send|recv) ([0-9]{1,6})(->|<-)([0-9]{1,6})")
_MOST_ENTRIES = 1_000_000


@record
class Group:
    """A process group as all its ranks know it."""

    name: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name or 'default'} ({len(self.ranks)} ranks)"


@record
class Operation:
    """One collective (or send, receive) as one rank recorded it. `created_ns` is when the rank entered it, by its own
    clock; `completed_ns` 0 when it is not known; `peer` -1 unless it is point to point. `frames` innermost first."""

    group: Group
    seq: int
    rank: int
    name: str
    created_ns: int
    started_ns: int
    completed_ns: int
    pending: bool
    sizes: str
    peer: int
    frames: tuple[str, ...]


@record
class Dump:
    """One rank's recording. `last_enqueued` is by group."""

    rank: int
    path: str
    version: str
    operations: tuple[Operation, ...]
    last_enqueued: Mapping[Group, int]


class _PlainData(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}: a dump holds plain data only")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002  the name is pickle's
        raise pickle.UnpicklingError("names a persistent object: a dump holds plain data only")


def load_dump(path: str, rank: int | None = None) -> Dump:
    """The dump at `path`; its rank from the end of the file's name unless given. BadInput for anything else, hostile
    pickles among them."""
    try:
        data = read_bytes(path, limit_bytes=_LARGEST_DUMP)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error
    try:
        document = json.loads(data) if data[:1] in (b"{", b"[") else _PlainData(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, ValueError, EOFError, RecursionError, MemoryError, OverflowError) as error:
        raise BadInput(f"not a flight-recorder dump: {error}", where=path) from error
    except (AttributeError, IndexError, KeyError, TypeError, ImportError) as error:  # damaged opcodes
        raise BadInput(f"not a flight-recorder dump: {error!r}", where=path) from error
    found = _RANK_IN_NAME.search(os.path.basename(path))
    if rank is None and found is None:
        hint = "name the files by rank, as PyTorch does: nccl_trace_rank_3"
        raise BadInput("the file's name does not end in a rank", where=path, hint=hint)
    return parse_dump(document, rank if rank is not None else int(found.group(1)) if found else 0, path)


def parse_dump(document: Any, rank: int, path: str) -> Dump:
    try:
        groups = dict(_groups(document.get("pg_config") or {}))
        entries = document["entries"]
        if not isinstance(entries, (list, tuple)) or len(entries) > _MOST_ENTRIES:
            raise ValueError("entries are not a list, or too many")
        operations = tuple(_operation(entry, rank, groups) for entry in entries)
        enqueued: dict[Group, int] = {}
        for each in operations:
            if each.peer < 0:
                enqueued[each.group] = max(enqueued.get(each.group, -1), each.seq)
        return Dump(rank, path, str(document.get("version", "?")), operations, enqueued)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInput(f"not a flight-recorder dump: {error!r}", where=path) from error


def _groups(config: Mapping[str, Any]) -> Iterable[tuple[str, Group]]:
    for key, facts in config.items():
        ranks = facts["ranks"]
        members = json.loads(ranks) if isinstance(ranks, str) else ranks
        yield str(key), Group(str(facts.get("desc") or facts.get("name") or key), tuple(int(each) for each in members))


def _operation(entry: Mapping[str, Any], rank: int, groups: Mapping[str, Group]) -> Operation:
    name, description = (str(part) for part in entry["process_group"])
    known = groups.get(name) or groups.get(description)
    if known is None and name == "0":  # gloo files the default group under an empty name, and no other
        known = groups.get("")
    ranks = known.ranks if known else ()
    label = description if description not in ("", "undefined") else known.name if known else name
    point_to_point = bool(entry.get("is_p2p"))
    peer = _peer(str(entry["profiling_name"]), rank) if point_to_point else -1
    completed = int(entry.get("time_discovered_completed_ns") or 0)
    done = bool(entry.get("retired")) or completed > 0 or entry.get("state") == "completed"
    return Operation(
        Group(label, ranks),
        int(entry["p2p_seq_id"] if point_to_point else entry["collective_seq_id"]),
        rank,
        str(entry["profiling_name"]),
        int(entry["time_created_ns"]),
        int(entry.get("time_discovered_started_ns") or 0),
        completed,
        not done,
        f"{entry.get('input_sizes')} -> {entry.get('output_sizes')}",
        peer,
        tuple(_frame(each) for each in (entry.get("frames") or ())[:64]),
    )


def as_one_job(dumps: Iterable[Dump]) -> list[Dump]:
    """The dumps with every group's members filled in: where the configuration does not tell them (gloo), they are the
    ranks that recorded the group, so a member without a dump is not known to be missing there."""
    whole = list(dumps)
    members: dict[str, set[int]] = {}
    for dump in whole:
        for each in dump.operations:
            if not each.group.ranks:
                members.setdefault(each.group.name, set()).add(dump.rank)
    if not members:
        return whole
    filled = {name: Group(name, tuple(sorted(ranks))) for name, ranks in members.items()}

    def known(group: Group) -> Group:
        return group if group.ranks else filled[group.name]

    return [
        replace(
            dump,
            operations=tuple(replace(each, group=known(each.group)) for each in dump.operations),
            last_enqueued={known(group): seq for group, seq in dump.last_enqueued.items() if known(group).ranks},
        )
        for dump in whole
    ]


def _peer(name: str, rank: int) -> int:
    """The other end of `nccl:send 0->1` or `nccl:recv 1<-0`; ValueError when the name does not tell."""
    found = _PEER.search(name)
    if found is None:
        raise ValueError(f"point to point without a peer: {name!r}")
    left, right = int(found.group(2)), int(found.group(4))
    return right if left == rank else left


def _frame(frame: Mapping[str, Any]) -> str:
    return f"{frame.get('name')} ({frame.get('filename')}:{frame.get('line')})"
