"""ELF files: segments, sections, build-id, symbols by name. Every offset and count in a file is checked before use.

Files are read with pread, never mapped: a file that shrinks meanwhile must not kill the reader. Any user may run one
that was made to be dear: headers, the build id and `find_symbols` cost little memory and time whatever is in it. 64-bit
little-endian only (x86-64, arm64, riscv64 ...); others are UNSUPPORTED.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from collections.abc import Mapping as Places
from typing import NamedTuple

from osremed.core.canonical import sha256_hex
from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.core.record import record
from osremed.sensors import procfs
from osremed.sensors.address_space import Mapping

ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_NOTE = 1, 2, 4
PF_X, PF_W, PF_R = 1, 2, 4
SHT_SYMTAB, SHT_DYNSYM = 2, 11
_DT_STRTAB, _DT_SYMTAB, _DT_STRSZ = 5, 6, 10
_NT_GNU_BUILD_ID = 3
_MOST_HEADERS = 4096
_TABLE_LIMIT_BYTES = 256 << 20
_NOTE_LIMIT_BYTES = 1 << 16
_MOST_NOTES = 16
_NAMES_LIMIT_BYTES = 1 << 20  #: names of sections
_LONGEST_NAME = 200
_DYNAMIC_LIMIT_BYTES = 1 << 16
_MOST_TABLES = 2  #: a file has .symtab and .dynsym
_SEARCH_LIMIT_BYTES = 128 << 20  #: symbols or strings that are searched for names
_CHUNK_BYTES = 24 << 15
_MOST_PLACES = 4096  #: where a name that is searched for stands
_SYMBOL_BYTES = 24
_PAGE_BYTES = 4096


@record
class Segment:
    kind: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int


@record
class Section:
    name: str
    kind: int
    address: int
    offset: int
    bytes: int
    link: int


@record
class Elf:
    """`build_id` is lower-case hex. `sections` is empty where the section headers were stripped."""

    path: str
    machine: int
    kind: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    build_id: Reading[str]


@record
class Symbol:
    """`address` is as linked: add the bias of the mapping (0 for ET_EXEC)."""

    name: str
    address: int
    bytes: int


def open_mapped(pid: int, mapping: Mapping, root: str = procfs.PROC) -> Reading[int]:
    """A descriptor of the very file behind a mapping of the target, in whatever mount namespace, deleted or not; the
    caller closes it. map_files needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; else the path must still lead to the
    mapping's inode (GONE when it does not)."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    path = f"{root}/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    try:
        return Value(os.open(path, flags))
    except OSError:
        path = f"{root}/{pid}/root{mapping.path}"
    try:
        fd = os.open(path, flags)
    except OSError as error:
        return missing_from_oserror(error, path)
    if os.fstat(fd).st_ino == mapping.inode:
        return Value(fd)
    os.close(fd)
    return Missing(Reason.GONE, path, "the path leads to another file now")


def read_elf(fd: int, path: str) -> Reading[Elf]:
    """UNSUPPORTED for other classes and byte orders; MALFORMED for what cannot be an ELF file."""
    try:
        return _parse(fd, path)
    except OSError as error:
        return missing_from_oserror(error, path)
    except (ValueError, struct.error) as error:
        return Missing(Reason.MALFORMED, path, str(error)[:200])


def _parse(fd: int, path: str) -> Reading[Elf]:
    head = os.pread(fd, 64, 0)
    if len(head) < 64 or head[:4] != b"\x7fELF":
        raise ValueError("not an ELF file")
    if head[4] != 2 or head[5] != 1:
        return Missing(Reason.UNSUPPORTED, path, "not 64-bit little-endian")
    kind, machine = struct.unpack_from("<HH", head, 16)
    phoff, shoff = struct.unpack_from("<QQ", head, 32)
    phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<HHHHH", head, 54)
    segments = _segments(fd, phoff, phentsize, phnum)
    sections = _sections(fd, shoff, shentsize, shnum, shstrndx)
    return Value(Elf(path, machine, kind, segments, sections, _build_id(fd, path, segments)))


