"""Schemathesis against the document: whatever it allows is answered as it says, and nothing ends in a crash."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from osremed.console.limits import Buckets


def test_what_the_document_allows_is_answered_as_it_says(client, tokens, monkeypatch):
    monkeypatch.setattr(Buckets, "take", lambda *_: 0.0)
    # A run would begin for real: what the routes say is looked at, not what the run does.
    monkeypatch.setattr("osremed.flows.start._begin", lambda *_: None)
    monkeypatch.setattr("osremed.flows.canary_verbs._leave", lambda *_: None)
    document = schemathesis.openapi.from_asgi("/v1/openapi.json", client.app)
    headers = {"Authorization": f"Bearer {tokens['ana']}"}
    tried = []
    for found in document.exclude(path_regex="stream$").get_all_operations():
        operation = found.ok()

        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def answered(case):
            # A name that is well formed and not there is 422, as documented: no schema can know it.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        answered()
        tried.append(operation.label)
    assert len(tried) >= 22
