"""What a module refuses before it looks at the host, as Ansible calls it."""

from __future__ import annotations

import importlib
import json

import pytest
from ansible.module_utils.testing import patch_module_args

SHA = "0" * 64


@pytest.mark.parametrize(
    ("module", "args", "message"),
    [
        ("fastoom_policy", {"sensitivity": "extreme"}, "must be one of"),
        ("fastoom_policy", {"sensitivity": "low", "content_b64": "e30="}, "mutually exclusive"),
        ("fastoom_policy", {"sensitivity": "low", "confirm_within": 5}, "undo_id"),
        ("fastoom_policy", {"sensitivity": "low", "threshold": 1}, "Unsupported parameters"),
        ("fastoom_policy", {"protect": [{"name": "x", "nam": "y"}]}, "Unsupported parameters"),
        ("fastoom_policy", {"protect": [{}]}, "one of the following is required: name, cmdline"),
        ("fastoom_policy", {"sensitivity": "low", "path": "relative.json"}, "absolute"),
        ("fastoom_policy", {}, "at least one of"),
        ("sysctl", {"settings": {"vm.swappiness": 1}, "confirm_within": 5}, "undo_id"),
        ("sysctl", {"settings": {"vm.swappiness": 1}, "file": "/etc/sysctl.conf"}, "not a drop-in"),
        ("cgroup_limits", {"cgroup": "/x", "exact": {}, "memory_max": "1"}, "mutually exclusive"),
        ("proc_oom_score", {"pid": 1, "start_time_ticks": 1, "value": 1001}, "between -1000 and 1000"),
        ("proc_signal", {"pid": 1, "start_time_ticks": 1, "signal": "SEGV"}, "must be one of"),
        ("page_cache", {"paths": []}, "1 to 1000"),
        ("cgroup_reclaim", {"cgroup": "/x", "bytes": "lots"}, "bytes 'lots'"),
        ("service_restart", {"name": "x"}, "full name of a unit"),
        ("service_restart", {"name": "x.service", "health": {"prot": 1}}, "Unsupported parameters"),
        ("gpu_app_limits", {"unit": "x.service", "environment": {"LD_PRELOAD": "x"}, "root": "/"}, "GPU library"),
        ("gpu_app_limits", {"unit": "x.timer", "environment": {}}, "full name of a unit"),
        ("gpu_app_limits", {"unit": "x.service", "environment": {"NCCL_X": "a\nb"}, "root": "/"}, "not one line"),
        ("gpu_drain", {"scheduler": "slurm", "node": "--all"}, "not the name of a node"),
        ("gpu_drain", {"scheduler": "slurm", "node": "a", "reason": ""}, "reason must be"),
        ("gpu_info", {"timeout_s": 0}, "more than 0"),
        ("gpu_reset", {"uuid": "0"}, "not the UUID"),
        ("gpu_reset", {"uuid": "GPU-1", "bug_report": "x.log"}, "ends in .log.gz"),
        ("service_switch", {"name": "x", "declared": "/none.json"}, "does not exist"),
        ("service_switch", {"name": "x", "state": "half"}, "must be one of"),
        ("wheel_release", {"component": "x", "artifact": "/x"}, "sha256"),
        ("wheel_release", {"component": "x", "src": "/x"}, "sha256"),
        ("files", {"files": [{"path": "/x/y"}]}, "one of the following is required: content, content_b64, secret"),
        ("files", {"files": [{"path": "/x/y", "content": "", "secret": ""}]}, "mutually exclusive"),
        ("wheel_release", {"component": "x", "version": "1", "restore_current": ""}, "mutually exclusive"),
        ("evidence", {"collectors": {"x": {}}, "redact": ["("]}, "not a regular expression"),
        ("evidence", {"collectors": {"x": {}}, "max_total_bytes": 0}, "must be more than 0"),
    ],
)
def test_bad_options_are_named(module, args, message, capsys):
    main = importlib.import_module(f"ansible_collections.osremed.host.plugins.modules.{module}").main
    with patch_module_args(args), pytest.raises(SystemExit) as ended:
        main()
    answer = json.loads(capsys.readouterr().out)
    assert (ended.value.code, answer["failed"], answer.get("changed", False)) == (1, True, False)
    assert message in answer["msg"]
