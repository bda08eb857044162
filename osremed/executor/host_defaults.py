"""Where things lie on a host, from its inventory variables: the only templates in a call's play, and all ours.

`osremed_prefix` (default none) is put before each path; `osremed_command` (a list) runs the on-host osremed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "{{ osremed_prefix | default('') }}"
_COMMAND = "osremed_command | default(['/usr/bin/python3', '-I', '-S', '-B', '/opt/osremed/host/current/osremed'])"
_UNDO = {"undo_dir": f"{_PREFIX}/var/lib/osremed/undo"}

HOST_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "osremed.host.fastoom_policy": {
        **_UNDO,
        "path": f"{_PREFIX}/etc/osremed/fastoom.json",
        "status_file": f"{_PREFIX}/run/osremed/fastoom.json",
        "validate": f"{{{{ ({_COMMAND}) + ['fastoom', 'check', '%s'] }}}}",
    },
    "osremed.host.undo": _UNDO,
    "osremed.host.evidence": {"command": f"{{{{ {_COMMAND} }}}}"},
    "osremed.host.probe": {"command": f"{{{{ {_COMMAND} }}}}"},
}
