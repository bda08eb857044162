"""What leaves this machine: documents without their secrets, and with stand-ins for names, paths and hosts.

A stand-in (name-3, path-1, host-2) is the same wherever its original stood, so that a reader can still follow it
through the documents, and what comes back is told here with the originals. What is secret and looks like nothing is
not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.opinion.policy import Share

HIDDEN = "[hidden]"
DEEPEST = 40
_LONGEST_NAME = 256
_TELLING = (
    r"(?:pass(?:wd|word|phrase|code)?|pwd|secret|token|credentials?|"
    r"(?:api|access|private|signing|auth)[_-]?key|authorization|cookie)"
)
#: Keys, variables and options whose last word says secret. `tokens` and `token_count` are figures, not secrets.
_SECRET_KEY = re.compile(rf"(?i)(?:^|[^a-z]){_TELLING}(?:[_-](?:id|value|string|data))?$")
_VALUE = r"(?:\"[^\"]*\"?|'[^']*'?|[^\s&;,\"']+)"
#: (what is found, what stands there instead). Each begins with a fixed word: hostile text stays linear.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic|digest)\s{1,4}[\w.~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            rf"(?i)({_TELLING}[\"']?\s{{0,4}}[=:]\s{{0,4}})(?!\[hidden|(?:bearer|basic|digest)\s{{1,4}}\[hidden){_VALUE}"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(rf"(?i)(?<![\w-])(--?[a-z-]{{0,40}}{_TELLING}\s{{1,4}})(?!-){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(r"(://)[^\s/@]{1,512}@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[a-z]_[A-Za-z0-9]{20,}|\bxox[a-z]-[\w-]{10,}"), HIDDEN),
    (re.compile(r"\bsk-[\w-]{16,}|(?<![\w-])eyJ[\w-]{8,2048}\.[\w-]{8,8192}(?:\.[\w-]*)?"), HIDDEN),
)
#: A row with a pid is of a process; rows below these keys have names of processes, threads or containers too.
_NAMED_BELOW = frozenset({"processes", "threads", "containers", "killed", "spared", "last_killed", "jobs"})
_NAMES = frozenset({"name", "comm", "process", "container", "pod", "user"})
_COMMANDS = frozenset({"cmdline", "command", "argv", "cmd"})
_PATHS = frozenset({"path", "file", "exe", "scope", "cgroup", "directory", "mountpoint"})
_HOSTS = frozenset({"host", "hostname", "node"})
_PATH = r"(?P<path>(?<![\w.~/-])~?/[\w.@+:%=,~-]+(?:/[\w.@+:%=,~-]*)*)"
_DOMAIN = r"(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*"  #: a host that is known by its short name may be told with its domain
_ADDRESS = r"(?P<address>(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]))"
_STAND_IN = re.compile(r"\b(?:name|path|host|command)-[1-9]\d{0,6}\b")


class Veil:
    """Knows what was hidden behind which stand-in. `learn` the documents first, then send only what `over` gives."""

    def __init__(self, share: Share, hosts: Iterable[str] = ()) -> None:
        self._share = share
        self._extra = [re.compile(each) for each in share.redact]
        self._behind: dict[str, str] = {}
        self._stand_ins: dict[tuple[str, str], str] = {}
        self._known: dict[str, str] = {}  #: name or host -> its kind, looked for in all texts
        self._in_text: re.Pattern[str] | None = None
        self.secrets = 0  #: how many were hidden
        for host in hosts:
            self._know("host", host)

    def learn(self, document: Any) -> None:
        """The names of processes, containers and hosts in it: they are hidden wherever else they stand."""
        self._walk(document, "", 0)

    def over(self, document: Any) -> Any:
        """The document as it may leave. Its shape is the same, so that a place in it is one in the original."""
        return self._over(document, "", 0)

    def text(self, text: str) -> str:
        """A text as it may leave."""
        for pattern, instead in (*_SECRETS, *((each, HIDDEN) for each in self._extra)):
            text, hits = pattern.subn(instead, text)
            self.secrets += hits
        return self._veiled().sub(self._instead, text)

    def lifted(self, said: Any) -> Any:
        """What came back, with the originals in the place of the stand-ins."""
        if isinstance(said, str):
            return _STAND_IN.sub(lambda found: self._behind.get(found[0], found[0]), said)
        if isinstance(said, Mapping):
            return {key: self.lifted(value) for key, value in said.items()}
        return [self.lifted(each) for each in said] if isinstance(said, (list, tuple)) else said

    def _walk(self, node: Any, below: str, depth: int) -> None:
        if depth > DEEPEST:
            return
        if isinstance(node, Mapping):
            for key, value in node.items():
                kind = _kind_of(key, node, below)
                if isinstance(value, str) and kind in ("name", "host"):
                    self._know(kind, value)
                self._walk(value, key if isinstance(value, (list, Mapping)) else below, depth + 1)
        elif isinstance(node, list):
            for each in node:
                if isinstance(each, str) and below in _NAMED_BELOW:
                    self._know("name", each)
                self._walk(each, below, depth + 1)

    def _know(self, kind: str, word: str) -> None:
        hidden = self._share.names if kind == "name" else self._share.hosts
        if hidden == "hidden" and 1 < len(word) <= _LONGEST_NAME:
            self._known[word] = kind
            self._in_text = None
        short = word.partition(".")[0]
        if kind == "host" and short != word and not short.isdigit() and short not in self._known:
            self._know(kind, short)

    def _veiled(self) -> re.Pattern[str]:
        """What a stand-in takes the place of, in one pass: it never looks at what it has put there itself."""
        if self._in_text is None:
            longest_first = sorted(self._known, key=lambda word: (-len(word), word))
            words = (re.escape(word) + _DOMAIN * (self._known[word] == "host") for word in longest_first)
            known = rf"(?P<known>(?<!\w)(?:{'|'.join(words)})(?!\w))" if longest_first else ""
            parts = (
                _PATH if self._share.paths == "hidden" else "",
                _ADDRESS if self._share.hosts == "hidden" else "",
                known,
            )
            self._in_text = re.compile("|".join(filter(None, parts)) or r"(?!)")
        return self._in_text

    def _instead(self, found: re.Match[str]) -> str:
        if found.lastgroup == "path":
            path = found[0].rstrip(".,:")  # what ends the sentence is not the path's
            return self._stand_in("path", path) + found[0][len(path) :]
        return self._stand_in(self._known.get(found[0], "host"), found[0])

    def _stand_in(self, kind: str, original: str) -> str:
        found = self._stand_ins.get((kind, original))
        if found is None:
            number = 1 + sum(1 for each, _ in self._stand_ins if each == kind)
            found = self._stand_ins[kind, original] = f"{kind}-{number}"
            self._behind[found] = original
        return found

    def _over(self, node: Any, below: str, depth: int) -> Any:
        if depth > DEEPEST:
            return "…"
        if isinstance(node, Mapping):
            return {self.text(str(key)): self._value(str(key), each, node, below, depth) for key, each in node.items()}
        if isinstance(node, (list, tuple)):
            return self._row(node, below, depth)
        return self.text(node) if isinstance(node, str) else node

    def _row(self, items: Sequence[Any], below: str, depth: int) -> list[Any]:
        """A word after an option that says secret is one, as in the arguments of a process."""
        row: list[Any] = []
        before = ""
        for each in items:
            if isinstance(each, str) and before.startswith("-") and _SECRET_KEY.search(before[-64:]):
                row.append(self._secret())
            elif isinstance(each, str) and below in _NAMED_BELOW:
                row.append(self._whole("name", each))
            else:
                row.append(self._over(each, below, depth + 1))
            before = each if isinstance(each, str) else ""
        return row

    def _secret(self) -> str:
        self.secrets += 1
        return HIDDEN

    def _value(self, key: str, value: Any, row: Mapping[Any, Any], below: str, depth: int) -> Any:
        if _SECRET_KEY.search(key[-64:]) and value not in (None, "") and not isinstance(value, (int, float)):
            return self._secret()
        kind = _kind_of(key, row, below)
        if kind == "command" and self._share.names == "hidden" and value:
            return self._stand_in("command", str(value))
        if kind and isinstance(value, str):
            return self._whole(kind, value)
        return self._over(value, key if isinstance(value, (list, tuple, Mapping)) else below, depth + 1)

    def _whole(self, kind: str, value: str) -> str:
        """All of the value is a name, a path or a host."""
        shown = {"name": self._share.names, "path": self._share.paths, "host": self._share.hosts}.get(kind, "shown")
        return self._stand_in(kind, value) if shown == "hidden" and value else self.text(value)


def _kind_of(key: str, row: Mapping[Any, Any], below: str) -> str:
    """`name`, `path`, `host`, `command`, or "" for a value that is none of them as a whole."""
    if key in _COMMANDS:
        return "command"
    if key in _HOSTS:
        return "host"
    if key in _PATHS:
        return "path"
    of_process = "pid" in row or below in _NAMED_BELOW
    return "name" if (key == "name" and of_process) or (key in _NAMES and key != "name") else ""
