"""Maps of a loaded object: keys and values are bytes, in the machine's byte order, for the caller to pack."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable, Iterator
from typing import Any

from osremed.core.record import record
from osremed.sensors.bpf import libbpf

_FIRST_BATCH = 4096
_PER_CPU = frozenset({5, 6, 10, 21})  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
_UNBATCHED = frozenset({errno.EOPNOTSUPP, 524, errno.EINVAL})  # 524: ENOTSUPP, as the kernel spells it inside


@record
class Map:
    """`value_bytes` is that of a lookup: of a per-CPU map one value, rounded up to 8 bytes, for each possible CPU."""

    library: Any
    name: str
    fd: int
    kind: int
    key_bytes: int
    value_bytes: int
    max_entries: int

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None when the key is not there. OSError for anything else."""
        value = ctypes.create_string_buffer(self.value_bytes)
        result = self.library.bpf_map_lookup_elem(self.fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        libbpf.checked(result)
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """OSError(E2BIG) when the map is full; ValueError for a key or value of the wrong length."""
        libbpf.checked(self.library.bpf_map_update_elem(self.fd, self._key(key), self._value(value), 0))

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""
        result = self.library.bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        libbpf.checked(result)
        return True

    def update_many(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """All of them in one call (Linux 5.6), or one by one. An error leaves the ones before it written."""
        items = [(self._key(key), self._value(value)) for key, value in pairs]
        if not items:
            return
        count = ctypes.c_uint32(len(items))
        keys, values = b"".join(key for key, _ in items), b"".join(value for _, value in items)
        result = self.library.bpf_map_update_batch(self.fd, keys, values, ctypes.byref(count), None)
        if result in (-code for code in _UNBATCHED):
            for key, value in items:
                self.update(key, value)
            return
        libbpf.checked(result)

    def update_packed(self, keys: bytes, values: bytes) -> None:
        """Many entries that are packed already, in one call (Linux 5.6). OSError where batches are not known."""
        count = ctypes.c_uint32(len(keys) // self.key_bytes)
        libbpf.checked(self.library.bpf_map_update_batch(self.fd, keys, values, ctypes.byref(count), None))

    def items(self) -> list[tuple[bytes, bytes]]:
        """Every entry. Those that come or go meanwhile may be in it or not."""
        return list(self._split(*self.read(take=False)))

    def take(self) -> list[tuple[bytes, bytes]]:
        """Every entry, removed by the reading. Hash maps only; where batches are not known, read and then delete, so
        that a change in between is lost."""
        return list(self._split(*self.read(take=True)))

    def read(self, *, take: bool) -> tuple[bytes, bytes]:
        """All keys and all values, each in one bytes object: what struct.iter_unpack wants. 100,000 entries in some
        milliseconds, against a second one by one."""
        call = self.library.bpf_map_lookup_and_delete_batch if take else self.library.bpf_map_lookup_batch
        room = min(max(self.max_entries, 1), _FIRST_BATCH)
        place = ctypes.create_string_buffer(max(self.key_bytes, 8))
        following, began = ctypes.create_string_buffer(len(place)), False
        keys, values = bytearray(), bytearray()
        while True:
            some_keys = ctypes.create_string_buffer(room * self.key_bytes)
            some_values = ctypes.create_string_buffer(room * self.value_bytes)
            count = ctypes.c_uint32(room)
            at = place if began else None
            result = call(self.fd, at, following, some_keys, some_values, ctypes.byref(count), None)
            if result == -errno.ENOSPC and room < self.max_entries:  # one bucket holds more than there is room for
                room = min(room * 4, self.max_entries)
                continue
            if not began and result in (-code for code in _UNBATCHED):
                return self._read_one_by_one(take)
            if result != -errno.ENOENT:
                libbpf.checked(result)
            keys += memoryview(some_keys)[: count.value * self.key_bytes]
            values += memoryview(some_values)[: count.value * self.value_bytes]
            if result == -errno.ENOENT:
                return bytes(keys), bytes(values)
            place, following, began = following, place, True

    def _read_one_by_one(self, take: bool) -> tuple[bytes, bytes]:
        keys, values = bytearray(), bytearray()
        for key in list(self._keys()):
            value = self.lookup(key)
            if value is not None:
                keys += key
                values += value
                if take:
                    self.delete(key)
        return bytes(keys), bytes(values)

    def _keys(self) -> Iterator[bytes]:
        """At most twice as many as fit: a deleted key begins the walk anew."""
        key: bytes | None = None
        for _ in range(2 * self.max_entries):
            following = ctypes.create_string_buffer(self.key_bytes)
            result = self.library.bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                return
            libbpf.checked(result)
            key = following.raw
            yield key

    def _split(self, keys: bytes, values: bytes) -> Iterator[tuple[bytes, bytes]]:
        for index in range(len(keys) // self.key_bytes):
            yield (
                keys[index * self.key_bytes : (index + 1) * self.key_bytes],
                values[index * self.value_bytes : (index + 1) * self.value_bytes],
            )

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_bytes:
            raise ValueError(f"map {self.name}: a key has {self.key_bytes} bytes, not {len(key)}")
        return key

    def _value(self, value: bytes) -> bytes:
        if len(value) != self.value_bytes:
            raise ValueError(f"map {self.name}: a value has {self.value_bytes} bytes, not {len(value)}")
        return value


def map_of(library: Any, handle: int) -> Map:
    """The map behind libbpf's handle, after the object was loaded."""
    kind, value_bytes = library.bpf_map__type(handle), library.bpf_map__value_size(handle)
    if kind in _PER_CPU:
        value_bytes = (value_bytes + 7) // 8 * 8 * libbpf.checked(library.libbpf_num_possible_cpus())
    return Map(
        library=library,
        name=library.bpf_map__name(handle).decode(),
        fd=library.bpf_map__fd(handle),
        kind=kind,
        key_bytes=library.bpf_map__key_size(handle),
        value_bytes=value_bytes,
        max_entries=library.bpf_map__max_entries(handle),
    )
