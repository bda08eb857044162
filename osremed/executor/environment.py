"""What Ansible's programs see of this process: none of anybody's settings, then ours."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping

from osremed.core.errors import Unavailable
from osremed.executor import stragglers

_RESULT_LIMIT_BYTES = 64 << 20
_FOREIGN = ("ANSIBLE_", "AWX_", "PYTHON", "RUNNER_")


def environment_of(work_dir: str, collections_path: str, settings: Mapping[str, str]) -> dict[str, str]:
    """What ansible sees: this environment without anyone's Ansible or Python settings, then ours."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN) and name != stragglers.MARK
    }
    bin_dir = os.path.dirname(sys.executable)
    return {
        **kept,
        "PATH": os.pathsep.join([bin_dir, kept.get("PATH", os.defpath)]),
        "LC_ALL": "C.UTF-8",
        "MAX_EVENT_RES": str(_RESULT_LIMIT_BYTES),  # above it runner drops the result without a word
        "ANSIBLE_CONFIG": os.path.join(work_dir, "ansible.cfg"),
        "ANSIBLE_HOME": os.path.join(work_dir, "home"),
        "ANSIBLE_LOCAL_TEMP": os.path.join(work_dir, "tmp"),
        "ANSIBLE_CALLBACK_PLUGINS": "",  # runner appends its own
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(
            os.path.abspath(path) for path in collections_path.split(os.pathsep) if path
        ),
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "ANSIBLE_DEVEL_WARNING": "False",
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # runner turns it off unless told
        "ANSIBLE_INJECT_FACT_VARS": "False",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_NOCOWS": "True",
        "ANSIBLE_PIPELINING": "True",
        # A shared connection would outlive its call, and end with it for others.
        "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=no",
        "ANSIBLE_STDOUT_CALLBACK": "",  # runner sets its own
        "AWX_LIB_DIRECTORY": "",
        **settings,
    }


def write_config(environ: Mapping[str, str]) -> None:
    """An empty configuration, so that no other one is found."""
    with open(environ["ANSIBLE_CONFIG"], "w", encoding="utf-8") as stream:
        stream.write("[defaults]\n")


def only_ours(environ: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """runner starts from the whole environment of this process: drop what we had dropped, keep what runner set."""
    return {
        name: value
        for name, value in environ.items()
        if name in ours or not name.startswith(_FOREIGN) or os.environ.get(name) != value
    }


def find_program(command: str, path: str) -> str:
    """Where it is. Unavailable if it is not there."""
    found = shutil.which(command, path=path)
    if found is None:
        raise Unavailable(f"{command} is not installed", hint="install osremed with the extra `control`")
    return found
