""".eh_frame: how to find the caller of any instruction of an ELF file that keeps no frame pointers.

Rows say where the frame's base (CFA) is and whether rbp was saved; the return address is always at CFA - 8 (x86-64).
What a row cannot say (expressions, other registers) ends the stack there instead of leading astray.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from osremed.core.reading import Missing, Reading, Reason, Value, missing_from_oserror
from osremed.sensors import elf

#: how CFA is found: not at all, from rsp, from rbp, by the rule of the procedure linkage table; nobody called this
END, FROM_SP, FROM_BP, PLT, ROOT = 0, 1, 2, 3, 4
_RSP, _RBP, _RETURN = 7, 6, 16
_MOST_BYTES = 64 << 20
_MOST_ROWS = 4_000_000
_ENCODING_PCREL_SDATA4 = 0x1B
#: DW_CFA opcode -> its operands (u: unsigned LEB128), of those that change no rule here
_SKIP = {0x05: "uu", 0x09: "uu", 0x14: "uu", 0x2E: "u"}


class Row(NamedTuple):
    """From `address` (as linked) on: CFA is at `offset` from what `kind` says; rbp was saved at CFA + `saved`, or not
    (0)."""

    address: int
    kind: int
    offset: int
    saved: int


class _Cie(NamedTuple):
    code_align: int
    data_align: int
    signal: bool
    start: int
    end: int


def read_rows(fd: int, parsed: elf.Elf) -> Reading[list[Row]]:
    """All rows by address. NO_DATA without the section. About 2 us a row."""
    section = next((each for each in parsed.sections if each.name == ".eh_frame"), None)
    if section is None:
        return Missing(Reason.NO_DATA, parsed.path, "no .eh_frame")
    if section.bytes > _MOST_BYTES:
        return Missing(Reason.UNSUPPORTED, parsed.path, f".eh_frame of {section.bytes} bytes")
    try:
        data = os.pread(fd, section.bytes, section.offset)
        return Value(parse(data, section.address))
    except OSError as error:
        return missing_from_oserror(error, parsed.path)
    except (ValueError, struct.error) as error:
        return Missing(Reason.MALFORMED, parsed.path, str(error)[:200])


def parse(data: bytes, address: int) -> list[Row]:
    """Rows of a section that lies at `address` as linked. ValueError for what cannot be read; entries with an unknown
    pointer encoding are left out, as if they had no rules."""
    rows: list[Row] = []
    cies: dict[int, _Cie | None] = {}
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        if length == 0:
            break
        if length == 0xFFFFFFFF or at + 4 + length > len(data):
            raise ValueError(f"an entry of {length} bytes at {at} does not fit")
        end = at + 4 + length
        if length >= 4:
            (pointer,) = struct.unpack_from("<I", data, at + 4)
            if pointer:
                cie_at = at + 4 - pointer
                if cie_at not in cies:
                    cies[cie_at] = _cie(data, cie_at)
                rows += _entry(data, at + 8, end, address, cies[cie_at])
        at = end
        if len(rows) > _MOST_ROWS:
            raise ValueError(f"more than {_MOST_ROWS} rows")
    rows.sort(key=lambda row: (row.address, row.kind != END))
    return _thinned(rows)


def _thinned(rows: list[Row]) -> list[Row]:
    """Of rows at one address the last one counts, which is a function's own rather than the end of the one before; rows
    that repeat their rule are left out."""
    thin: list[Row] = []
    for row in rows:
        if thin and thin[-1].address == row.address:
            thin[-1] = row
        elif not thin or thin[-1][1:] != row[1:]:
            thin.append(row)
    return thin


def _cie(data: bytes, at: int) -> _Cie | None:
    """None when its rules cannot be used."""
    if not 0 <= at <= len(data) - 17:
        raise ValueError(f"no common entry at {at}")
    (length,) = struct.unpack_from("<I", data, at)
    end, version = min(at + 4 + length, len(data)), data[at + 8]
    stop = data.find(b"\0", at + 9, end)
    if stop < 0 or version not in (1, 3):
        return None
    augmentation = data[at + 9 : stop].decode("latin-1")
    code_align, here = _unsigned(data, stop + 1)
    data_align, here = _signed(data, here)
    if here >= end:
        return None
    register, here = (data[here], here + 1) if version == 1 else _unsigned(data, here)
    encoding = 0
    if augmentation.startswith("z"):
        size, here = _unsigned(data, here)
        encoding = _encoding(data[here : here + size], augmentation)
        here += size
    if register != _RETURN or encoding != _ENCODING_PCREL_SDATA4 or not augmentation.startswith("z"):
        return None
    return _Cie(code_align, data_align, "S" in augmentation, here, end)


def _encoding(values: bytes, augmentation: str) -> int:
    """The pointer encoding, behind what stands before it."""
    at = 0
    for letter in augmentation[1:]:
        if letter == "R":
            return values[at] if at < len(values) else 0
        if letter == "L":
            at += 1
        elif letter == "P":
            at += 1 + (4 if at < len(values) and values[at] & 15 in (3, 11) else 8)
    return 0


class _State:
    """The rule at this place; `first` is what the common entry said of rbp."""

    __slots__ = ("first", "kind", "offset", "saved")

    def __init__(self) -> None:
        self.kind, self.offset, self.saved, self.first = END, 0, 0, 0


def _entry(data: bytes, at: int, end: int, base: int, cie: _Cie | None) -> list[Row]:
    """Rows of one function, and the end behind it."""
    if cie is None or at + 8 > end:
        return []
    delta, size = struct.unpack_from("<iI", data, at)
    start = base + at + delta
    augmentation, at = _unsigned(data, at + 8)
    if cie.signal:  # the caller of a signal frame lies in memory we do not read
        return [Row(start, END, 0, 0), Row(start + size, END, 0, 0)]
    state = _State()
    for _ in _run(data, (cie.start, cie.end), start, cie, state):
        pass
    state.first = state.saved
    rows = _run(data, (at + augmentation, end), start, cie, state)
    return [*rows, Row(start + size, END, 0, 0)]


def _row(location: int, state: _State) -> Row:
    return Row(location, state.kind, state.offset, state.saved)


def _run(data: bytes, span: tuple[int, int], location: int, cie: _Cie, state: _State) -> Iterator[Row]:
    """Executes call frame instructions; a row for each stretch of instructions."""
    remembered: list[tuple[int, int, int]] = []
    at, end = span
    while at < end:
        opcode = data[at]
        at += 1
        high, low = opcode & 0xC0, opcode & 0x3F
        if high == 0x40:
            yield _row(location, state)
            location += low * cie.code_align
        elif high == 0x80:
            offset, at = _unsigned(data, at)
            if low == _RBP:
                state.saved = offset * cie.data_align
        elif high == 0xC0:
            if low == _RBP:
                state.saved = state.first
        elif opcode in (0x02, 0x03, 0x04):
            width = 1 << (opcode - 2)
            yield _row(location, state)
            location += int.from_bytes(data[at : at + width], "little") * cie.code_align
            at += width
        elif opcode == 0x0A:
            remembered.append((state.kind, state.offset, state.saved))
        elif opcode == 0x0B and remembered:
            state.kind, state.offset, state.saved = remembered.pop()
        else:
            at = _rule(data, at, opcode, cie, state)
            if at < 0:
                state.kind = END
                break
    yield _row(location, state)


def _rule(data: bytes, at: int, opcode: int, cie: _Cie, state: _State) -> int:
    """One of the rarer instructions; where the next one is, or -1 for one that is not known."""
    if opcode == 0x00:
        return at
    if opcode in _BASE_RULES:
        return _base_rule(data, at, opcode, cie, state)
    if opcode in _SKIP:
        for _operand in _SKIP[opcode]:
            _value, at = _unsigned(data, at)
        return at
    if opcode not in _REGISTER_RULES:
        return -1
    register, at = _unsigned(data, at)
    if opcode in (0x10, 0x16):  # expressions
        size, at = _unsigned(data, at)
        at += size
        if register in (_RBP, _RETURN):
            state.kind = END
    elif opcode in (0x11, 0x15):  # offset_extended_sf, val_offset_sf
        offset, at = _signed(data, at)
        if register == _RBP:
            state.saved = offset * cie.data_align
    elif register == _RETURN and opcode == 0x07:
        state.kind = ROOT  # undefined return address
    elif register == _RBP:
        state.saved = 0
    return at


_BASE_RULES = frozenset({0x0C, 0x0D, 0x0E, 0x0F, 0x12, 0x13})
_REGISTER_RULES = frozenset({0x06, 0x07, 0x08, 0x10, 0x11, 0x15, 0x16})


def _base_rule(data: bytes, at: int, opcode: int, cie: _Cie, state: _State) -> int:
    """def_cfa and its parts."""
    if opcode == 0x0F:
        size, at = _unsigned(data, at)
        # The linkage table's rule begins with DW_OP_breg7 8, DW_OP_breg16 0.
        state.kind, state.offset = (PLT if data[at : at + 2] == b"\x77\x08" else END), 0
        return at + size
    if opcode not in (0x0E, 0x13):
        register, at = _unsigned(data, at)
        state.kind = _kind(register)
    if opcode in (0x0C, 0x0E):
        state.offset, at = _unsigned(data, at)
    elif opcode in (0x12, 0x13):
        offset, at = _signed(data, at)
        state.offset = offset * cie.data_align
    return at


def _kind(register: int) -> int:
    return {_RSP: FROM_SP, _RBP: FROM_BP}.get(register, END)


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
    raise ValueError(f"a number at {at} does not end")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    begin = at
    value, at = _unsigned(data, at)
    bits = 7 * (at - begin)
    return (value - (1 << bits) if value >> (bits - 1) & 1 else value), at
