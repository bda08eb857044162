"""What a model is shown: documents with ids, cut to fit, and whether a citation of one of them exists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from osremed.core.evidence import Bundle
from osremed.core.reading import Missing
from osremed.core.record import record
from osremed.opinion.policy import Share
from osremed.opinion.veil import DEEPEST, Veil
from osremed.runbook.cited import cited, documents_of
from osremed.runbook.model import Run

#: A token of JSON in ASCII is about four bytes; three leave room for those who count otherwise.
BYTES_A_TOKEN = 3
_ROWS = (100, 50, 20, 10, 5, 3, 1)
_LONGEST_TEXT = 400


@record
class Document:
    """`cut` says what of it is not shown, "" when it is whole."""

    id: str
    body: Any
    cut: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "document": self.body, **({"cut": self.cut} if self.cut else {})}


def of_run(run: Run, bundle: Bundle | Missing, share: Share, veil: Veil) -> tuple[Document, ...]:
    """What the policy shares of a run, veiled; the names in the rest of its evidence are hidden, too."""
    said = documents_of(run, bundle)
    for body in said.values():
        veil.learn(body)
    return tuple(veiled(kind, said[kind], veil) for kind in share.evidence if kind in said)


def veiled(name: str, body: Any, veil: Veil) -> Document:
    """The document as it may leave, with no more rows of each list than are ever sent. Texts are whole here: half a
    secret would not look like one."""
    rows = _ROWS[0]
    shorter = _shortened(body, rows, None)
    return Document(name, veil.over(shorter), "" if shorter == body else f"lists end after {rows} rows")


def fitted(documents: Sequence[Document], room_bytes: int) -> tuple[tuple[Document, ...], tuple[str, ...]]:
    """(those that fit, the small ones first and the rest sharing what is left; ids of those that do not)."""
    kept: dict[str, Document] = {}
    left_out: list[str] = []
    waiting = sorted(documents, key=lambda each: _size(each.body))
    for number, each in enumerate(waiting):
        share = room_bytes // (len(waiting) - number)
        cut = _cut_to(each, share)
        if cut is None:
            left_out.append(each.id)
            continue
        kept[each.id] = cut
        room_bytes -= _size(cut.as_json())
    return tuple(kept[each.id] for each in documents if each.id in kept), tuple(left_out)


def exists(citation: str, documents: Iterable[Document]) -> bool:
    """Whether it is the id of a document, or `id#/a/place/in/it` (a JSON pointer) of something that is there."""
    return not isinstance(cited({each.id: each.body for each in documents}, citation), Missing)


def as_sent(body: Any) -> str:
    """One JSON value in ASCII: nothing in it ends it early."""
    return json.dumps(body, ensure_ascii=True, separators=(",", ":"), sort_keys=True)


def _size(body: Any) -> int:
    return len(as_sent(body))


def _cut_to(document: Document, room_bytes: int) -> Document | None:
    """The document with lists as long as there is room for; None if not even one row of each has room."""
    if _size(document.as_json()) <= room_bytes:
        return document
    for rows in _ROWS:
        cut = f"lists end after {rows} rows, texts after {_LONGEST_TEXT} characters"
        shorter = Document(document.id, _shortened(document.body, rows, _LONGEST_TEXT), cut)
        if _size(shorter.as_json()) <= room_bytes:
            return shorter
    return None


def _shortened(node: Any, rows: int, longest: int | None, depth: int = 0) -> Any:
    """What lies deeper than the veil looks is left as it is: the veil takes it away."""
    if depth > DEEPEST:
        return node
    if isinstance(node, Mapping):
        return {key: _shortened(value, rows, longest, depth + 1) for key, value in node.items()}
    if isinstance(node, list):
        return [_shortened(each, rows, longest, depth + 1) for each in node[:rows]]
    return f"{node[:longest]}…" if longest and isinstance(node, str) and len(node) > longest else node
