#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: service_restart
short_description: Restart a service of systemd and believe only its health
version_added: 0.1.0
description:
  - Restarts one service and waits until it is healthy without a break. If it is not, O(rollback) is run, the service is
    restarted once more, and the task fails whatever comes of that.
  - A service that was started less than O(min_interval_s) ago is refused, so that nothing is restarted over and over. So is
    one that carries this very task.
  - This cannot be undone. What the service held in memory is gone.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
attributes:
  check_mode:
    support: full
    details:
      - All refusals are made in check mode too. Whether the service would be healthy is not known.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - A second call within O(min_interval_s) is refused. With O(expect_main_pid) a service that has been restarted since is
        left alone.
options:
  name:
    description: The unit with its ending, such as V(import.service).
    type: str
    required: true
  health:
    description: What must be so for the service to be healthy. All that is given must be.
    type: dict
    suboptions:
      unit_active:
        description: Whether systemd must say that it is active and must not have restarted it by itself again.
        type: bool
        default: true
      command:
        description: A command as a list of words that must end with exit code 0. It is run without a shell.
        type: list
        elements: str
      url:
        description: An address that must answer with a status from 200 to 399. No proxy is used, no redirection followed.
        type: str
      port:
        description: A TCP port of the loopback on which something must listen.
        type: int
      hold_s:
        description: Seconds without a break for which all must be so.
        type: float
        default: 2.0
  timeout_s:
    description: Seconds that the restart may take, and again the wait for health, at most V(600).
    type: float
    default: 60.0
  min_interval_s:
    description: Seconds since the last start of the service within which it is refused. V(0) turns this off.
    type: float
    default: 300.0
  rollback:
    description:
      - A command as a list of words that is run when the service is not healthy, before it is restarted once more. For example
        one that points to the release before.
      - It is run without a shell and ended after O(timeout_s).
    type: list
    elements: str
  expect_main_pid:
    description: Act only if this is the main process of the service. Otherwise fail with RV(conflict=true).
    type: int
seealso:
  - module: osremed.host.wheel_release
  - module: ansible.builtin.systemd_service
"""

EXAMPLES = r"""
- name: Restart the importer, which leaks, at most once in an hour
  osremed.host.service_restart:
    name: import.service
    min_interval_s: 3600
    health:
      url: http://127.0.0.1:8080/healthz
      hold_s: 5
"""

RETURN = r"""
before:
  description: The service before, with its main process and how often systemd restarted it by itself.
  returned: success
  type: dict
  sample: {"active_state": "active", "sub_state": "running", "main_pid": 812, "n_restarts": 0, "result": "success",
    "started_ago_s": 86402.1}
after:
  description: The service after. In check mode the same as before.
  returned: success
  type: dict
healthy:
  description: Whether all of O(health) held. None in check mode, as it is not known.
  returned: success
  type: bool
waited_s:
  description: Seconds until the service was healthy.
  returned: success
  type: float
rolled_back:
  description: Whether O(rollback) was run and the service is healthy after it.
  returned: when the service was not healthy
  type: bool
previous:
  description: Always empty, since a restart cannot be taken back.
  returned: success
  type: dict
as_seen:
  description: Options with which the same call refuses when the host is no longer as it was before this one.
  returned: success
  type: dict
evidence:
  description: What was seen and done, one sentence each.
  returned: always
  type: list
  elements: str
refused:
  description: Why the service must not be restarted.
  returned: when it is not to be touched
  type: str
conflict:
  description: Whether it was left alone because it is not what was expected.
  returned: on a conflict
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _health, _systemd
from ansible_collections.osremed.host.plugins.module_utils._command import run_bounded
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._link import check_unit

MAX_TIMEOUT_S = 600.0


def argument_spec():
    health = dict(
        unit_active=dict(type="bool", default=True),
        command=dict(type="list", elements="str"),
        url=dict(type="str"),
        port=dict(type="int"),
        hold_s=dict(type="float", default=2.0),
    )
    return dict(
        name=dict(type="str", required=True),
        health=dict(type="dict", options=health),
        timeout_s=dict(type="float", default=60.0),
        min_interval_s=dict(type="float", default=300.0),
        rollback=dict(type="list", elements="str"),
        expect_main_pid=dict(type="int"),
    )


def check_options(options):
    if not check_unit(options["name"]).endswith(".service"):
        raise ActionFailed("%s is not a service" % options["name"])
    health = options["health"]
    if not 0 < options["timeout_s"] <= MAX_TIMEOUT_S:
        raise ActionFailed("timeout_s %g is not above 0 and at most %g seconds" % (options["timeout_s"], MAX_TIMEOUT_S))
    if options["min_interval_s"] < 0 or not 0 <= health["hold_s"] < options["timeout_s"]:
        raise ActionFailed("min_interval_s must not be negative, and hold_s must be less than timeout_s")
    if health["port"] is not None and not 0 < health["port"] < 65536:
        raise ActionFailed("port %d is not between 1 and 65535" % health["port"])
    for words in (health["command"], options["rollback"]):
        if words is not None and not (words and all(words)):
            raise ActionFailed("command and rollback need at least one word, none of them empty")
    if health["url"] is not None:
        _health.check_url(health["url"])


