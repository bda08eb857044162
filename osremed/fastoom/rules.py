"""Who a rule means: name, command line, arguments, executable, control group, user. Checked at load, timed in use."""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from osremed.core.reading import Missing, Reading
from osremed.core.record import record
from osremed.fastoom.model import Process

if sys.version_info >= (3, 11):
    from re import _parser as sre_parse  # type: ignore[attr-defined]
else:
    import sre_parse

KEYS = ("name", "cmdline", "argv", "exe", "cgroup", "user")
SEARCHED = 8192  #: characters of each end of a command line
_SEARCH_S = 0.02
_MANY = 64  # repeats from here on are as good as endless
_MAX_REGEX = 512
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT"})


@record
class Rule:
    """All that are given must match; case counts. `name`: glob on comm or on the base name of argv[0]. `cmdline`:
    regular expression searched in the space-joined argv. `argv`: globs, each of which must match one whole argument.
    `exe`: glob on the path of the program file. `cgroup`: glob on the path of the control group; it also means the
    groups below. `user`: a uid."""

    name: re.Pattern[str] | None
    cmdline: re.Pattern[str] | None
    text: str
    argv: tuple[re.Pattern[str], ...] = ()
    exe: re.Pattern[str] | None = None
    cgroup: re.Pattern[str] | None = None
    uid: int | None = None


def matches(rule: Rule, process: Process) -> bool:
    """Whether every given key matches what is known. With a Missing argv only comm can match."""
    return all(verdict is True for verdict in _verdicts(rule, process))


def undecidable(rule: Rule, process: Process) -> bool:
    """True when the rule might match, but what it asks for could not be read, or argv is too long to search whole."""
    verdicts = list(_verdicts(rule, process))
    return False not in verdicts and None in verdicts


def _verdicts(rule: Rule, process: Process) -> Iterable[bool | None]:
    """One for each given key; None is unknown."""
    if rule.name is not None:
        yield _named(rule.name, process)
    if rule.uid is not None:
        yield process.uid == rule.uid
    if rule.cmdline is not None:
        yield _searched(rule.cmdline, process.argv)
    for glob in rule.argv:
        yield None if isinstance(process.argv, Missing) else any(map(glob.match, process.argv.value))
    if rule.exe is not None:
        yield _matched(rule.exe, process.exe)
    if rule.cgroup is not None:
        yield _matched(rule.cgroup, process.cgroup)


def _matched(glob: re.Pattern[str], reading: Reading[str]) -> bool | None:
    return None if isinstance(reading, Missing) else bool(glob.match(reading.value))


def _named(glob: re.Pattern[str], process: Process) -> bool | None:
    if glob.match(process.name):
        return True
    if isinstance(process.argv, Missing):
        return None
    argv = process.argv.value
    return bool(argv and glob.match(os.path.basename(argv[0])))


def _searched(pattern: re.Pattern[str], argv: Reading[tuple[str, ...]]) -> bool | None:
    """Both ends of a command line that is too long: any process chooses its own, up to 2 MiB, and a search must not
    stall the guard. What was not found there is unknown."""
    if isinstance(argv, Missing):
        return None
    text = " ".join(argv.value)
    if len(text) <= 2 * SEARCHED:
        return search(pattern, text)
    return True if search(pattern, text[:SEARCHED]) or search(pattern, text[-SEARCHED:]) else None


class _TooLong(Exception):
    """The search took longer than it may."""


def _expired(_number: int, _frame: FrameType | None) -> None:
    raise _TooLong


def search(pattern: re.Pattern[str], text: str) -> bool | None:
    """Whether the pattern is found; None when that is not known after 20 ms of CPU time. Python's matcher looks for
    signals while it goes back and tries again, so a timer ends it. Main thread only."""
    if signal.getsignal(signal.SIGVTALRM) is not _expired:
        signal.signal(signal.SIGVTALRM, _expired)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _SEARCH_S)
        found = pattern.search(text)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooLong:
        return None
    return bool(found)


