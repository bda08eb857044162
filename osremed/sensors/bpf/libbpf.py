"""libbpf.so.1 through ctypes: the calls we use with their types, and what libbpf says when something fails.

libbpf 1.0 or later. Its functions return -errno, or NULL and errno. Nothing is loaded before `library` is called."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_bool, c_char_p, c_int, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from osremed.core.reading import Missing, Reading, Reason, Value

NAME = "libbpf.so.1"
_LONGEST_MESSAGE_BYTES = 4 << 20
_DEBUG = 2

_U32_P = ctypes.POINTER(c_uint32)
#: name -> (result, arguments)
_CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_version_string": (c_char_p, ()),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_probe_bpf_prog_type": (c_int, (c_int, c_void_p)),
    "libbpf_probe_bpf_map_type": (c_int, (c_int, c_void_p)),
    "libbpf_probe_bpf_helper": (c_int, (c_int, c_int, c_void_p)),
    "bpf_object__open_mem": (c_void_p, (c_void_p, c_size_t, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__attach_tracepoint": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "bpf_program__attach_raw_tracepoint": (c_void_p, (c_void_p, c_char_p)),
    "bpf_program__attach_perf_event": (c_void_p, (c_void_p, c_int)),
    "bpf_program__attach_uprobe_opts": (c_void_p, (c_void_p, c_int, c_char_p, c_size_t, c_void_p)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__set_initial_value": (c_int, (c_void_p, c_void_p, c_size_t)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_lookup_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p, _U32_P, c_void_p)),
    "bpf_map_lookup_and_delete_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p, _U32_P, c_void_p)),
    "bpf_map_update_batch": (c_int, (c_int, c_void_p, c_void_p, _U32_P, c_void_p)),
    "bpf_map_delete_batch": (c_int, (c_int, c_void_p, _U32_P, c_void_p)),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
    "bpf_iter_create": (c_int, (c_int,)),
    "bpf_enable_stats": (c_int, (c_int,)),
}

_Print = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts, as far as every libbpf 1.x has it."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("reserved", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    )


class TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class UprobeOptions(ctypes.Structure):
    """struct bpf_uprobe_opts, as far as every libbpf 1.x has it."""

    _fields_ = (
        ("sz", c_size_t),
        ("ref_ctr_offset", c_size_t),
        ("bpf_cookie", c_uint64),
        ("retprobe", c_bool),
        ("func_name", c_char_p),
    )


class IterOptions(ctypes.Structure):
    """struct bpf_iter_attach_opts."""

    _fields_ = (("sz", c_size_t), ("link_info", c_void_p), ("link_info_len", c_uint32))


class _Loaded:
    """The library once it was loaded, and the lines libbpf has printed for the call that is running."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.library: Reading[Any] | None = None
        self.lines: list[str] = []
        self.printer: Any = None  # kept alive: libbpf calls it


_loaded = _Loaded()


def library() -> Reading[Any]:
    """The CDLL with its types set. UNSUPPORTED where libbpf 1.x is not installed."""
    with _loaded.lock:
        if _loaded.library is None:
            _loaded.library = _open()
        return _loaded.library


def _open() -> Reading[Any]:
    try:
        lib = ctypes.CDLL(NAME, use_errno=True)
    except OSError:
        return Missing(Reason.UNSUPPORTED, NAME, "libbpf 1.x is not installed (Debian: libbpf1; Fedora, RHEL: libbpf)")
    for name, (result, arguments) in _CALLS.items():
        try:
            call = getattr(lib, name)
        except AttributeError:
            return Missing(Reason.UNSUPPORTED, NAME, f"this libbpf has no {name}")
        call.restype, call.argtypes = result, arguments
    _loaded.printer = _Print(_keep_line)
    lib.libbpf_set_print.argtypes = (_Print,)
    lib.libbpf_set_print.restype = c_void_p
    lib.libbpf_set_print(_loaded.printer)
    return Value(lib)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long
_libc.vsnprintf.argtypes = (c_void_p, c_size_t, c_char_p, c_void_p)


def _keep_line(level: int, template: bytes, arguments: int) -> int:
    """libbpf's print callback. The va_list is good for one reading, so the buffer must be large enough at once: a
    verifier log comes as one message."""
    if level >= _DEBUG:
        return 0
    buffer = ctypes.create_string_buffer(_LONGEST_MESSAGE_BYTES)
    _libc.vsnprintf(buffer, _LONGEST_MESSAGE_BYTES, template, arguments)
    _loaded.lines.extend(buffer.value.decode("utf-8", "backslashreplace").splitlines())
    return 0


@contextmanager
def listening() -> Iterator[list[str]]:
    """The lines libbpf prints inside; one caller at a time."""
    with _loaded.lock:
        _loaded.lines = []
        yield _loaded.lines


def error_of(result: int | None) -> OSError:
    """The error of a libbpf call: from -errno, or from errno after NULL."""
    code = -result if result else ctypes.get_errno()
    return OSError(code, os.strerror(code))


def checked(result: int) -> int:
    """The result, or OSError when it is negative."""
    if result < 0:
        raise error_of(result)
    return result


def syscall(number: int, *arguments: Any) -> int:
    """syscall(2): the result, or OSError."""
    result: int = _libc.syscall(c_long(number), *arguments)
    if result < 0:
        raise error_of(None)
    return result
