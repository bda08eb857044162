"""What would free a cached file: a sentence a human can act on, and never an action that cannot work."""

from __future__ import annotations

import pytest

from osremed.core.reading import Missing, Reason, Value
from osremed.panorama.cache_model import CachedFile, PageCache, what_frees

UNKNOWN = Missing(Reason.NO_DATA, "test")


def row(**cells):
    usual = {
        "path": "/x", "path_of_pid": 0, "filesystem": "ext4", "cached_bytes": 1, "dirty_bytes": Value(0),
        "writeback_bytes": UNKNOWN, "size_bytes": 1, "deleted": False, "open_by": (), "method": "bpf",
    }  # fmt: skip
    return CachedFile(**{**usual, **cells})


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({}, "action page_cache"),
        ({"dirty_bytes": Value(4096)}, "writing it back, then"),
        ({"mapped": True, "open_by": (5,)}, "mapped by pid 5 stay"),
        ({"type": "deleted file", "open_by": (5, 6)}, "closing it in pid 5, 6"),
        ({"type": "deleted file"}, "loop or swap device"),
        ({"type": "memfd", "open_by": (5,)}, "closing it in pid 5"),
        ({"type": "memfd", "open_by_whole": False}, "closing it in pid ?"),
        ({"type": "tmpfs file", "filesystem": "tmpfs", "open_by_whole": False}, "closing it in pid ?"),
        ({"type": "SysV segment", "inode": 3}, "ipcrm -m 3"),
        ({"type": "tmpfs file", "filesystem": "tmpfs"}, "removing the file"),
        ({"path_of_pid": 9}, "namespace of pid 9"),
        ({"path": "(ext4 of /) (inode 1, no name in memory)"}, "not mounted here"),
        ({"type": "block device", "filesystem": "bdev"}, "drop_caches"),
    ],
)
def test_the_sentence_fits_the_file(cells, words):
    assert words in what_frees(row(**cells))


@pytest.mark.parametrize("type_", ["deleted file", "memfd", "SysV segment", "tmpfs file", "block device", "internal"])
def test_what_cannot_be_dropped_is_never_told_to_be(type_):
    assert "page_cache" not in what_frees(row(type=type_, filesystem="tmpfs"))


def cache(cached, expected):
    return PageCache("bpf", (), (), 0, cached, expected, 0, UNKNOWN, UNKNOWN, UNKNOWN, 0.0)


def test_coverage_is_known_only_against_a_known_count():
    assert cache(995, Value(1000)).coverage == Value(0.995)
    assert cache(995, UNKNOWN).coverage == UNKNOWN
    assert cache(0, Value(0)).coverage == Value(1.0)
