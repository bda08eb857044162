"""A trace of a PyTorch job that runs, asked for without touching it: a profiling daemon's part in Kineto's protocol.

A job that was started with KINETO_USE_DAEMON=1 asks every few seconds, over a unix datagram socket, whether somebody
wants a trace. Its name is abstract (so the asker must be in the job's network namespace), or a file in
KINETO_IPC_SOCKET_DIR. A datagram is a size (u64), a type (32 bytes) and that many bytes. Tried with torch 2.14."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections.abc import Mapping

from osremed.core.errors import Unavailable
from osremed.core.reading import Missing, Reading, Reason, Value
from osremed.core.record import record
from osremed.sensors import procfs

NAME = "dynolog"
_HEAD = struct.Struct("<Q32s")
_REQUEST = struct.Struct("<iiq")  # kind, number of pids, job
_CREDENTIALS = struct.Struct("3i")
_ACTIVITIES = 2
_SO_PASSCRED = 16
_MOST_BYTES = 1 << 16
_HINT = "start the job with KINETO_USE_DAEMON=1"


@record
class Wish:
    """`directory` is as the job sees it, and the job must be allowed to write there."""

    duration_s: float
    directory: str
    with_stack: bool
    with_shapes: bool

    def config(self, name: str) -> bytes:
        """What Kineto reads; the process adds its number to the file's name."""
        lines = [
            "ACTIVITIES_WARMUP_PERIOD_SECS=1",
            f"ACTIVITIES_DURATION_MSECS={max(1, round(self.duration_s * 1000))}",
            f"ACTIVITIES_LOG_FILE={self.directory}/{name}.json",
            f"PROFILE_WITH_STACK={str(self.with_stack).lower()}",
            f"PROFILE_REPORT_INPUT_SHAPES={str(self.with_shapes).lower()}",
        ]
        return "\n".join(lines).encode() + b"\n"


def environment(pid: int, root: str = procfs.PROC) -> Reading[Mapping[str, str]]:
    """The variables the job was started with, as far as it may be read."""
    return procfs.read_parsed(f"{root}/{pid}/environ", _variables)


def _variables(data: bytes) -> dict[str, str]:
    pairs = (procfs.text(each).split("=", 1) for each in data.split(b"\0") if b"=" in each)
    return {pair[0]: pair[1] for pair in pairs}


def parse_message(data: bytes) -> tuple[str, bytes]:
    """Type and payload. ValueError for anything else: any process may send to the socket."""
    if len(data) < _HEAD.size:
        raise ValueError("shorter than its head")
    size, kind = _HEAD.unpack_from(data)
    if size != len(data) - _HEAD.size:
        raise ValueError(f"says {size} bytes and has {len(data) - _HEAD.size}")
    return kind.split(b"\0", 1)[0].decode("ascii", "replace"), data[_HEAD.size :]


def message(kind: str, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), kind.encode()) + payload


def wants_activities(payload: bytes) -> bool:
    """Whether a request is for a trace of activities, not for counters of the device."""
    return len(payload) >= _REQUEST.size and bool(_REQUEST.unpack_from(payload)[0] & _ACTIVITIES)


def socket_address(pid: int, variables: Mapping[str, str], root: str = procfs.PROC) -> bytes:
    """Where the job looks for a daemon. An abstract name ends in a NUL that counts. A file must be spelled as the job
    spells it, since it drops answers from elsewhere: Unavailable for one with another root."""
    directory = variables.get("KINETO_IPC_SOCKET_DIR", "")
    if not directory:
        return b"\0" + NAME.encode() + b"\0"
    if not os.path.samefile(f"{root}/{pid}/root", "/"):
        raise Unavailable(
            f"process {pid} has another root, and its socket lies in {directory}",
            hint="ask it from inside, or start it without KINETO_IPC_SOCKET_DIR, in the host's network",
        )
    return os.fsencode(f"{directory}/{NAME}")


def ask(pid: int, wish: Wish, timeout_s: float) -> str:
    """The path, as seen from here, of the trace the job has written. Unavailable when the job does not let itself be
    asked, another daemon listens, or nothing came in time: whether the job writes still is then not known."""
    variables = environment(pid)
    if isinstance(variables, Missing):
        raise Unavailable(f"process {pid} cannot be read: {variables}")
    if "KINETO_USE_DAEMON" not in variables.value:
        raise Unavailable(f"process {pid} does not ask for wishes", hint=_HINT)
    name = f"osremed-{pid}-{time.time_ns() // 1_000_000}"
    deadline_s = time.monotonic() + timeout_s
    _wait_and_answer(pid, socket_address(pid, variables.value), wish.config(name), deadline_s)
    place = f"{procfs.PROC}/{pid}/root{wish.directory}"
    while True:
        found = finished(place, name)
        if isinstance(found, Value):
            return found.value
        if time.monotonic() > deadline_s:
            raise Unavailable(f"process {pid} took the wish and has written no trace: {found.detail}", where=place)
        time.sleep(0.2)


def _wait_and_answer(pid: int, address: bytes, config: bytes, deadline_s: float) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as listener:
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
        try:
            _forget_ended(address)
            listener.bind(address)
        except OSError as error:
            where = os.fsdecode(address.strip(b"\0"))
            raise Unavailable(
                f"another daemon listens, or the place is not ours: {error.strerror}", where=where
            ) from error
        try:
            while True:
                left_s = deadline_s - time.monotonic()
                listener.settimeout(max(left_s, 0.001))
                if _answered(listener, pid, config):
                    return
                if left_s <= 0:
                    raise Unavailable(
                        f"process {pid} did not ask in time", hint="is it in another network namespace? does it run on?"
                    )
        finally:
            if not address.startswith(b"\0"):
                os.unlink(address)


def _forget_ended(address: bytes) -> None:
    """Takes away the socket of a daemon that was killed. OSError when it is not ours to take."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        try:
            asker.connect(address)
        except ConnectionRefusedError:
            if not address.startswith(b"\0"):
                os.unlink(address)
        except FileNotFoundError:
            return


def _answered(listener: socket.socket, pid: int, config: bytes) -> bool:
    """Takes one message; True once the process has its wish. All others are told that there is none for them."""
    try:
        data, ancillary, _, sender = listener.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        kind, payload = parse_message(data)
    except (TimeoutError, ValueError, socket.timeout):
        return False
    theirs = [_CREDENTIALS.unpack_from(body)[0] for _, what, body in ancillary if what == socket.SCM_CREDENTIALS]
    ours = kind == "req" and theirs == [pid] and wants_activities(payload)
    answer = config if ours else b"" if kind == "req" else struct.pack("<i", 1)
    try:
        listener.sendto(message(kind, answer), sender)
    except OSError:  # it is gone, or has no address to answer to
        return False
    return ours


def finished(directory: str, name: str) -> Reading[str]:
    """The trace whose name begins so, once it is whole: Kineto writes to the very file, so its end is looked at. A job
    may put anything there: what is no regular file is none, and a pipe is not waited for."""
    try:
        found = sorted(each for each in os.listdir(directory) if each.startswith(name))
    except OSError as error:
        return Missing(Reason.DENIED, directory, error.strerror or "")
    for each in found:
        path = os.path.join(directory, each)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                facts = os.fstat(fd)
                if stat.S_ISREG(facts.st_mode) and os.pread(fd, 64, max(0, facts.st_size - 64)).rstrip().endswith(b"}"):
                    return Value(path)
            finally:
                os.close(fd)
        except OSError as error:
            return Missing(Reason.DENIED, path, error.strerror or "")
    return Missing(Reason.NO_DATA, directory, "it is not whole yet" if found else "there is none")
