"""Tables for unwinding: of which file they are made, when they are tried again, and who has them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from osremed.core.reading import Value
from osremed.hotspot.unwind import GONE, MADE, make_table
from osremed.sensors import elf


def build_id_of(path: str) -> str:
    with open(path, "rb", buffering=0) as stream:
        parsed = elf.read_elf(stream.fileno(), path)
        assert isinstance(parsed, Value)
        return elf.identity(stream.fileno(), parsed.value)


def test_rows_are_made_of_the_file_with_the_build_id_alone(tmp_path: Path) -> None:
    """The process of a container has ended: what lies at the path of its library is another one."""
    here, output = os.path.realpath(sys.executable), tmp_path / "rows"
    assert make_table([f"{tmp_path}/gone", here], "cafecafe", str(output)) == GONE
    assert not output.exists()
    assert make_table([f"{tmp_path}/gone", here], build_id_of(here), str(output)) == MADE
    assert output.exists()
