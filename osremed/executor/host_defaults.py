"""Where things lie on a host, from its inventory variables: the only templates in a call's play, and all ours.

`osremed_prefix` (default none) is put before each path; `osremed_command` (a list) runs the on-host osremed.
"""

from __future__ import annotations

from collections.abc import Mapping

from osremed.core.action import Call

PREFIX = "{{ osremed_prefix | default('') }}"
_COMMAND = (
    "(osremed_command | default(['/usr/bin/python3', '-I', '-S', '-B', "
    "osremed_prefix | default('') ~ '/opt/osremed/host/current/osremed']))"
)
_POLICY = "osremed.host.fastoom_policy"
_DAEMON_POLICY, _DAEMONS = "osremed.host.daemon_policy", ("timeline", "hotspot")
_UNDO = {"undo_dir": f"{PREFIX}/var/lib/osremed/undo"}
_CHANGE = {**_UNDO, "agent_status": f"{PREFIX}/run/osremed/agent.json"}

_PLACES: Mapping[str, Mapping[str, str]] = {
    _POLICY: {
        **_CHANGE,
        "path": f"{PREFIX}/etc/osremed/fastoom.json",
        "status_file": f"{PREFIX}/run/osremed/fastoom.json",
        "validate": f"{{{{ {_COMMAND} + ['fastoom', 'check', '%s'] }}}}",
    },
    "osremed.host.undo": _UNDO,
    "osremed.host.sysctl": {**_CHANGE, "file": f"{PREFIX}/etc/sysctl.d/90-osremed.conf"},
    "osremed.host.cgroup_limits": _CHANGE,
    "osremed.host.gpu_app_limits": {**_CHANGE, "root": f"{PREFIX}/etc/systemd/system"},
    "osremed.host.gpu_info": {"command": f"{{{{ {_COMMAND} }}}}"},
    "osremed.host.gpu_reset": {"command": f"{{{{ {_COMMAND} }}}}"},
    "osremed.host.proc_oom_score": _CHANGE,
    "osremed.host.service_switch": {**_CHANGE, "declared": f"{PREFIX}/etc/osremed/switches.json"},
    "osremed.host.wheel_release": {**_CHANGE, "root": f"{PREFIX}/opt/osremed"},
    "osremed.host.proc_signal": {"policy_file": f"{PREFIX}/etc/osremed/fastoom.json"},
    "osremed.host.fastoom_info": {
        "path": f"{PREFIX}/etc/osremed/fastoom.json",
        "status_file": f"{PREFIX}/run/osremed/fastoom.json",
    },
    "osremed.host.evidence": {"command": f"{{{{ {_COMMAND} }}}}"},
    "osremed.host.probe": {"command": f"{{{{ {_COMMAND} }}}}"},
}


def _places(call: Call) -> Mapping[str, str]:
    daemon = call.args.get("daemon")
    if call.module != _DAEMON_POLICY or daemon not in _DAEMONS:
        return _PLACES.get(call.module, {})
    return {
        **_CHANGE,
        "path": f"{PREFIX}/etc/osremed/{daemon}.json",
        "status_file": f"{PREFIX}/run/osremed/{daemon}.json",
        "validate": f"{{{{ {_COMMAND} + ['{daemon}', 'check', '%s'] }}}}",
    }


def host_arguments(call: Call) -> dict[str, str]:
    """Arguments that the inventory decides unless the call names them. A new policy is always checked by the host's own
    `check`; exact bytes are not, because they put back what was there, right or wrong."""
    places = _places(call)
    names = set(places) - set(call.args)
    if call.module in (_POLICY, _DAEMON_POLICY) and "content_b64" in call.args:
        names.discard("validate")
    return {name: text for name, text in places.items() if name in names}
