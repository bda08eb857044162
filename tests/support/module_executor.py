"""An Executor that runs the collection's own change code in this process: real files and undo records, no Ansible."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from osremed.core.action import Outcome, Status
from osremed.core.canonical import digest
from tests.support import an_agent

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.osremed.host.plugins.module_utils import _change  # noqa: E402
from ansible_collections.osremed.host.plugins.module_utils._failure import ActionFailed  # noqa: E402
from ansible_collections.osremed.host.plugins.module_utils._policyoptions import make_request  # noqa: E402
from ansible_collections.osremed.host.plugins.modules import daemon_policy, fastoom_policy, gpu_drain, undo  # noqa: E402


def evidence(items, gaps=None):
    """As the module answers, with the hash of each document."""
    manifest = [{"name": name, "sha256": digest(document)} for name, document in items.items()]
    return {"changed": False, "items": items, "gaps": gaps or {}, "manifest": manifest}


def _with_defaults(spec, given):
    unknown = set(given) - set(spec)
    assert not unknown, f"the module has no option {unknown}"
    return {name: given.get(name, facts.get("default")) for name, facts in spec.items()}


class ModuleExecutor:
    """`helps`: the probe holds while the policy says medium; otherwise it fails. `calls` counts what was asked."""

    def __init__(self, host_root: str, *, helps: bool):
        self.root, self.helps, self.calls = host_root, helps, []
        for directory in ("undo", "scratch"):
            os.makedirs(os.path.join(host_root, directory), exist_ok=True)
        self.policy = os.path.join(host_root, "fastoom.json")
        self.node = os.path.join(host_root, "node.json")
        self.agent = an_agent.pretend(os.path.join(host_root, "agent.json"), os.path.join(host_root, "undo"))

    def run(self, call):
        name = call.module.rpartition(".")[2]
        self.calls.append((name, call.check))
        try:
            result = getattr(self, f"_{name}")(dict(call.args), call.check)
        except (ActionFailed, OSError) as error:
            return Outcome(Status.FAILED, result=dict(getattr(error, "facts", {})), detail=str(error))
        diff = str(result.pop("diff", ""))
        return Outcome(Status.OK, changed=bool(result.get("changed")), result=result, diff=diff)

    def _places(self):
        return {"undo_dir": os.path.join(self.root, "undo"), "agent_status": self.agent}

    def _fastoom_policy(self, args, check):
        defaults = {"path": self.policy, **self._places(), "reload": "never"}
        options = _with_defaults(fastoom_policy.argument_spec(), {**defaults, **args})
        options["reload"] = "never"  # no daemon runs here
        scratch = os.path.join(self.root, "scratch")
        request = make_request(options, fastoom_policy.make_plan(options), lambda: scratch)
        return _change.carry_out(request, check)

    def _daemon_policy(self, args, check):
        path = os.path.join(self.root, f"{args['daemon']}.json")
        defaults = {"path": path, **self._places(), "status_file": "/nowhere"}
        options = _with_defaults(daemon_policy.argument_spec(), {**defaults, **args, "reload": "never"})
        scratch = os.path.join(self.root, "scratch")
        return _change.carry_out(make_request(options, daemon_policy.make_plan(options), lambda: scratch), check)

    def _gpu_drain(self, args, check):
        """The module's own code over a scheduler that is a file."""
        options = _with_defaults(gpu_drain.argument_spec(), args)
        real, gpu_drain.run = gpu_drain.run, self.kubectl
        try:
            return gpu_drain.act(options, check)
        finally:
            gpu_drain.run = real

    def kubectl(self, words, _timeout_s, changed=False):
        if words[1] == "get":
            return Path(self.node).read_text() if os.path.exists(self.node) else '{"spec": {}}'
        Path(self.node).write_text(json.dumps({"spec": {"unschedulable": words[1] == "cordon"}}))
        return ""

    def _undo(self, args, check):
        params = {"undo_dir": os.path.join(self.root, "undo"), "reload_timeout_s": 1.0, **args}
        act = undo.confirm if args["state"] == "confirmed" else undo.revert
        return act(params, check)

    def _evidence(self, args, _check):
        panorama = {"total_bytes": 1 << 29, "processes": [], "files": []}
        return evidence({"panorama": panorama, "fastoom": {}})

    def _probe(self, args, _check):
        with open(self.policy, encoding="utf-8") as stream:
            medium = '"medium"' in stream.read()
        verdict = "HOLDS" if self.helps and medium else "FAILS"
        return {"changed": False, "verdict": verdict, "samples": [{"at_s": 0.0, "value": 0.5}]}
