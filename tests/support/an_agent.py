"""Who keeps the deadlines of a host below a prefix: the real agent, or this process in its place."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from osremed.sensors import procfs


@contextlib.contextmanager
def running(prefix, before=""):
    """The real agent of the host below `prefix`, which ships nothing; its pid. `before`: shell commands in a mount
    namespace of its own, as a unit has."""
    for directory in ("etc/osremed", "run/osremed", "var/lib/osremed/events", "var/lib/osremed/undo"):
        os.makedirs(os.path.join(prefix, directory), exist_ok=True)
    environ = {**os.environ, "OSREMED_PREFIX": str(prefix), "OSREMED_LOG": "warning"}
    status = Path(prefix) / "run/osremed/agent.json"
    words = [sys.executable, "-m", "osremed", "agent", "run"]
    if before:
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{before}; exec "$@"', "sh", *words]
    with subprocess.Popen(words, env=environ) as agent:
        try:
            give_up = time.monotonic() + 60
            while not status.exists():
                assert agent.poll() is None, "the agent does not run"
                assert time.monotonic() < give_up, "the agent does not say that it runs"
                time.sleep(0.02)
            yield agent.pid
        finally:
            agent.terminate()
            agent.wait(60)


def pretend(path, undo_dir):
    """Writes the status of an agent that this process stands for; where that is. It takes nothing back by itself."""
    began = procfs.stat(os.getpid()).value.start_time_ticks
    document = {"pid": os.getpid(), "start_time_ticks": began, "undo_dir": str(undo_dir)}
    Path(path).write_text(json.dumps(document), encoding="utf-8")
    return str(path)
