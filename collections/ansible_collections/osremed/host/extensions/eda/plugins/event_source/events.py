# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Event source of ansible-rulebook: the events that osremed has spooled on disk, each at least once.

Where this runs decides whose events they are: below /var/lib/osremed/events lie the journals of this host, and the
intake of the control plane keeps one journal with those of the fleet. Nothing is taken away from the agent, which goes
on shipping: this reads with a cursor of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import logging
import os
import re
import zlib
from typing import Any, NamedTuple

DOCUMENTATION = r"""
short_description: Events that osremed has spooled, each at least once
description:
  - Follows the journals below some directories and puts each event into the queue of the rulebook.
  - The cursor moves after the rulebook has taken an event from the queue. After a crash the last ones come again. Their V(id)
    stays the same, so a rule can tell.
  - A damaged line is logged and left out. What retention dropped before it was read is logged as lost.
options:
  directories:
    description:
      - Directories whose sub-directories are journals, such as the events directory of a host. A directory that is itself a
        journal, such as that of the intake, may be named too.
    type: list
    elements: str
    default: [/var/lib/osremed/events]
  cursor_dir:
    description: Directory in which this rulebook keeps how far it has come. Made with mode V(0700). One for each rulebook.
    type: str
    required: true
  names:
    description: Globs of the names of events that are wanted. Others are passed over.
    type: list
    elements: str
    default: ["*"]
  begin:
    description: Where to begin in a journal that has no cursor yet.
    type: str
    choices: [oldest, newest]
    default: oldest
  poll_s:
    description: Seconds between two looks.
    type: float
    default: 0.5
"""

EXAMPLES = r"""
- name: Nodes that run out of memory
  hosts: all
  sources:
    - osremed.host.events:
        directories: [/var/lib/osremed/control/intake]
        cursor_dir: /var/lib/osremed-rulebook
        names: [memory.*]
  rules:
    - name: Collect evidence
      condition: event.name == "memory.near_oom" and event.attributes.level == "high"
      action:
        run_playbook:
          name: collect.yml
          extra_vars:
            host: "{{ event.host }}"
"""

LOG = logging.getLogger(__name__)
_KEYS = {"directories", "cursor_dir", "names", "begin", "poll_s"}
_SEGMENT = re.compile(r"[0-9]+\.jsonl")
_BATCH = 500


class Options(NamedTuple):
    directories: tuple
    cursor_dir: str
    names: tuple
    begin: str
    poll_s: float


class Entry(NamedTuple):
    seq: int
    record: dict


def options_of(args: dict[str, Any]) -> Options:
    """The arguments, checked. ValueError names the one that is wrong."""
    # ansible-rulebook adds arguments of its own, such as EDA_... settings.
    unknown = sorted(name for name in set(args) - _KEYS if not name.startswith(("EDA_", "_")))
    if unknown:
        raise ValueError("events: unknown argument %r. Known: %s" % (unknown[0], ", ".join(sorted(_KEYS))))
    directories = _texts(args, "directories", ["/var/lib/osremed/events"])
    names = _texts(args, "names", ["*"])
    cursor_dir, begin, poll_s = args.get("cursor_dir"), args.get("begin", "oldest"), args.get("poll_s", 0.5)
    if not isinstance(cursor_dir, str) or not all(os.path.isabs(path) for path in (cursor_dir,) + directories):
        raise ValueError("events: cursor_dir is needed, and it and directories must be absolute paths")
    if begin not in ("oldest", "newest"):
        raise ValueError("events: begin %r is neither oldest nor newest" % (begin,))
    if isinstance(poll_s, bool) or not isinstance(poll_s, (int, float)) or not 0.01 <= poll_s <= 3600:
        raise ValueError("events: poll_s %r is not between 0.01 and 3600 seconds" % (poll_s,))
    return Options(directories, cursor_dir, names, begin, float(poll_s))


def _texts(args: dict[str, Any], key: str, default: list) -> tuple:
    given = args.get(key, default)
    if not isinstance(given, list) or not given or not all(isinstance(item, str) and item for item in given):
        raise ValueError("events: %s must be a list of at least one text" % key)
    return tuple(given)


