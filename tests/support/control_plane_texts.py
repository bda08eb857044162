"""What the role control_plane would write and start, as Ansible makes it of its variables: no host is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.ansible_environment import ROOT, ansible_environment

ROLE = ROOT / "collections/ansible_collections/osremed/host/roles/control_plane"
_TOLD = {
    "wanted": "{{ __control_plane_wanted_units }}",
    "other": "{{ __control_plane_other_units }}",
    "restarted": "{{ __control_plane_restarted }}",
    "reloaded": "{{ __control_plane_reloaded }}",
    "environment": "{{ __control_plane_environment }}",
    "texts": "{{ dict(__control_plane_unit_texts | map(attribute='path') | map('basename')"
    " | zip(__control_plane_unit_texts | map(attribute='content'))) }}",
    "proxy": "{{ lookup('ansible.builtin.template', 'proxy.conf.j2') }}",
}
RUNBOOK = "/etc/osremed/runbooks/x/runbook.yaml"


def told_of(directory: Path, *, wrote: tuple[str, ...] = (RUNBOOK,), **variables):
    """Names of `_TOLD` and their values, as if the paths `wrote` had changed."""
    out, book = directory / "told.json", directory / "play.json"
    task = {
        "dest": str(out),
        "content": "{{ {" + ", ".join(f"'{name}': told_{name}" for name in _TOLD) + "} | to_json }}",
    }
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")],
        "vars": {
            "__control_plane_wrote": {"changed": True, "paths": list(wrote)},
            **{f"told_{name}": text for name, text in _TOLD.items()},
        },
        "tasks": [{"ansible.builtin.copy": task}],
    }
    book.write_text(json.dumps([play]))
    if not (directory / "templates").exists():
        (directory / "templates").symlink_to(ROLE / "templates")
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(book)]
    argv += ["-e", json.dumps({**variables, "ansible_python_interpreter": sys.executable})]
    environ = ansible_environment(directory)
    ended = subprocess.run(argv, check=False, env=environ, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    return json.loads(out.read_text())
