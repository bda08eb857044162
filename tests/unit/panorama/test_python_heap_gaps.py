"""What a look into a CPython heap says it did not see."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from osremed.panorama.heaps.python import gaps_of

SPACE = SimpleNamespace(root="/proc", pid=7)


@pytest.mark.parametrize(
    ("coverage", "lost_bytes", "said"),
    [
        (1.0, 0, []),
        (0.5, 0, ["50% of the heap was read in 2.0 s; figures are scaled up from it"]),
        (0.9, 100, ["0 KiB were unmapped while they were read"]),
        (0.5, 100, ["0 KiB were unmapped while they were read",
                    "50% of the heap was read in 2.0 s; figures are scaled up from it"]),
    ],
)  # fmt: skip
def test_a_sample_is_told_also_when_memory_went_away_meanwhile(coverage, lost_bytes, said):
    heap = SimpleNamespace(bytes=1000, residency=SimpleNamespace(swapped_bytes=0, unseen_bytes=0))
    assert [gap.detail for gap in gaps_of(SPACE, heap, lost_bytes, coverage, 2.0)] == said
