"""What is told of traps: those that stay, once, and that they went."""

from __future__ import annotations

from osremed.hotspot.trapwatch import Standing


def facts(trap: str = "fsync-storm", who: str = "db[7]") -> dict[str, str]:
    return {"trap": trap, "who": who}


def told(standing: Standing, *found: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(each["trap"], each["who"], each["state"]) for each in standing.look(found)]


def test_a_trap_is_told_once_when_it_stays() -> None:
    standing = Standing()
    assert told(standing, facts()) == []
    assert told(standing, facts()) == [("fsync-storm", "db[7]", "raised")]
    assert told(standing, facts()) == []


def test_a_trap_that_comes_and_goes_is_never_told() -> None:
    standing = Standing()
    assert [told(standing, *([facts()] if at % 2 else [])) for at in range(8)] == [[]] * 8


def test_it_is_cleared_when_two_looks_do_not_find_it_and_may_be_raised_again() -> None:
    standing = Standing()
    for _ in range(2):
        told(standing, facts())
    assert told(standing) == []
    assert told(standing, facts()) == []  # one look without it was not enough
    assert (told(standing), told(standing)) == ([], [("fsync-storm", "db[7]", "cleared")])
    assert (told(standing, facts()), told(standing, facts())) == ([], [("fsync-storm", "db[7]", "raised")])


def test_a_sick_host_does_not_flood() -> None:
    standing = Standing()
    many = [facts(who=f"p[{pid}]") for pid in range(50)]
    told(standing, *many)
    assert len(told(standing, *many)) == 20
    assert told(standing, *many) == []
