"""The files of a new rules repository."""

from __future__ import annotations

from collections.abc import Mapping

_RUNBOOK = """\
# yaml-language-server: $schema=../../schema/runbook.schema.json
apiVersion: osremed/v1
kind: Runbook
metadata:
  name: near-oom
  title: A node or container close to out-of-memory
  owners: [sre]

on:
  - event: memory.near_oom
    where: event.level in ['medium', 'high'] and event.action | default('') != 'dry_run'

guards:
  cooldown: 10m
  concurrency: {per_host: 1, fleet: 5%}
  storm: {max_runs: 20, per: 10m}

collect:
  - panorama: {scope: "{{ event.scope }}", files: 30, processes: 30}

diagnose:
  - finding: policy-too-low
    when: event.sensitivity == 'low'
    summary: FastOOM guards {{ event.scope }} with sensitivity low
    confidence: 70%

remediate:
  - when: finding('policy-too-low')
    action: fastoom_policy
    with: {sensitivity: medium}
    confirm_within: 5m
    approval: {required: risk >= 'medium', timeout: 10m, on_timeout: deny}

verify:
  - probe: memory.available_ratio
    with: {scope: "{{ event.scope }}"}
    expect: value > 0.10
    within: 45s
    for: 10s
"""

_CASE = """\
# The change was approved by nobody: nothing happens.
given:
  event:
    name: memory.near_oom
    attributes: {level: high, sensitivity: medium, scope: node, available_ratio: 0.04}
  evidence:
    panorama: {total_bytes: 1073741824, processes: [], files: []}
expect:
  findings: []
  plan: []
  state: REFUSED
"""

_POLICY = """\
# yaml-language-server: $schema=../schema/policy.schema.json
apiVersion: osremed/v1
kind: HostPolicy
metadata: {name: all, title: What is ended first and what never, owners: [sre]}
hosts: all
fastoom:
  sensitivity: medium
  scopes: [{node: true}]
  protect: [{name: sshd}, {name: postgres}]
  prefer: [{name: "*exporter*"}]
"""

_PACE = """\
# yaml-language-server: $schema=../schema/policy.schema.json
apiVersion: osremed/v1
kind: GuardPolicy
metadata: {name: pace, title: Not everywhere at once, owners: [sre]}
hosts: all
guards:
  concurrency: {fleet: 10%}
"""

_README = """\
# Remediation rules

    runbooks/<name>/runbook.yaml         what to do when an event is raised
    runbooks/<name>/cases/<case>.yaml    recorded events and evidence, and what must come of them
    runbooks/parts/<part>.yaml           what several runbooks say alike (kind: RunbookPart)
    policies/<name>.yaml                 for groups of the inventory: what their daemons obey (kind: HostPolicy), and
                                         guards besides those of the runbooks, and which of them act
                                         unasked (kind: GuardPolicy)
    prefect/<name>.yaml                  limits, variables and automations of Prefect
    environments/<env>/runbooks/<name>.yaml   what differs there: `enabled: false`, or `patch:`; policies/, prefect/ too

Check before you push: `osremed gitops check . --fix`. Editors that read `# yaml-language-server` lines check as you
type, offline, with the files in schema/. Sign commits: `git commit -S`. The control plane takes what an allowed signer
has signed and what passes the same check; the rules that were live stay until then.
"""

_STAGE = """\
# In stage the cooldown is short, and a person has less time to answer.
patch:
  guards: {cooldown: 1m}
  remediate:
    fastoom_policy:
      approval: {timeout: 5m}
"""

_CI = """\
# Runs on every pull request; the comment is the file rules.md.
name: rules
on: pull_request
permissions: {contents: read, pull-requests: write, security-events: write}
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/checkout@v4
        with: {ref: "${{ github.base_ref }}", path: base}
      - run: pip install 'osremed[control]'
      - run: osremed gitops check . --base base --markdown rules.md --sarif rules.sarif
      - if: always()
        run: gh pr comment "$NUMBER" --body-file rules.md
        env: {GH_TOKEN: "${{ github.token }}", NUMBER: "${{ github.event.number }}"}
"""

SCAFFOLD: Mapping[str, str] = {
    "README.md": _README,
    "CODEOWNERS": "# Who must agree to a change.\n/runbooks/ @sre\n/policies/ @sre\n/environments/ @sre\n",
    ".github/workflows/rules.yaml": _CI,
    "runbooks/near-oom/runbook.yaml": _RUNBOOK,
    "runbooks/near-oom/README.md": "# near-oom\n\nRaises the sensitivity of FastOOM where it stepped in late.\n",
    "runbooks/near-oom/cases/medium-already.yaml": _CASE,
    "policies/all.yaml": _POLICY,
    "policies/pace.yaml": _PACE,
    "environments/prod/policies/pace.yaml": "patch:\n  guards: {concurrency: {fleet: 2%}}\n",
    "environments/dev/runbooks/near-oom.yaml": "patch:\n  guards: {cooldown: 1m, concurrency: {fleet: 50%}}\n",
    "environments/stage/runbooks/near-oom.yaml": _STAGE,
    "environments/prod/runbooks/near-oom.yaml": "patch:\n  guards: {concurrency: {fleet: 2%}}\n",
}