def why_refused(unit, options):
    """Why the service must not be restarted, or an empty string."""
    if unit.load_state != "loaded":
        return "systemd has not loaded it (%s)" % unit.load_state
    if _systemd.carries_this_task(unit):
        return "it carries this very task"
    ago_s = unit.started_ago_s()
    if ago_s is not None and ago_s < options["min_interval_s"]:
        return "it was started %.0f s ago, less than min_interval_s (%g)" % (ago_s, options["min_interval_s"])
    return ""


def asks_of(options, restarted):
    """What the health gate asks. `restarted`: the Unit right after the restart, to tell a second one."""
    health = options["health"]
    asks = []
    if health["unit_active"]:
        asks.append(_systemd.ask_active(restarted))
    if health["port"] is not None:
        asks.append(_health.ask_port(health["port"]))
    if health["url"] is not None:
        asks.append(_health.ask_url(health["url"]))
    if health["command"] is not None:
        asks.append(_health.ask_command(health["command"]))
    return asks


def restart_and_wait(options, evidence):
    """The Verdict after a restart."""
    failure = _systemd.restart(options["name"], options["timeout_s"])
    if failure:
        evidence.append(failure)
        return _health.Verdict(False, failure, 0.0)
    try:
        restarted = _systemd.look_at(options["name"])
    except ActionFailed as error:
        evidence.append("restarted, but %s" % error)
        return _health.Verdict(False, str(error), 0.0)
    evidence.append("restarted: main pid %d" % restarted.main_pid)
    verdict = _health.wait_for(asks_of(options, restarted), options["timeout_s"], options["health"]["hold_s"])
    evidence.append("healthy after %g s" % verdict.waited_s if verdict.healthy else "not healthy: %s" % verdict.why)
    return verdict


def act(options, check_mode):
    check_options(options)
    unit = _systemd.look_at(options["name"])
    if options["expect_main_pid"] not in (None, unit.main_pid):
        raise ActionFailed(
            "%s was restarted by someone else since: expected main pid %d, found %d. It was left alone"
            % (unit.name, options["expect_main_pid"], unit.main_pid),
            conflict=True,
            refused="it was restarted by someone else since",
        )
    why = why_refused(unit, options)
    if why:
        raise ActionFailed(
            "%s is not to be restarted: %s" % (unit.name, why), refused=why, before=unit.told(), evidence=[]
        )
    evidence = ["%s is %s, main pid %d, %d restarts" % (unit.name, unit.active_state, unit.main_pid, unit.n_restarts)]
    result = {
        "changed": True,
        "before": unit.told(),
        "after": unit.told(),
        "healthy": None,
        "waited_s": 0.0,
        "previous": {},
        "as_seen": {"expect_main_pid": unit.main_pid},
        "evidence": evidence,
        "diff": {
            "before": "%s: %s, main pid %d\n" % (unit.name, unit.active_state, unit.main_pid),
            "after": "%s: restarted\n" % unit.name,
        },
    }
    if check_mode:
        return result
    verdict = restart_and_wait(options, evidence)
    if not verdict.healthy:
        give_up(options, verdict, evidence)
    return dict(result, healthy=True, waited_s=verdict.waited_s, after=told_after(unit.name, evidence))


def told_after(name, evidence):
    """The service as it is now. When systemd does not tell, the task fails, and says that it was restarted."""
    try:
        return _systemd.look_at(name).told()
    except ActionFailed as error:
        raise ActionFailed("%s was restarted and was healthy, but %s" % (name, error), changed=True, evidence=evidence)


def give_up(options, verdict, evidence):
    """Runs the rollback, if there is one, restarts once more, and fails."""
    facts = {"changed": True, "rolled_back": False, "evidence": evidence}
    if not options["rollback"]:
        raise ActionFailed("%s is not healthy: %s" % (options["name"], verdict.why), **facts)
    ended = run_bounded(options["rollback"], options["timeout_s"], 1 << 20)
    said = ended.why_no_code or "exit code %d %s" % (ended.code, ended.stderr_text().strip()[-300:])
    evidence.append("rollback %s: %s" % (options["rollback"][0], said))
    again = restart_and_wait(options, evidence)
    facts["rolled_back"] = ended.code == 0 and again.healthy
    outcome = "The rollback (%s) did not help: %s" % (said, again.why or "the command failed")
    if facts["rolled_back"]:
        outcome = "It was rolled back and is healthy"
    raise ActionFailed("%s was not healthy: %s. %s" % (options["name"], verdict.why, outcome), **facts)


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    options = dict(module.params)
    health = argument_spec()["health"]["options"]
    options["health"] = options["health"] or {name: facts.get("default") for name, facts in health.items()}
    try:
        result = act(options, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
