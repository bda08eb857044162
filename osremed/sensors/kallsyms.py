"""/proc/kallsyms: names of kernel addresses."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors.procfs import PROC, read_file

_LIMIT_BYTES = 64 << 20
_PAGE_BYTES = 4096


class KernelSymbols:
    """Sorted text symbols."""

    def __init__(self, addresses: array[int], names: list[str]) -> None:
        self._addresses, self._names = addresses, names

    def __len__(self) -> int:
        return len(self._names)

    def name(self, address: int) -> str:
        """The function that begins at or before `address`; "" before the first, and far behind the last one of a
        module: what lies there was loaded later."""
        at = bisect_right(self._addresses, address) - 1
        return self._names[at] if at >= 0 else ""


def parse(data: bytes, *, modules: bool = True) -> KernelSymbols:
    """Lines `address type name [module]`; without `modules` the kernel's own alone. ValueError when no address is told
    (kernel.kptr_restrict)."""
    rows = []
    for line in data.splitlines():
        words = line.split()
        if len(words) < 3 or words[1] not in (b"t", b"T", b"w", b"W") or (len(words) > 3 and not modules):
            continue
        owner = words[3] if len(words) > 3 else b""
        rows.append((int(words[0], 16), words[2].decode("ascii", "backslashreplace"), owner))
    if not rows or rows[-1][0] == 0:
        raise ValueError("no addresses: kernel.kptr_restrict hides them, or CAP_SYSLOG is missing")
    rows.sort()
    addresses, names = array("Q"), []
    for (address, name, owner), (following, _, next_owner) in zip(rows, [*rows[1:], (1 << 64, "", b"")]):
        addresses.append(address)
        names.append(name)
        # No length is told: behind its last function an owner has the rest of a page or two.
        end = (address & -_PAGE_BYTES) + 2 * _PAGE_BYTES
        if end < following and (owner != next_owner or following == 1 << 64):
            addresses.append(end)
            names.append("")
    return KernelSymbols(addresses, names)


def read_raw(root: str = PROC) -> Reading[bytes]:
    """The file as it is. Costs 0.1 to 0.3 s: the kernel writes 100,000 lines and more."""
    path = f"{root}/kallsyms"
    try:
        return Value(read_file(path, limit_bytes=_LIMIT_BYTES))
    except OSError as error:
        return missing_from_oserror(error, path, absent=Reason.UNSUPPORTED)
    except ValueError as error:
        return Missing(Reason.MALFORMED, path, str(error))