def decode(line: bytes) -> Entry | None:
    """The entry of a line, None if it is damaged: the checksum is that of its number and its record."""
    try:
        document = json.loads(line)
        seq, crc, rec = document["seq"], document["crc"], document["rec"]
        body = json.dumps(rec, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        checksum = zlib.crc32(b"%d:%b" % (seq, body.encode("utf-8", "surrogatepass")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Entry(seq, rec) if crc == "%08x" % checksum and isinstance(rec, dict) else None


def segments(journal: str) -> list:
    """[(first number, path)], in order."""
    names = sorted(name for name in os.listdir(journal) if _SEGMENT.fullmatch(name))
    return sorted((int(name[: -len(".jsonl")]), os.path.join(journal, name)) for name in names)


def whole_lines(path: str) -> list:
    """A torn last line is no line yet. None of them if retention has removed the segment."""
    try:
        with open(path, "rb") as stream:
            return stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


class Journal:
    """One journal and how far it was read. `read_seq` is ahead of what the cursor on disk says."""

    def __init__(self, directory: str, cursor_path: str, begin: str) -> None:
        self.directory, self.cursor_path = directory, cursor_path
        self.kept_seq = self._load(begin)
        self.read_seq = self.kept_seq
        self._seen: tuple = ()

    def _load(self, begin: str) -> int:
        try:
            with open(self.cursor_path, encoding="ascii") as stream:
                return max(-1, int(stream.read(64)))
        except FileNotFoundError:
            return self._last_seq() if begin == "newest" else -1
        except ValueError:
            LOG.warning("%s is damaged: all events are told again", self.cursor_path)
            return -1

    def _last_seq(self) -> int:
        for first, path in reversed(segments(self.directory)):
            lines = whole_lines(path)
            return first + len(lines) - 1
        return -1

    def read(self) -> list:
        """The next entries. Costs one listing and one stat while nothing changes."""
        found = segments(self.directory)
        if not found:
            return []
        state = (found[-1], os.stat(found[-1][1]).st_size, self.read_seq)
        if state == self._seen:
            return []
        entries = self._read(found)
        if not entries:
            self._seen = state[:2] + (self.read_seq,)
        return entries

    def _read(self, found: list) -> list:
        if self.read_seq >= found[-1][0] and self._last_seq() < self.read_seq:
            LOG.warning("%s was replaced: all of it is told", self.directory)
            self.read_seq = -1
        if found[0][0] > self.read_seq + 1:
            LOG.error(
                "%s: %d events were dropped by retention before they were read",
                self.directory,
                found[0][0] - self.read_seq - 1,
            )
            self.read_seq = found[0][0] - 1
        entries = []
        for index, (first, path) in enumerate(found):
            if index + 1 < len(found) and found[index + 1][0] <= self.read_seq + 1:
                continue
            for number, line in enumerate(whole_lines(path), start=first):
                if number <= self.read_seq:
                    continue
                entry = decode(line)
                if entry is None:
                    LOG.error("%s:%d: damaged line left out", path, number - first + 1)
                    entry = Entry(number, {})
                entries.append(entry)
                if len(entries) == _BATCH:
                    return entries
        return entries

    def keep(self) -> None:
        """Moves the cursor on disk to what was read."""
        if self.kept_seq == self.read_seq and os.path.exists(self.cursor_path):
            return
        temporary = self.cursor_path + ".new"
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write("%d\n" % self.read_seq)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.cursor_path)
        self.kept_seq = self.read_seq


def find_journals(options: Options, known: dict) -> None:
    """Adds what has appeared to `known`, and forgets what was removed."""
    for directory in [path for path in known if not os.path.isdir(path)]:
        del known[directory]
    for root in options.directories:
        candidates = [root]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            candidates += sorted(os.path.join(root, name) for name in os.listdir(root) if not name.startswith("."))
        for directory in candidates:
            if directory not in known and os.path.isdir(directory) and segments(directory):
                cursor = os.path.join(options.cursor_dir, directory.strip("/").replace("%", "%25").replace("/", "%2F"))
                known[directory] = Journal(directory, cursor, options.begin)


def as_event(journal: Journal, entry: Entry, options: Options) -> dict[str, Any] | None:
    """What the rulebook gets, None for what is not wanted."""
    name = entry.record.get("name")
    if not isinstance(name, str) or not any(fnmatch.fnmatchcase(name, glob) for glob in options.names):
        return None
    source = {"name": "osremed.host.events", "type": "osremed.host.events"}
    return dict(entry.record, meta={"source": source, "journal": journal.directory, "seq": entry.seq})


def is_empty(queue: Any) -> bool:
    """Whether all was taken. A rulebook with event filters wraps its queue and shows only `put`."""
    return bool(getattr(queue, "queue", queue).empty())


async def tell(queue: asyncio.Queue[Any], journal: Journal, options: Options) -> int:
    """Puts what is new into the queue, waits until it was taken, and moves the cursor. How many entries were read."""
    entries = await asyncio.to_thread(journal.read)
    for entry in entries:
        event = as_event(journal, entry, options)
        if event is not None:
            await queue.put(event)
        journal.read_seq = max(journal.read_seq, entry.seq)
    while not is_empty(queue):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(journal.keep)
    return len(entries)


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Runs until it is cancelled. ValueError for arguments that cannot be meant."""
    options = options_of(args)
    os.makedirs(options.cursor_dir, mode=0o700, exist_ok=True)
    journals: dict[str, Journal] = {}
    while True:
        told = 0
        await asyncio.to_thread(find_journals, options, journals)
        for journal in list(journals.values()):
            try:
                told += await tell(queue, journal, options)
            except FileNotFoundError:  # the journal was removed; if it comes back it is found again
                journals.pop(journal.directory, None)
        if not told:
            await asyncio.sleep(options.poll_s)


if __name__ == "__main__":

    class PrintingQueue:
        """Stands in for the queue of a rulebook, to try this by hand: python events.py DIRECTORY CURSOR_DIR."""

        async def put(self, event: dict[str, Any]) -> None:
            print(json.dumps(event), flush=True)

        def empty(self) -> bool:
            return True

    import sys

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(PrintingQueue(), {"directories": [sys.argv[1]], "cursor_dir": sys.argv[2]}))  # type: ignore[arg-type]
