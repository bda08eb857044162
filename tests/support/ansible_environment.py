"""What ansible-playbook of this checkout is started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def ansible_environment(home: Path) -> dict[str, str]:
    """Ours, without what the caller's shell tells Ansible; its own files go below `home`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environ.update(
        PATH=f"{Path(sys.executable).parent}:{environ['PATH']}", ANSIBLE_NOCOLOR="1",
        ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_HOME=str(home),
    )  # fmt: skip
    return environ
