"""As a site says it: a policy by which a runbook acts by itself on a host."""

from __future__ import annotations

from osremed.runbook.guardpolicy import parse_guard_policy, restrictions

POLICY = """\
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {{name: acts, title: Acts by itself, owners: [test]}}
hosts: {hosts}
runbooks: [{runbooks}]
mode: auto
"""


def acts(host, runbook):
    """An operator's `restrict`: every runbook acts by itself on every host."""
    text = POLICY.format(hosts=host, runbooks=runbook)
    policy = parse_guard_policy(text.encode(), "policies/acts.yaml")
    return restrictions([policy], {"all": frozenset({host})}, host, runbook)
