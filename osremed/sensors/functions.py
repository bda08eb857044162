"""Functions of an ELF file by file offset: what turns an address of a mapping into a name."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors import elf
from osremed.sensors.procfs import text

_FUNCTION, _INDIRECT = 2, 10  # STT_FUNC, STT_GNU_IFUNC
_SYMBOL = struct.Struct("<IBBHQQ")
_NAME_BYTES = 512
_LAST_BYTES = 4096  #: how far a function without a size may reach


class Functions:
    """Sorted by offset; a name is decoded when it is asked for."""

    def __init__(self, rows: list[tuple[int, int, int, int]], strings: list[bytes]) -> None:
        """`rows`: offset, bytes, which strings, where in them."""
        self._starts = array("Q", (row[0] for row in rows))
        self._rows, self._strings = rows, strings

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, file_offset: int) -> str:
        """An empty text between functions."""
        at = bisect_right(self._starts, file_offset) - 1
        if at < 0:
            return ""
        start, size, table, name_at = self._rows[at]
        if file_offset >= start + (size or _LAST_BYTES):
            return ""
        data = self._strings[table]
        return text(data[name_at : min(data.find(b"\0", name_at), name_at + _NAME_BYTES)])


def read_functions(fd: int, parsed: elf.Elf) -> Reading[Functions]:
    """From .symtab and .dynsym, or the dynamic segment. Costs about 1 us a symbol; NO_DATA when there is none."""
    try:
        rows: list[tuple[int, int, int, int]] = []
        strings: list[bytes] = []
        for symbols, names in elf.symbol_tables(fd, parsed):
            for name_at, info, _other, section, value, size in _SYMBOL.iter_unpack(symbols):
                if section and info & 15 in (_FUNCTION, _INDIRECT) and name_at < len(names):
                    offset = elf.file_offset(parsed, value)
                    if offset is not None:
                        rows.append((offset, size, len(strings), name_at))
            strings.append(names)
    except OSError as error:
        return missing_from_oserror(error, parsed.path)
    except (ValueError, struct.error) as error:
        return Missing(Reason.MALFORMED, parsed.path, str(error)[:200])
    if not rows:
        return Missing(Reason.NO_DATA, parsed.path, "no function symbols")
    rows.sort()
    return Value(Functions(rows, strings))
