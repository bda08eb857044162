"""What the recorder tells reaches the disk, also when the disk took nothing at first."""

from __future__ import annotations

from pathlib import Path

from osremed.core.journal import read_journal
from osremed.core.log import Log
from osremed.core.reading import Missing, Reason
from osremed.hotspot.telling import Telling


class Looks:
    """A watch of traps that has one to tell."""

    def __init__(self) -> None:
        self.left = [{"trap": "fsync-storm", "who": "db[7]", "state": "raised"}]

    def news(self) -> list[dict[str, str]]:
        told, self.left = self.left, []
        return told

    def keep(self) -> None:
        assert not self.left, "what is kept was told before"

    def close(self) -> None:
        pass


def test_a_trap_that_was_found_while_the_disk_was_full_is_told_when_there_is_room(tmp_path: Path) -> None:
    blocked = tmp_path / "events"
    blocked.write_text("a file where the folder should be")
    telling = Telling("web1", str(blocked), 2, Looks(), Log("test"))  # type: ignore[arg-type]
    for _ in range(2):
        telling.look_for_traps()
    assert str(blocked) in telling.error
    blocked.unlink()
    telling.second(Missing(Reason.NO_DATA, "test"), Missing(Reason.NO_DATA, "test"))
    assert telling.error == ""
    telling.close()
    assert [entry.record["name"] for entry in read_journal(str(blocked)).entries] == ["hotspot.trap"]
