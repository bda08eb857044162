"""Where file systems are mounted, in whichever mount namespace: /proc/PID/mountinfo with roots and overlay layers."""

from __future__ import annotations

import re

from osremed.core.files import read_bytes
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors.procfs import PROC, number, text

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_LAYER_ESCAPE = re.compile(r"\\(.)")


@record
class MountPoint:
    """`root` is the directory of the file system (`device`, major:minor) that shows at `point`. `layers`: the
    directories of an overlay, the upper first, as the one who mounted it wrote them."""

    mount_id: int
    device: str
    root: str
    point: str
    kind: str
    layers: tuple[str, ...]

    def shows(self, path: str) -> str | None:
        """Where `path` of the file system is seen through this mount; None if it lies outside."""
        rest = below(path, self.root)
        return None if rest is None else (self.point.rstrip("/") + rest) or "/"


def below(path: str, directory: str) -> str | None:
    """What is left of `path` after `directory`, with its slash; None if it does not lie below."""
    if directory == "/":
        return path
    if path == directory:
        return ""
    return path[len(directory) :] if path.startswith(directory + "/") else None


def parse_mount_points(data: bytes) -> list[MountPoint]:
    """proc_pid_mountinfo(5), in the order of mounting."""
    found = []
    for line in data.split(b"\n"):
        left, dash, right = line.partition(b" - ")
        before, after = left.split(b" "), right.split(b" ")
        if not dash or len(before) < 6 or len(after) < 3:
            continue
        kind = text(after[0])
        found.append(
            MountPoint(
                mount_id=number(before[0]),
                device=text(before[2]),
                root=_plain(before[3]),
                point=_plain(before[4]),
                kind=kind,
                layers=_layers(_plain(after[2])) if kind == "overlay" else (),
            )
        )
    return found


def _plain(word: bytes) -> str:
    return text(_ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), word))


def _layers(options: str) -> tuple[str, ...]:
    """upperdir and each lowerdir of an overlay's options; a colon or comma in a name is written with a backslash."""
    upper, lower = [], []
    for option in re.split(r"(?<!\\),", options):
        key, _, value = option.partition("=")
        if key == "upperdir":
            upper.append(value)
        elif key in ("lowerdir", "lowerdir+"):
            lower += [part for part in re.split(r"(?<!\\):", value) if part]
    return tuple(_LAYER_ESCAPE.sub(r"\1", part) for part in upper + lower)


def mount_points(pid: int | str = "self", root: str = PROC) -> Reading[list[MountPoint]]:
    path = f"{root}/{pid}/mountinfo"
    try:
        return Value(parse_mount_points(read_bytes(path)))
    except OSError as error:
        return missing_from_oserror(error, path)
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error)[:200])