def _exactly(fd: int, length: int, offset: int, limit_bytes: int = _TABLE_LIMIT_BYTES) -> bytes:
    if not 0 <= length <= limit_bytes or not 0 <= offset < 1 << 62:
        raise ValueError(f"a table of {length} bytes at {offset} is out of bounds")
    parts, got = [], 0
    while got < length:
        part = os.pread(fd, length - got, offset + got)
        if not part:
            raise ValueError(f"the file ends inside a table at {offset}")
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _segments(fd: int, offset: int, entry: int, count: int) -> tuple[Segment, ...]:
    if count == 0:
        return ()
    if entry != 56 or count > _MOST_HEADERS:
        raise ValueError("program headers of an unknown shape")
    data = _exactly(fd, count * entry, offset)
    return tuple(
        Segment(kind, flags, at, address, in_file, in_memory)
        for kind, flags, at, address, _physical, in_file, in_memory, _align in struct.iter_unpack("<IIQQQQQQ", data)
    )


def _sections(fd: int, offset: int, entry: int, count: int, names: int) -> tuple[Section, ...]:
    if count == 0 or offset == 0:
        return ()
    if entry != 64 or count > _MOST_HEADERS or names >= count:
        raise ValueError("section headers of an unknown shape")
    rows = list(struct.iter_unpack("<IIQQQQIIQQ", _exactly(fd, count * entry, offset)))
    text = _exactly(fd, rows[names][5], rows[names][4], _NAMES_LIMIT_BYTES)
    return tuple(
        Section(_name_at(text, row[0]), kind=row[1], address=row[3], offset=row[4], bytes=row[5], link=row[6])
        for row in rows
    )


def _name_at(text: bytes, offset: int) -> str:
    return procfs.text(text[offset : offset + _LONGEST_NAME].partition(b"\0")[0]) if offset < len(text) else ""


def _build_id(fd: int, path: str, segments: tuple[Segment, ...]) -> Reading[str]:
    for segment in [each for each in segments if each.kind == PT_NOTE][:_MOST_NOTES]:
        data = _exactly(fd, min(segment.file_bytes, _NOTE_LIMIT_BYTES), segment.offset)
        at = 0
        while at + 12 <= len(data):
            name_bytes, value_bytes, kind = struct.unpack_from("<III", data, at)
            value_at = at + 12 + (name_bytes + 3 & ~3)
            if kind == _NT_GNU_BUILD_ID and data[at + 12 : at + 16] == b"GNU\0" and value_bytes <= 64:
                return Value(data[value_at : value_at + value_bytes].hex())
            at = value_at + (value_bytes + 3 & ~3)
    return Missing(Reason.NO_DATA, path, "no build-id note")


def identity(fd: int, elf: Elf) -> str:
    """What tells this file from others: its build id; for one without (many wheels) `file-` and a digest of its size,
    first and last page: headers, notes and where all sections lie. "" when it cannot be read."""
    if not isinstance(elf.build_id, Missing):
        return elf.build_id.value
    try:
        size = os.fstat(fd).st_size
        ends = os.pread(fd, _PAGE_BYTES, 0) + os.pread(fd, _PAGE_BYTES, max(0, size - _PAGE_BYTES))
    except OSError:
        return ""
    return "file-" + sha256_hex(size.to_bytes(8, "little") + ends)[:32]


def find_symbols(fd: int, elf: Elf, names: Collection[str]) -> Reading[dict[str, Symbol]]:
    """Those of `names` that the file defines, from .symtab, .dynsym, or the dynamic segment where sections are
    stripped."""
    try:
        found: dict[str, Symbol] = {}
        for table in _tables(fd, elf):
            left = set(names) - set(found)
            if left:
                _look_up(fd, table, _places(fd, table, left), found)
        return Value(found)
    except OSError as error:
        return missing_from_oserror(error, elf.path)
    except (ValueError, struct.error) as error:
        return Missing(Reason.MALFORMED, elf.path, str(error)[:200])


class _Table(NamedTuple):
    """Where symbols and their names lie in a file."""

    symbols_at: int
    symbols_bytes: int
    strings_at: int
    strings_bytes: int


def symbol_tables(fd: int, elf: Elf) -> list[tuple[bytes, bytes]]:
    """Symbols and strings of each table, whole. ValueError or struct.error for what is not one."""
    return [
        (_exactly(fd, each.symbols_bytes, each.symbols_at), _exactly(fd, each.strings_bytes, each.strings_at))
        for each in _tables(fd, elf)
    ]


