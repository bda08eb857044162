"""Work that is killed before each of its lines in turn."""

from __future__ import annotations

import os
import signal
import sys


def killed_at_line(work, kill_at, modules):
    """Runs `work` in a child that SIGKILLs itself before the given line of the modules; True if it ended before."""
    ours = {module.__file__ for module in modules}
    pid = os.fork()
    if pid == 0:
        lines = iter(range(1, 1 << 30))

        def trace(frame, event, arg):
            if frame.f_code.co_filename not in ours:
                return None
            if event == "line" and next(lines) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        work()
        os._exit(0)
    return os.WIFEXITED(os.waitpid(pid, 0)[1])


def every_line(work, modules):
    """Yields after each killed run; the caller looks at what is left."""
    for kill_at in range(1, 2000):
        if killed_at_line(work, kill_at, modules):
            assert kill_at > 50  # the tracer did step through our code
            return
        yield kill_at
    raise AssertionError("never ended")
