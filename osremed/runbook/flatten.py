"""A runbook and the parts it uses -> one document, in which every place still tells the file where its text stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from osremed.core.canonical import digest
from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.runbook.document import Runbook, Use
from osremed.runbook.expressions import names_used
from osremed.runbook.faults import Fault
from osremed.runbook.lint import EVENT_NAMES, condition_faults, unknown_findings
from osremed.runbook.text import Path, Place, Text

#: The order in which a flattened document is written.
_ORDER = [field.alias or name for name, field in Runbook.model_fields.items()]
SECTIONS = ("collect", "diagnose", "remediate", "verify", "watch", "after_success")


@record
class Used:
    """A use and the part it stands for: `filled` has its sections, every parameter in its place."""

    section: str
    index: int
    use: Use
    filled: Text
    where: str


@record
class _Item:
    """An item of a list of the flattened document, and where it stands."""

    value: Any
    text: Text
    path: Path


def uses_in(text: Text) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(section, index, item) of every item that is a use, wherever it stands."""
    for section in SECTIONS:
        items = text.data.get(section) if isinstance(text.data, dict) else None
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict) and "use" in item:
                yield section, index, item


class _Writer:
    """Builds a text out of pieces of others; each piece keeps its places."""

    def __init__(self) -> None:
        self.places: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}

    def copy(self, value: Any, item: Text, old: Path, new: Path) -> None:
        if old in item.places:
            self.places[new] = item.place(old)
        if old in item.keys:
            self.keys[new] = item.place(old, key=True)
        if isinstance(value, (dict, list)):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                self.copy(inner, item, (*old, key), (*new, key))


def flatten(text: Text, used: Sequence[Used]) -> tuple[Text, tuple[BadInput, ...]]:
    """The document without parts, and where the parts and the runbook contradict each other."""
    lists = {section: _items(section, text, used) for section in SECTIONS}
    faults: list[BadInput] = []
    lists["collect"] = list(_collected(lists["collect"], faults))
    data: dict[str, Any] = {**text.data}
    writer = _Writer()
    writer.copy({key: value for key, value in data.items() if key not in lists}, text, (), ())
    for section, items in lists.items():
        if section in text.data and not isinstance(text.data[section], list):
            writer.copy(text.data[section], text, (section,), (section,))
            continue
        if section not in text.data and not items:
            continue
        writer.copy([], text, (section,), (section,))
        data[section] = [item.value for item in items]
        for index, item in enumerate(items):
            writer.copy(item.value, item.text, item.path, (section, index))
    data = dict(sorted(data.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER)))
    faults += _findings(lists["diagnose"])
    faults += _conditions(text, used, lists)
    faults += _joined(used)
    return Text(text.source, data, writer.places, writer.keys), tuple(faults)


def _items(section: str, text: Text, used: Sequence[Used]) -> list[_Item]:
    """The items of a list: parts that are used in it stand at their place, what others bring comes after."""
    own = text.data.get(section)
    here = {each.index: each for each in used if each.section == section}
    items: list[_Item] = []
    for index, value in enumerate(own if isinstance(own, list) else ()):
        items += _brought(section, here[index]) if index in here else [_Item(value, text, (section, index))]
    for each in used:
        items += _brought(section, each) if each.section != section else []
    return items


def _brought(section: str, used: Used) -> Iterator[_Item]:
    joined = used.use.when is not None and section == used.section
    for index, value in enumerate(used.filled.data.get(section, ())):
        whole = {**value, "when": f"({used.use.when}) and ({value['when']})"} if joined else value
        yield _Item(whole, used.filled, (section, index))


def _joined(used: Iterable[Used]) -> Iterator[BadInput]:
    """What is no condition by itself: `x) or (y` would get out of the parentheses that join it to that of its use."""
    for each in used:
        items = each.filled.data.get(each.section, ()) if each.use.when is not None else ()
        for index, item in enumerate(items):
            try:
                names_used(str(item["when"]))
            except TemplateError as error:
                where = each.filled.where((each.section, index, "when"))
                yield Fault("bad-condition", f"expression does not parse: {error.message}", where=where)
            except BadInput:  # lint tells of it, joined or not
                continue


def _where(item: _Item, *path: str | int, key: bool = False) -> str:
    return item.text.where((*item.path, *path), key=key)


def _collected(items: Iterable[_Item], faults: list[BadInput]) -> Iterator[_Item]:
    """Each collector of a part once; told if there are two ways to collect it. What the runbook itself names twice is
    left to lint."""
    seen: dict[str, tuple[str, _Item]] = {}
    for item in items:
        name = next(iter(item.value)) if isinstance(item.value, dict) and len(item.value) == 1 else ""
        asked = digest(item.value)
        if name in seen and item.text is not seen[name][1].text:
            before, first = seen[name]
            if asked != before:
                what = f"collector {name!r} has other arguments than at {_where(first, name, key=True)}"
                hint = "make them equal, or give the part a parameter"
                faults.append(Fault("part-clash", what, where=_where(item, name, key=True), hint=hint))
            continue
        if name:
            seen.setdefault(name, (asked, item))
        yield item


def _findings(items: Iterable[_Item]) -> Iterator[BadInput]:
    seen: dict[str, _Item] = {}
    for item in items:
        name = item.value.get("finding") if isinstance(item.value, dict) else None
        if not isinstance(name, str):
            continue
        first = seen.setdefault(name, item)
        if first.text is not item.text:
            what = f"the finding {name!r} is made at {_where(first, 'finding')} too"
            yield Fault("part-clash", what, where=_where(item, "finding"), hint="rename one of them")


def _conditions(text: Text, used: Iterable[Used], lists: Mapping[str, list[_Item]]) -> Iterator[BadInput]:
    """What is wrong with the conditions of the uses themselves."""
    collected = {name for item in lists["collect"] if isinstance(item.value, dict) for name in item.value}
    made = [item.value.get("finding") for item in lists["diagnose"] if isinstance(item.value, dict)]
    for each in used:
        if each.use.when is None:
            continue
        where = text.where((each.section, each.index, "when"))
        repairs = each.section == "remediate"
        allowed = EVENT_NAMES | collected | ({"finding"} if repairs else set())
        yield from condition_faults(each.use.when, allowed, where)
        if repairs:
            yield from unknown_findings(each.use.when, {name for name in made if isinstance(name, str)}, where)