def _tables(fd: int, elf: Elf) -> list[_Table]:
    tables = []
    for section in elf.sections:
        if section.kind in (SHT_SYMTAB, SHT_DYNSYM) and section.link < len(elf.sections):
            strings = elf.sections[section.link]
            symbols_bytes = section.bytes - section.bytes % _SYMBOL_BYTES
            tables.append(_Table(section.offset, symbols_bytes, strings.offset, strings.bytes))
    return tables[:_MOST_TABLES] or _dynamic_table(fd, elf)


def _dynamic_table(fd: int, elf: Elf) -> list[_Table]:
    """The symbol table has no length of its own: linkers put the string table right behind it."""
    dynamic = next((one for one in elf.segments if one.kind == PT_DYNAMIC), None)
    if dynamic is None:
        return []
    data = _exactly(fd, dynamic.file_bytes - dynamic.file_bytes % 16, dynamic.offset, _DYNAMIC_LIMIT_BYTES)
    tags = dict(struct.iter_unpack("<QQ", data))
    strings_at, symbols_at = file_offset(elf, tags.get(_DT_STRTAB, 0)), file_offset(elf, tags.get(_DT_SYMTAB, 0))
    if strings_at is None or symbols_at is None or strings_at <= symbols_at:
        return []
    length = strings_at - symbols_at
    return [_Table(symbols_at, length - length % _SYMBOL_BYTES, strings_at, tags.get(_DT_STRSZ, 0))]


def file_offset(elf: Elf, address: int) -> int | None:
    """Where in the file the linked `address` lies; None when no loaded segment holds it."""
    for segment in elf.segments:
        if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.file_bytes:
            return address - segment.address + segment.offset
    return None


def _chunks(fd: int, length: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """A table piece by piece, each with how far into the table it begins. ValueError where it cannot be one."""
    if not 0 <= length <= _SEARCH_LIMIT_BYTES:
        raise ValueError(f"a table of {length} bytes is not searched")
    for at in range(0, length, _CHUNK_BYTES):
        yield at, _exactly(fd, min(_CHUNK_BYTES, length - at), offset + at)


def _places(fd: int, table: _Table, names: Collection[str]) -> dict[int, str]:
    """Where in the strings the names stand. A linker may let a name be the tail of a longer one: each place where it
    ends in NUL can be its offset."""
    needles = {name: name.encode() + b"\0" for name in names}
    longest = max(map(len, needles.values()))
    found: dict[int, str] = {}
    before = b""
    for begin, chunk in _chunks(fd, table.strings_bytes, table.strings_at):
        data = before + chunk  # a name may lie across the border
        for name, needle in needles.items():
            at = data.find(needle)
            while at >= 0:
                found[begin - len(before) + at] = name
                if len(found) > _MOST_PLACES:
                    raise ValueError("a name stands in too many places")
                at = data.find(needle, at + 1)
        before = data[-longest:]
    return found


def _look_up(fd: int, table: _Table, places: Places[int, str], found: dict[str, Symbol]) -> None:
    """Adds the symbols whose names stand at `places`, the first of each name that is defined here."""
    undefined = 0
    for _, chunk in _chunks(fd, table.symbols_bytes, table.symbols_at):
        name_offsets = memoryview(chunk).cast("I")[::6].tolist()
        if places.keys().isdisjoint(name_offsets):
            continue
        for index, place in enumerate(name_offsets):
            name = places.get(place)
            if name is None or name in found:
                continue
            _name, _info, _other, section, value, size = struct.unpack_from("<IBBHQQ", chunk, index * _SYMBOL_BYTES)
            if section != 0:
                found[name] = Symbol(name, value, size)
                continue
            undefined += 1  # SHN_UNDEF: used here, defined elsewhere
            if undefined > _MOST_PLACES:
                raise ValueError("a name is used too often")


def load_bias(elf: Elf, mapping: Mapping) -> int | None:
    """What to add to a linked address to get the one in the process; None when no segment explains the mapping."""
    if elf.kind == ET_EXEC:
        return 0
    loads = [segment for segment in elf.segments if segment.kind == PT_LOAD]
    starts = [one for one in loads if one.offset & -procfs.PAGE_BYTES == mapping.offset]
    inside = [one for one in loads if one.offset <= mapping.offset < one.offset + one.file_bytes]
    for segment in starts + inside:
        return mapping.start - (segment.address + mapping.offset - segment.offset)
    return None
