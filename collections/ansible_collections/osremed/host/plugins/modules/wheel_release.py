#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026, osremed contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: wheel_release
short_description: Put a release of a component in place, point to it, and back when it is not healthy
version_added: 0.1.0
description:
  - Makes C(ROOT/COMPONENT/releases/VERSION) from a wheel or a zipapp on the host or on the controller, points C(current) to it as
    one step, and points back when the release is not healthy. Nothing is fetched from anywhere else.
  - The SHA-256 is checked before anything is touched, on the very bytes that are kept.
  - A release never changes. Another file under a version that is there already is refused.
  - A wheel is unpacked into an environment without pip that sees the packages of the system. A zipapp is kept as it is.
author:
  - osremed contributors (@osremed)
extends_documentation_fragment:
  - osremed.host.attributes
  - osremed.host.attributes.change
attributes:
  check_mode:
    support: full
    details:
      - An artifact that is not there yet, as an earlier task copies it, is no failure in check mode. Health is not asked.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  component:
    description: Name of what is released, such as V(agent).
    type: str
    required: true
  root:
    description: Directory of all components. It is made if it is not there.
    type: path
    default: /opt/osremed
  state:
    description:
      - V(present) puts the release in place.
      - V(absent) removes O(version), unless it is the one in use, or all releases without O(version). What is removed is not
        kept, so this has no undo.
    type: str
    choices: [present, absent]
    default: present
  version:
    description: Name of the release.
    type: str
  artifact:
    description: The wheel (C(.whl)) or zipapp on the host. Not needed for a release that is there already.
    type: path
  src:
    description: The same on the controller. It is brought to the host for this call and does not stay there beside the release.
    type: path
  sha256:
    description: SHA-256 that O(artifact) or O(src) must have.
    type: str
  entry:
    description: Name of the zipapp in its release.
    type: str
    default: osremed
  python:
    description: Python of the host that makes the environment of a wheel.
    type: path
    default: /usr/bin/python3
  activate:
    description: Whether C(current) is pointed to the release.
    type: bool
    default: true
  check:
    description:
      - A command as a list of words that must end with exit code 0 before C(current) is pointed to the release. V(%s) in it
        becomes the directory of the release. It is run without a shell.
    type: list
    elements: str
  unit:
    description:
      - Unit of systemd that is restarted after C(current) was pointed elsewhere, and again when it is pointed back.
      - To be healthy it must then be active, without being restarted by systemd, for O(health_hold_s).
    type: str
  health:
    description:
      - A command as a list of words that must end with exit code 0 within O(health_timeout_s), after that restart. V(%s) in it
        becomes the directory of the release.
    type: list
    elements: str
  health_timeout_s:
    description: Seconds that O(check), the restart and the wait for O(health) may take each, at most V(600).
    type: float
    default: 60.0
  health_hold_s:
    description: Seconds without a break for which O(unit) and O(health) must be content. Only counts with O(unit).
    type: float
    default: 2.0
  keep:
    description: Releases that stay, the one in use and the one before it among them. V(0) removes none.
    type: int
    default: 3
  expect_current:
    description:
      - Act only if C(current) holds this target, or the wanted one. An empty string means that there is none. Otherwise fail with
        RV(conflict=true).
    type: str
  restore_current:
    description: The target that C(current) is to have. This is how RV(previous) undoes a change.
    type: str
seealso:
  - module: osremed.host.undo
  - module: osremed.host.service_restart
"""

EXAMPLES = r"""
- name: Bring a release and use it, unless it is not healthy
  osremed.host.wheel_release:
    component: agent
    version: 1.4.0
    src: dist/osremed-host.pyz
    sha256: 0f3a4f7e7e4d1c1f1a0b9b0a8d0c6a5c2f5d6f0e1c9b7a3d5e8f4b2a6c1d0e9f
    check: [/usr/bin/python3, -I, -S, -B, "%s/osremed", --help]
    unit: osremed-agent.service
    health: [/usr/bin/python3, -I, -S, -B, "%s/osremed", agent, status]
"""

RETURN = r"""
current:
  description: What C(current) points to after the change. An empty string if there is no such link.
  returned: success
  type: str
previous_current:
  description: What C(current) pointed to before.
  returned: success
  type: str
release_dir:
  description: Directory of the release.
  returned: success
  type: str
added:
  description: Whether the release was not there before.
  returned: success
  type: bool
pruned:
  description: Releases that were removed as too old.
  returned: success
  type: list
  elements: str
