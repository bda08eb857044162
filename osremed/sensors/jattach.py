"""A HotSpot JVM from outside: its counters (hsperfdata, read from its memory) and its attach socket, without a JDK.

Counters cost the target nothing. Attaching makes the JVM open a socket in its own /tmp, after a SIGQUIT that it turns
into a thread of its own; the signal would end a program that does not catch it, so that is checked first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import struct
import time
from typing import Union

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors import process, procfs
from osremed.sensors.address_space import AddressSpace, Mapping

_MAGIC = 0xCAFEC0C0
_COUNTERS_LIMIT_BYTES = 1 << 20
_MOST_COUNTERS = 10_000
_ANSWER_LIMIT_BYTES = 64 << 20
_SOCKET_WAIT_S = 5.0
_DISABLED = "-XX:+DisableAttachMechanism"

Counters = dict[str, Union[int, str]]


def jvm_mapping(space: AddressSpace) -> Reading[Mapping]:
    """The libjvm of a HotSpot JVM. UNSUPPORTED for OpenJ9, which attaches in another way; NO_DATA for no JVM."""
    source = f"{space.root}/{space.pid}/maps"
    names = {os.path.basename(one.path): one for one in space.maps if one.inode}
    if any(name.startswith("libj9vm") for name in names):
        return Missing(Reason.UNSUPPORTED, source, "OpenJ9 is not read; HotSpot is")
    return Value(names["libjvm.so"]) if "libjvm.so" in names else Missing(Reason.NO_DATA, source, "no JVM is mapped")


def parse_counters(data: bytes) -> Counters:
    """Name -> number or text. ValueError for what is no hsperfdata of version 2; entries that point outside end it."""
    if len(data) < 32:
        raise ValueError("shorter than its header")
    magic, order, major = struct.unpack_from(">IBB", data)
    if magic != _MAGIC or order > 1 or major != 2:
        raise ValueError("not hsperfdata of version 2")
    mark = "<" if order else ">"
    at, count = struct.unpack_from(mark + "ii", data, 24)
    found: Counters = {}
    for _entry in range(min(max(count, 0), _MOST_COUNTERS)):
        if not 32 <= at <= len(data) - 20:
            break
        length, name_at, items, kind, _flags, _unit, _change, value_at = struct.unpack_from(mark + "iiiBBBBi", data, at)
        entry = data[at : at + max(length, 0)]
        name = procfs.text(entry[max(name_at, 0) :].split(b"\0", 1)[0])
        if kind == ord("J") and 0 <= value_at <= len(entry) - 8:
            found[name] = int(struct.unpack_from(mark + "q", entry, value_at)[0])
        elif kind == ord("B") and items > 0 and value_at >= 0:
            found[name] = procfs.text(entry[value_at : value_at + items].split(b"\0", 1)[0])
        if length < 20:
            break
        at += length
    return found


def counters(space: AddressSpace) -> Reading[Counters]:
    """What the JVM counts about itself (`sun.gc...used`, `sun.rt.safepointTime`). NO_DATA with -XX:-UsePerfData."""
    mapping = next((one for one in space.maps if "/hsperfdata_" in one.path), None)
    source = f"{space.root}/{space.pid}/maps"
    if mapping is None:
        return Missing(Reason.NO_DATA, source, "it keeps no counters (-XX:-UsePerfData)")
    try:
        return Value(parse_counters(space.read_prefix(mapping.start, min(mapping.bytes, _COUNTERS_LIMIT_BYTES))))
    except ValueError as error:
        return Missing(Reason.MALFORMED, mapping.path, str(error))


@record
class _Target:
    """`pid` in its own namespace, effective uid, and whether it catches SIGQUIT."""

    pid: int
    uid: int
    catches_quit: bool

    @property
    def socket_name(self) -> str:
        return f".java_pid{self.pid}"


def command(space: AddressSpace, words: str, timeout_s: float) -> Reading[str]:
    """The answer of the JVM to a diagnostic command, as jcmd would print it.

    DENIED without the rights of the target's user; UNSUPPORTED where attaching is switched off, or its /tmp is a link;
    TIMED_OUT when it does not answer; MALFORMED when it refuses the command. The socket it opened stays, as after any
    jcmd."""
    ends_s = time.monotonic() + timeout_s
    status = _status(space)
    if isinstance(status, Missing):
        return status
    folder = tmp_folder(space)
    if isinstance(folder, Missing):
        return folder
    try:
        return _command(space, folder.value, status.value, words, ends_s)
    except socket.timeout:
        return Missing(Reason.TIMED_OUT, _tmp(space), f"no answer within {timeout_s:.1f} s")
    finally:
        os.close(folder.value)


def tmp_folder(space: AddressSpace) -> Reading[int]:
    """A descriptor (O_PATH, to be closed) of /tmp as the target has it, for names in it. UNSUPPORTED where that is a
    link: its owner would lead us out of its root, on the files of this host."""
    path = _tmp(space)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        root = os.open(os.path.dirname(path), flags)
        try:
            return Value(os.open("tmp", flags | os.O_NOFOLLOW, dir_fd=root))
        finally:
            os.close(root)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return Missing(Reason.UNSUPPORTED, path, "not a folder but a link: it is not followed")
        return missing_from_oserror(error, path)


def _tmp(space: AddressSpace) -> str:
    return f"{space.root}/{space.pid}/root/tmp"


def _command(space: AddressSpace, folder: int, target: _Target, words: str, ends_s: float) -> Reading[str]:
    path = f"{_tmp(space)}/{target.socket_name}"
    try:
        opened = _socket(folder, target.socket_name)
        if opened is None:
            failed = _may_signal(space, target.catches_quit) or _wake(
                space, folder, target, min(ends_s, time.monotonic() + _SOCKET_WAIT_S)
            )
            if failed is not None:
                return failed
            opened = _socket(folder, target.socket_name)
            if opened is None:
                return Missing(Reason.GONE, path, "the JVM took its socket away")
        try:
            answer = _ask(opened, words, ends_s)
        finally:
            os.close(opened)
    except OSError as error:
        if isinstance(error, socket.timeout):
            raise
        return missing_from_oserror(error, path)
    code, _newline, text = answer.partition(b"\n")
    if code.strip() != b"0":
        return Missing(Reason.MALFORMED, path, procfs.text(text[:200]) or "the command was refused")
    return Value(procfs.text(text))


def _socket(folder: int, name: str) -> int | None:
    """A descriptor (O_PATH) of the socket, None when there is none yet; OSError for a link or anything else there."""
    try:
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    if stat.S_ISSOCK(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise OSError(errno.EINVAL, "not a socket", name)


def _status(space: AddressSpace) -> Reading[_Target]:
    path = f"{space.root}/{space.pid}/status"
    try:
        lines = procfs.read_file(path).split(b"\n")
        fields = dict(line.split(b":\t", 1) for line in lines if b":\t" in line)
        own_pid = int(fields.get(b"NSpid", b"%d" % space.pid).split()[-1])
        uid = int(fields[b"Uid"].split()[1])
        caught = int(fields[b"SigCgt"], 16)
    except OSError as error:
        return missing_from_oserror(error, path)
    except (KeyError, ValueError, IndexError) as error:
        return Missing(Reason.MALFORMED, path, str(error)[:100])
    return Value(_Target(own_pid, uid, bool(caught >> (signal.SIGQUIT - 1) & 1)))


def _may_signal(space: AddressSpace, catches_quit: bool) -> Missing | None:
    source = f"{space.root}/{space.pid}"
    if not catches_quit:
        return Missing(Reason.UNSUPPORTED, source, "it does not catch SIGQUIT (-Xrs): attaching would end it")
    told = counters(space)
    texts = (
        [] if isinstance(told, Missing) else [str(text) for name, text in told.value.items() if "vm" in name.lower()]
    )
    line = procfs.cmdline(space.pid, space.root)
    texts += [] if isinstance(line, Missing) else list(line.value)
    if any(_DISABLED in text for text in texts):
        return Missing(Reason.UNSUPPORTED, source, f"attaching is switched off ({_DISABLED})")
    return None


def _wake(space: AddressSpace, folder: int, target: _Target, ends_s: float) -> Missing | None:
    """Leaves the mark file that makes the JVM read SIGQUIT as a wish to attach, and waits for its socket."""
    name = f".attach_pid{target.pid}"
    identity = procfs.stat(space.pid, space.root)
    if isinstance(identity, Missing):
        return identity
    pidfd = process.open_verified(space.pid, identity.value.start_time_ticks, space.root)
    if isinstance(pidfd, Missing):
        return pidfd
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        mark = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            if os.geteuid() != target.uid:
                os.fchown(mark, target.uid, -1)
        finally:
            os.close(mark)
        failed = process.send(pidfd.value, signal.SIGQUIT)
        while failed is None and not _is_there(folder, target.socket_name):
            if time.monotonic() > ends_s:
                return Missing(Reason.TIMED_OUT, _tmp(space), "the JVM did not open its socket")
            time.sleep(0.01)
        return failed
    except OSError as error:
        return missing_from_oserror(error, f"{_tmp(space)}/{name}")
    finally:
        os.close(pidfd.value)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _ask(opened: int, words: str, ends_s: float) -> bytes:
    """Version 1 of the protocol: five strings, each ended by NUL; the answer lasts until the JVM closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(max(0.1, ends_s - time.monotonic()))
        connection.connect(f"{procfs.PROC}/self/fd/{opened}")
        connection.sendall(b"1\0jcmd\0" + words.encode("ascii") + b"\0\0\0")
        parts, got = [], 0
        while got < _ANSWER_LIMIT_BYTES:
            connection.settimeout(max(0.1, ends_s - time.monotonic()))
            part = connection.recv(1 << 16)
            if not part:
                break
            parts.append(part)
            got += len(part)
    return b"".join(parts)
