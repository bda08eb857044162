"""A run that there was, as a case for the tests of its runbook."""

from __future__ import annotations

from osremed.core.answer import Answer
from osremed.core.canonical import sha256_hex
from osremed.core.errors import NotFound
from osremed.core.files import read_bytes
from osremed.core.reading import Missing
from osremed.flows.verbs import store_of
from osremed.report.assemble import bundle_of
from osremed.runbook.casefrom import as_text, case_of
from osremed.runbook.catalog import CatalogEntry


def runs_case(*, run_id: str, state: str) -> Answer:
    """A case that replays the run, as small as it tells the same: for the folder `cases` beside its runbook."""
    store = store_of(state)
    run, _effect = store.load(run_id)
    directory = store.of(run_id)
    bundle = bundle_of(store, run)
    if isinstance(bundle, Missing):
        raise NotFound(
            f"run {run_id} has no evidence: {bundle}", where=directory.bundle, hint="a case replays evidence"
        )
    content = read_bytes(directory.runbook)
    entry = CatalogEntry(store.runbook_of(run_id), content, sha256_hex(content), directory.runbook)
    case = case_of(run, [happening for _at_ns, happening in store.happenings(run_id)], bundle, entry)
    return Answer({"run": run_id, "case": case}, as_text(case, run).rstrip("\n"))