previous:
  description: Arguments for this module that undo the change. Empty if nothing changed or it cannot be undone.
  returned: success
  type: dict
as_seen:
  description: Options with which the same call refuses when the host is no longer as it was before this one.
  returned: success
  type: dict
rolled_back:
  description: Whether C(current) points to what it pointed to before, as the release was not healthy.
  returned: when the release was not healthy
  type: bool
wrong_sum:
  description: Whether the artifact does not have the SHA-256 that it must have. Nothing was touched then.
  returned: when that is so
  type: bool
undo_registered:
  description: Whether an undo record for this change is on the host.
  returned: success
  type: bool
deadline_ns:
  description: When the host takes the change back, in nanoseconds since the epoch. V(0) means never.
  returned: when an undo record is registered
  type: int
evidence:
  description: What was seen and done, one sentence each.
  returned: always
  type: list
  elements: str
conflict:
  description: Whether it was left alone because it is not what was expected.
  returned: on a conflict
  type: bool
"""

import contextlib
import os
import shutil
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.osremed.host.plugins.module_utils import _health, _link, _release, _systemd, _undo
from ansible_collections.osremed.host.plugins.module_utils._agent import deadline_of, require_keeper
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed, fail_from
from ansible_collections.osremed.host.plugins.module_utils._files import fsync_directory
from ansible_collections.osremed.host.plugins.module_utils._values import UNDO_OPTIONS, check_undo_options

MAX_TIMEOUT_S = 600.0


def argument_spec():
    return dict(
        component=dict(type="str", required=True),
        root=dict(type="path", default="/opt/osremed"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        version=dict(type="str"),
        artifact=dict(type="path"),
        src=dict(type="path"),
        sha256=dict(type="str"),
        entry=dict(type="str", default="osremed"),
        python=dict(type="path", default="/usr/bin/python3"),
        activate=dict(type="bool", default=True),
        check=dict(type="list", elements="str"),
        unit=dict(type="str"),
        health=dict(type="list", elements="str"),
        health_timeout_s=dict(type="float", default=60.0),
        health_hold_s=dict(type="float", default=2.0),
        keep=dict(type="int", default=3),
        expect_current=dict(type="str"),
        restore_current=dict(type="str"),
        **UNDO_OPTIONS,
    )


class Plan(NamedTuple):
    """`before` and `after`: targets of `current`. `add`: whether the release has to be made. `gone`: versions to remove, or
    None for the whole component."""

    before: str
    after: str
    add: bool
    gone: Any = ()


def check_options(options):
    _release.check_name(options["component"], "component")
    _release.check_name(options["entry"], "entry")
    check_undo_options(options)
    for name in ("root", "artifact", "python"):
        if options[name] is not None and not os.path.isabs(options[name]):
            raise ActionFailed("%s must be an absolute path, not %r" % (name, options[name]))
    if options["version"] is not None:
        _release.check_name(options["version"], "version")
    if options["unit"] is not None:
        _link.check_unit(options["unit"])
    if options["sha256"] is not None and not _release.SHA256.fullmatch(options["sha256"]):
        raise ActionFailed("sha256 %r is not 64 small hexadecimal digits" % options["sha256"])
    if not 0 < options["health_timeout_s"] <= MAX_TIMEOUT_S or options["keep"] < 0:
        raise ActionFailed(
            "health_timeout_s must be above 0 and at most %g, and keep must not be negative" % MAX_TIMEOUT_S
        )
    if not 0 <= options["health_hold_s"] < options["health_timeout_s"]:
        raise ActionFailed("health_hold_s must not be negative and must be less than health_timeout_s")
    for words in (options["check"], options["health"]):
        if words is not None and not (words and all(words)):
            raise ActionFailed("check and health need at least one word, none of them empty")
    if options["restore_current"] is not None and _link.leads_out(options["restore_current"]):
        raise ActionFailed("restore_current %r leads out of the component" % options["restore_current"])


def make_plan(options, base, check_mode, evidence):
    """The Plan. ActionFailed for what is refused; nothing was touched then."""
    before = _link.where_to(base.current)
    if before is None:
        raise ActionFailed("%s is not a symbolic link: nothing changed" % base.current)
    if options["restore_current"] is not None:
        plan = Plan(before, options["restore_current"], False)
        if plan.after and not os.path.isdir(os.path.join(base.path, plan.after)):
            raise ActionFailed(
                "%s is not there any more: current was left alone" % os.path.join(base.path, plan.after), conflict=True
            )
    elif options["state"] == "absent":
        plan = plan_removal(options, base, before)
    else:
        add = has_to_be_made(options, base, check_mode, evidence)
        plan = Plan(before, _release.target_of(options["version"]) if options["activate"] else before, add)
    expected = options["expect_current"]
    if expected is not None and before not in (expected, plan.after):
        raise ActionFailed(
            "%s was pointed elsewhere by someone else since: expected %r, found %r. It was left alone"
            % (base.current, expected, before),
            conflict=True,
        )
    return plan


def plan_removal(options, base, before):
    if options["version"] is None:
        return Plan(before, "", False, None if os.path.lexists(base.path) else ())
    if before == _release.target_of(options["version"]):
        raise ActionFailed("release %s is in use: point to another first. Nothing changed" % options["version"])
    there = options["version"] in _release.versions(base)
    return Plan(before, before, False, (options["version"],) if there else ())


def has_to_be_made(options, base, check_mode, evidence):
    if options["version"] is None:
        raise ActionFailed("state=present needs version, or restore_current")
    there = _release.installed(base, options["version"], options["entry"])
    if there is not None:
        if options["sha256"] not in (None, there):
            raise ActionFailed(
                "release %s holds another file (SHA-256 %s). A release never changes: give this one another version. Nothing was "
                "touched" % (options["version"], there or "unknown")
            )
        return False
    if not (options["artifact"] or options["src"]) or options["sha256"] is None:
        raise ActionFailed("release %s is not there yet: artifact or src, and sha256 are needed" % options["version"])
    if options["src"] and check_mode:  # it is brought when it counts
        return True
    found = _release.sha256_of(options["artifact"])
    if found is None and not check_mode:
        raise ActionFailed("there is no artifact %s. Hint: copy it to the host first" % options["artifact"])
    if found is None:
        evidence.append("artifact %s is not there yet" % options["artifact"])
    elif found != options["sha256"]:
        raise _release.wrong_sum(options["artifact"], found, options["sha256"])
    return True


def previous_arguments(options, plan):
    same = {"component": options["component"], "root": options["root"]}
    if plan.before != plan.after and plan.gone == ():
        unit = {"unit": options["unit"]} if options["unit"] else {}
        return dict(same, restore_current=plan.before, expect_current=plan.after, **unit)
    return dict(same, version=options["version"], state="absent") if plan.add else {}


def diff_of(base, plan, found, options):
    after = [] if plan.gone is None else [version for version in found if version not in plan.gone]
    after += [options["version"]] if plan.add else []
    texts = {}
    for key, target, names in (("before", plan.before, found), ("after", plan.after, after)):
        lines = ["%s -> %s\n" % (base.current, target or "nothing")]
        texts[key] = "".join(lines + ["%s\n" % base.of(name) for name in sorted(names)])
    return texts


def carry_out(options, check_mode):
    check_options(options)
    base = _release.Base(os.path.join(options["root"], options["component"]))
    if check_mode:
        return act(options, base, check_mode)
    if os.path.isdir(base.path):
        return carry_out_held(options, base)
    make_plan(options, base, check_mode, [])  # so that what is refused leaves no directory behind
    if options["state"] == "present":
        os.makedirs(base.path, mode=0o755)
    try:
        return carry_out_held(options, base)
    except (ActionFailed, OSError):
        for directory in (base.releases, base.path):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise


def carry_out_held(options, base):
    with _undo.locked(options["undo_dir"], base.path, create=bool(options["undo_id"])):
        return act(options, base, False)


def act(options, base, check_mode):
    evidence = []
    plan = make_plan(options, base, check_mode, evidence)
    found = _release.versions(base)
    flips = plan.before != plan.after
    result = {
        "changed": flips or plan.add or plan.gone != (),
        "current": plan.after,
        "previous_current": plan.before,
        "release_dir": base.of(options["version"]) if options["version"] else "",
        "added": plan.add,
        "pruned": [],
        "previous": previous_arguments(options, plan),
        "as_seen": {"expect_current": plan.before},
        "undo_registered": False,
        "evidence": evidence,
        "diff": diff_of(base, plan, found, options),
    }
    evidence.append("current: %s -> %s" % (plan.before or "nothing", plan.after or "nothing"))
    kept = require_keeper(deadline_of(options), [base.current]) if flips else ""
    evidence += [kept] if kept else []
    if check_mode:
        return result
    if plan.add:
        sha256 = options["sha256"]
        _release.put(base, options["version"], options["artifact"], sha256, options["entry"], options["python"])
        evidence.append("release %s made" % options["version"])
    try:
        check_release(options, base, evidence)
        if flips and plan.gone == ():
            flip(options, base, plan, result)
    except (ActionFailed, OSError):
        if plan.add and _link.where_to(base.current) != _release.target_of(options["version"]):
            _release.remove(base, options["version"])
        raise
    if plan.gone != ():
        remove(base, plan)
    if options["undo_id"] and not flips:
        recall(options, base, plan, result)
    if options["state"] == "present" and options["keep"] and result["changed"]:
        prune(options, base, plan, result)
    return result


def command(words, base, version):
    return [word.replace("%s", base.of(version)) for word in words]


def check_release(options, base, evidence):
    if not options["check"] or not options["version"] or options["state"] == "absent":
        return
    why = _health.ask_command(command(options["check"], base, options["version"]))(options["health_timeout_s"])
    if why:
        raise ActionFailed("release %s does not pass its check: %s. It was not put to use" % (options["version"], why))
    evidence.append("checked by %s" % options["check"][0])


def flip(options, base, plan, result):
    change = _link.LinkChange(base.current, plan.before, plan.after, options["unit"] or "")
    if options["undo_id"]:
        record = _undo.make_link_record(options["undo_id"], change, options["confirm_within"] or 0.0)
        record = _undo.register(options["undo_dir"], record)
        result["undo_registered"] = True
        result["deadline_ns"] = record["deadline_ns"]
        result["evidence"].append("undo %s registered in %s" % (options["undo_id"], options["undo_dir"]))
    _link.point(base.current, plan.after)
    why = why_not_healthy(options, base)
    if why:
        flip_back(options, base, plan, why, result["evidence"])


def why_not_healthy(options, base):
    """An empty string if all is well."""
    asks = []
    if options["unit"]:
        failure = _systemd.restart(options["unit"], options["health_timeout_s"])
        if failure:
            return failure
        try:
            asks.append(_systemd.ask_active(_systemd.look_at(options["unit"])))
        except ActionFailed as error:
            return str(error)
    if options["health"] and options["version"]:
        asks.append(_health.ask_command(command(options["health"], base, options["version"])))
    hold_s = options["health_hold_s"] if options["unit"] else 0.0
    return _health.wait_for(asks, options["health_timeout_s"], hold_s).why if asks else ""


def flip_back(options, base, plan, why, evidence):
    """The record goes last: killed before, or with a unit that does not start, the host has to try again."""
    _link.point(base.current, plan.before)
    told, failure = "current points to %s again" % (plan.before or "nothing"), ""
    if options["unit"] and plan.before:
        failure = _systemd.restart(options["unit"], options["health_timeout_s"])
        told += ", but %s" % failure if failure else ", and %s was restarted" % options["unit"]
    if options["undo_id"] and not failure:
        _undo.withdraw(options["undo_dir"], options["undo_id"])
    evidence.append(told)
    raise ActionFailed(
        "release %s is not healthy: %s. %s" % (plan.after, why, told), rolled_back=True, evidence=evidence
    )


def recall(options, base, plan, result):
    """All is as wanted because an earlier call with this undo id made it so: say again how to undo that."""
    record = _undo.load_record(options["undo_dir"], options["undo_id"])
    link = _undo.link_of(record) if record else None
    if link is None or (link.path, link.applied) != (base.current, plan.after):
        return
    result["previous"] = previous_arguments(options, plan._replace(before=link.previous))
    result["undo_registered"] = True
    result["deadline_ns"] = record["deadline_ns"]


def remove(base, plan):
    if plan.gone is None:
        if plan.before:
            _link.point(base.current, "")
        shutil.rmtree(base.path)
        fsync_directory(os.path.dirname(base.path))
        return
    for version in plan.gone:
        _release.remove(base, version)


def prune(options, base, plan, result):
    in_use = [name for name in _release.versions(base) if _release.target_of(name) in (plan.before, plan.after)]
    if options["version"] and options["version"] not in in_use:
        in_use.append(options["version"])
    for version in _release.surplus(_release.versions(base), options["keep"], in_use):
        _release.remove(base, version)
        result["pruned"].append(version)


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        required_by={"confirm_within": ["undo_id"], "artifact": ["sha256", "version"], "src": ["sha256", "version"]},
        mutually_exclusive=[("restore_current", name) for name in ("version", "artifact", "src", "sha256")] + [("src", "artifact")],
        supports_check_mode=True,
    )
    try:
        result = carry_out(module.params, module.check_mode)
    except (ActionFailed, OSError) as error:
        fail_from(module, error)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