def asked(rules: Iterable[Rule]) -> frozenset[str]:
    """Which costly facts the rules look at: `exe`, `cgroup`."""
    found: set[str] = set()
    for rule in rules:
        found.update(key for key in ("exe", "cgroup") if getattr(rule, key) is not None)
    return frozenset(found)


# --- making one -------------------------------------------------------------------------------------------------


def make_rule(item: Mapping[str, Any]) -> Rule:
    """The rule. ValueError with (key, what, hint) for what is wrong with it; keys are known ones."""
    for key in item:
        _check(key, item[key])
    glob = {key: re.compile(fnmatch.translate(item[key])) for key in ("name", "exe") if key in item}
    return Rule(
        name=glob.get("name"),
        cmdline=_regex(item["cmdline"]) if "cmdline" in item else None,
        text=", ".join(f"{key} {item[key]!r}" for key in sorted(item)),
        argv=tuple(re.compile(fnmatch.translate(one)) for one in item.get("argv", ())),
        exe=glob.get("exe"),
        cgroup=_subtree(item["cgroup"]) if "cgroup" in item else None,
        uid=_uid(item["user"]) if "user" in item else None,
    )


def _check(key: str, value: Any) -> None:
    if key == "argv":
        good = isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)
        what, hint = "argv must be a list of globs that is not empty", 'write "argv": ["java", "-Dapp=*"]'
    elif key == "user":
        good = bool(value) if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)
        what, hint = "user must be a name or a uid", 'write "user": "postgres"'
    else:
        good, what, hint = isinstance(value, str) and bool(value), f"{key} must be text that is not empty", ""
    if not good:
        raise ValueError(key, what, hint)


def _subtree(glob: str) -> re.Pattern[str]:
    """The group and those below it. A `*` stops at no slash, as in the other globs."""
    translated = fnmatch.translate(glob.rstrip("/") or "/")
    below = fnmatch.translate(f"{glob.rstrip('/')}/*")
    return re.compile(f"{translated}|{below}")


def _uid(user: str | int) -> int:
    if isinstance(user, int):
        return user
    for line in _passwd():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == user and fields[2].isdigit():
            return int(fields[2])
    raise ValueError("user", f"no user {user!r} in /etc/passwd", "write the uid as a number for users from elsewhere")


def _passwd() -> Sequence[str]:
    """The file alone: asking the name service could wait for the network."""
    try:
        with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read(1 << 20).split("\n")
    except OSError:
        return ()


def _regex(text: str) -> re.Pattern[str]:
    hint = "escape special characters with a backslash; in JSON write it twice"
    if len(text) > _MAX_REGEX:
        raise ValueError("cmdline", f"longer than {_MAX_REGEX} characters", "use several rules")
    try:
        pattern = re.compile(text)
        slow = _explodes(sre_parse.parse(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError("cmdline", f"not a regular expression: {error}", hint) from None
    if slow:
        hint = "a process could stall the guard with it; write it without a repeat inside a repeat, or use argv globs"
        raise ValueError("cmdline", f"may take for ever: {slow}", hint)
    return pattern


def _explodes(tree: Any) -> str:
    """Why matching may take 2^n tries for n characters; empty if it cannot. Python's matcher goes back and tries
    again, which a repeat around a repeat or around alternatives multiplies. What remains is a power of n, and timed."""
    for word, argument in _walk(tree):
        if word not in _REPEATS or argument[1] < _MANY:
            continue
        inside = {inner for inner, _ in _walk(argument[2])}
        if inside & _REPEATS:
            return "a repeat inside a repeat"
        if inside & {"BRANCH", "GROUPREF", "GROUPREF_EXISTS"}:
            return "alternatives or a back reference inside a repeat"
    return ""


def _walk(tree: Any) -> Iterable[tuple[str, Any]]:
    """Every node of a parsed expression: (name of its operation, its argument)."""
    for operation, argument in tree:
        yield str(operation), argument
        for part in _parts(argument):
            yield from _walk(part)


def _parts(argument: Any) -> Iterable[Any]:
    if isinstance(argument, sre_parse.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for part in argument:
            yield from _parts(part)
