"""Runbooks that use parts, flattened: the document without parts is what is linted, run, kept, hashed and shown.

Every place in it still tells the file where its text stands: the runbook's own, or that of a part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from osremed.core.errors import BadInput
from osremed.core.record import record
from osremed.runbook.actions import COLLECTORS
from osremed.runbook.document import Part, Runbook, Use
from osremed.runbook.faults import Fault
from osremed.runbook.flatten import SECTIONS, Used, flatten, uses_in
from osremed.runbook.lint import lint_text
from osremed.runbook.parameters import Filling, Given, value_faults
from osremed.runbook.rulefile import FOLDER, read_rule
from osremed.runbook.shape import choices, shaped, unknown
from osremed.runbook.text import Path, Place, Text, dump, parse_text

KIND = "RunbookPart"
#: Where a use may stand: what the part has of this list stands there.
_PLACES = ("diagnose", "remediate")
#: What a part needs around it to be linted alone.
_ALONE: Mapping[str, Any] = {
    "apiVersion": "osremed/v1",
    "kind": "Runbook",
    "metadata": {"name": "alone", "title": "A part alone", "owners": ["nobody"]},
    "on": [{"event": "part.alone"}],
    "guards": {
        "cooldown": "1s",
        "concurrency": {"per_host": 1, "fleet": 1},
        "storm": {"max_runs": 1, "per": "1s"},
        "max_event_age": "30d",
    },
    "collect": [],
    "diagnose": [{"finding": "alone", "when": "event.id == ''", "summary": "a part alone"}],
    "remediate": [],
    "verify": [],
}


@record
class Shelf:
    """The parts that lie together: name -> content of `<folder>/<name>.yaml`."""

    folder: str
    files: Mapping[str, bytes]

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}.yaml"


@record
class Checked:
    """A linted runbook; None with what is wrong. `content` is the document without parts, empty if the parts do not fit
    in; `parts` is what it uses."""

    runbook: Runbook | None
    content: bytes
    faults: tuple[BadInput, ...]
    parts: tuple[str, ...] = ()


def shelf_beside(path: str) -> Shelf:
    """The parts beside the folder of a runbook. BadInput if one cannot be read."""
    return read_shelf(os.path.normpath(os.path.join(os.path.dirname(path), "..", FOLDER)))


def read_shelf(folder: str) -> Shelf:
    """The parts in a folder; none if it is not there. BadInput if one cannot be read."""
    files, path = {}, folder
    try:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            if name.endswith(".yaml"):
                files[name.removesuffix(".yaml")] = read_rule(path)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from error
    return Shelf(folder, files)


def is_part(text: Text) -> bool:
    """Whether the document says that it is a part."""
    return isinstance(text.data, dict) and text.data.get("kind") == KIND


def lies_in_parts(path: str) -> bool:
    """Whether a file lies where parts lie: beside folders of runbooks, or in a set of rules."""
    folder = os.path.dirname(os.path.abspath(path))
    beside = os.path.dirname(folder)
    if os.path.basename(folder) != FOLDER or os.path.basename(path) == "runbook.yaml":
        return False
    names = os.listdir(beside) if os.path.isdir(beside) else ()
    return any(os.path.isfile(os.path.join(beside, name, "runbook.yaml")) for name in names)


def check(content: bytes, path: str, shelf: Shelf | None = None) -> Checked:
    """The runbook with its parts in it, linted; `shelf`: those beside the file. BadInput for what is no strict YAML."""
    text = parse_text(content, path)
    uses = tuple(uses_in(text))
    if not uses:
        book, faults = lint_text(text)
        faults = faults or tuple(_names(book, text))
        return Checked(None if faults else book, content, faults)
    shelf = shelf or shelf_beside(path)
    parts = tuple(dict.fromkeys(str(item["use"]) for _section, _index, item in uses))
    used, faults = _resolve(uses, text, shelf)
    flat, more = flatten(text, used) if not faults else (text, ())
    told = {each.filled.source: each.where for each in used}
    if faults or more:
        return Checked(None, b"", (*faults, *(_with_use(fault, told) for fault in more)), parts)
    book, faults = lint_text(flat)
    faults = tuple(_with_use(fault, told) for fault in faults) or tuple(_names(book, text))
    content, whole = _written(flat)
    return Checked(None if faults or whole else book, content, faults or whole, parts)


def parts_used(content: bytes, path: str) -> frozenset[str]:
    """The names of the parts that a file uses; none of a file that cannot be read."""
    try:
        return frozenset(str(item["use"]) for _section, _index, item in uses_in(parse_text(content, path)))
    except BadInput:
        return frozenset()


def _names(book: Runbook | None, text: Text) -> Iterator[BadInput]:
    if book is not None and book.name == FOLDER:
        hint = "give the runbook and its folder another name"
        what = f"{FOLDER!r} is the folder of the parts"
        yield Fault("folder-name", what, where=text.where(("metadata", "name")), hint=hint)


def _written(flat: Text) -> tuple[bytes, tuple[BadInput, ...]]:
    """The flattened document as bytes, which must read back to the same: a run begins with nothing else."""
    content = dump(flat.data)
    try:
        same = parse_text(content, flat.source).data == flat.data
        why = "" if same else "it does not read back to what it is"
    except BadInput as error:
        why = error.what
    hint = "shorter parts, or fewer"
    fault = Fault("part-use", f"with its parts in it: {why}", where=flat.where(()), hint=hint)
    return content, (fault,) if why else ()


def _with_use(fault: BadInput, told: Mapping[str, str]) -> BadInput:
    """A fault in a part says where the part is used."""
    use = told.get(fault.where.rsplit(":", 2)[0])
    if use is not None:
        fault.hint = f"{fault.hint}; used at {use}" if fault.hint else f"used at {use}"
    return fault


# --- one part ---


def lint_part(content: bytes, path: str) -> tuple[BadInput, ...]:
    """What is wrong with a part, whoever uses it: its shape, its parameters, and all that lint says of a runbook that
    is nothing but this part. A parameter without a default is then a value that nobody knows."""
    try:
        text = parse_text(content, path)
    except BadInput as error:
        return (error,)
    part, faults = _sound(text, os.path.basename(path).removesuffix(".yaml"))
    if part is None or faults:
        return faults
    values = {
        name: Given(spec.default, text, ("parameters", name, "default"))
        if "default" in spec.model_fields_set
        else Given("{{ event.parameter }}", text, ("parameters", name), open=True)
        for name, spec in part.parameters.items()
    }
    filled, faults = _filled(text, part, values)
    if faults:
        return faults
    section = "remediate" if part.remediate else "diagnose"
    base = {**_ALONE, "collect": [{_stranger(content): {}}], section: [*_ALONE[section], {"use": part.metadata.name}]}
    place = len(_ALONE[section])
    use = Used(section, place, Use(use=part.metadata.name), filled, path)
    flat, faults = flatten(Text("", base, {(): Place(1, 1)}, {}), (use,))
    mine = f"{path}:"
    return tuple(fault for fault in (*faults, *lint_text(flat)[1]) if fault.where.startswith(mine))


def _stranger(content: bytes) -> str:
    """A collector that the part does not name: it makes nothing known that the part asks for."""
    return next((name for name in COLLECTORS if name.encode() not in content), next(iter(COLLECTORS)))


def _sound(text: Text, name: str) -> tuple[Part | None, tuple[BadInput, ...]]:
    """The part by its schema, with the faults that need no use of it."""
    if not isinstance(text.data, dict):
        hint = "begin with apiVersion: osremed/v1"
        return None, (Fault("bad-value", "a part is a mapping", where=text.where(()), hint=hint),)
    nested = [text.where((section, index)) for section, index, _item in uses_in(text)]
    nested += [text.where(("use",), key=True)] if "use" in text.data else []
    if nested:
        hint = "use both in the runbook, or write it out here"
        return None, tuple(Fault("part-use", "a part uses no part", where=where, hint=hint) for where in nested)
    part, faults = shaped(Part, text)
    if part is None:
        return None, faults
    return part, tuple(_sound_faults(part, text, name))


def _sound_faults(part: Part, text: Text, name: str) -> Iterator[BadInput]:
    if part.metadata.name != name:
        what = f"part {part.metadata.name!r} lies in file {name!r}"
        where = text.where(("metadata", "name"))
        yield Fault("folder-name", what, where=where, hint=f"rename the file to {part.metadata.name}.yaml, or the part")
    if not part.diagnose and not part.remediate:
        hint = "a part has `remediate`, or `diagnose`: that is where it is used"
        yield Fault("part-use", "this part finds and repairs nothing", where=text.where(()), hint=hint)
    for key, spec in part.parameters.items():
        if "default" in spec.model_fields_set:
            yield from value_faults(spec.default, text, ("parameters", key, "default"))


def _filled(text: Text, part: Part, values: Mapping[str, Given]) -> tuple[Text, tuple[BadInput, ...]]:
    filling = Filling(text, values, part.parameters)
    filled = filling.fill(SECTIONS)
    unused = [name for name in part.parameters if name not in filling.used]
    hint = "write parameters.<name> where it belongs, or leave it out"
    for name in unused if not filling.faults else ():
        where = text.where(("parameters", name), key=True)
        filling.faults.append(Fault("part-parameter", f"parameter {name!r} is not used", where=where, hint=hint))
    return filled, tuple(filling.faults)


# --- the uses of a runbook ---


def _resolve(
    uses: Iterable[tuple[str, int, dict[str, Any]]], text: Text, shelf: Shelf
) -> tuple[tuple[Used, ...], tuple[BadInput, ...]]:
    used: list[Used] = []
    faults: list[BadInput] = []
    first: dict[str, str] = {}
    for section, index, item in uses:
        where = text.where((section, index, "use"))
        found = _one(section, index, text, shelf)
        faults += [found] if isinstance(found, BadInput) else found if isinstance(found, list) else []
        used += [found] if isinstance(found, Used) else []
        name = str(item["use"])
        if name in first:
            hint = "its findings have one name: write one of them out"
            faults.append(Fault("part-use", f"part {name!r} is used at {first[name]} already", where=where, hint=hint))
        first.setdefault(name, where)
    return tuple(used), tuple(faults)


def _one(section: str, index: int, text: Text, shelf: Shelf) -> Used | list[BadInput]:
    where = text.where((section, index, "use"))
    if section not in _PLACES:
        hint = "move it to `remediate` if it repairs, else to `diagnose`"
        return [Fault("part-use", f"no part is used in `{section}`", where=where, hint=hint)]
    use, faults = shaped(Use, text, (section, index))
    if use is None:
        return list(faults)
    if use.use not in shelf.files:
        known = shelf.files
        return [unknown("part", use.use, known, where)] if known else [_missing(use.use, shelf, where)]
    part, part_text, faults = _read(use.use, shelf)
    told = {shelf.path(use.use): where}
    if part is None or part_text is None:
        return [_with_use(fault, told) for fault in faults]
    wrong = list(_misplaced(section, use, part, where)) + list(_arguments(use, part, text, (section, index)))
    if wrong:
        return wrong
    values = {name: _given(name, use, text, (section, index), part_text) for name in part.parameters}
    filled, faults = _filled(part_text, part, values)
    return [_with_use(fault, told) for fault in faults] or Used(section, index, use, filled, where)


def _read(name: str, shelf: Shelf) -> tuple[Part | None, Text | None, tuple[BadInput, ...]]:
    """A part as it lies on the shelf; None with what is wrong with it."""
    try:
        text = parse_text(shelf.files[name], shelf.path(name))
    except BadInput as error:
        return None, None, (error,)
    part, faults = _sound(text, name)
    return (None, None, faults) if faults else (part, text, ())


def _misplaced(section: str, use: Use, part: Part, where: str) -> Iterator[BadInput]:
    right = "remediate" if part.remediate else "diagnose"
    if right != section:
        what = f"part {use.use!r} {'repairs' if part.remediate else 'repairs nothing'} and is used in `{section}`"
        yield Fault("part-use", what, where=where, hint=f"move it to `{right}`")


def _missing(name: str, shelf: Shelf, where: str) -> Fault:
    return Fault("unknown-part", f"unknown part {name!r}", where=where, hint=f"a part is {shelf.path(name)}")


def _given(name: str, use: Use, text: Text, path: Path, part: Text) -> Given:
    if name in use.arguments:
        place = (*path, "with", name)
        return Given(use.arguments[name], text, place)
    return Given(part.data["parameters"][name]["default"], part, ("parameters", name, "default"))


def _arguments(use: Use, part: Part, text: Text, path: Path) -> Iterator[BadInput]:
    for name, value in use.arguments.items():
        place = (*path, "with", name)
        if name not in part.parameters:
            what = f"part {use.use!r} has no parameter {name!r}"
            hint = choices(name, part.parameters) if part.parameters else "leave it out"
            yield Fault("part-parameter", what, where=text.where(place, key=True), hint=hint)
        else:
            yield from value_faults(value, text, place)
    for name, spec in part.parameters.items():
        if name not in use.arguments and "default" not in spec.model_fields_set:
            what = f"part {use.use!r} needs the parameter {name!r}: {spec.description}"
            hint = f"with: {{{name}: …}}"
            yield Fault("part-parameter", what, where=text.where((*path, "use")), hint=hint)
