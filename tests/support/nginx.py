"""Whether the machine's nginx can be used."""

from __future__ import annotations

import shutil


def missing_here() -> str:
    """What to install; empty when it can run."""
    return "" if shutil.which("nginx") else "not installed: apt-get install nginx-light"
