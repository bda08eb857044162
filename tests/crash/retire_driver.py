"""Puts the kept runs in order (removal, index) in copies of a state, each killed by SIGKILL before its K-th change of
the disk, K from one up until a copy gets through. Prints how many were killed.

retire_driver.py STATE COPIES
"""

import os
import shutil
import signal
import sys

from osremed.core.clock import FakeClock
from osremed.runbook.retention import Keep, retire
from tests.support.kept import operator_on

_CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"})
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DAYS = 400


def arm(number):
    left = [number]

    def hear(event, arguments):
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & _FOR_WRITING
        if event in _CHANGES or opens:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def put_in_order(state):
    """As the dispatcher does it. The operator it was done with."""
    clock = FakeClock()
    clock.advance(DAYS * 86400)
    where = operator_on(f"{state}/runs", state, executor=object(), clock=clock)
    where.store.runs()
    retire(where, f"{state}/hands", {}, Keep())
    while where.store.keep_index(1):
        pass
    return where


def main():
    state, copies = sys.argv[1:]
    number = 0
    while True:
        number += 1
        copy = f"{copies}/{number}"
        shutil.copytree(state, copy)
        pid = os.fork()
        if not pid:
            arm(number)
            put_in_order(copy)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            print(number - 1, os.WEXITSTATUS(status))
            return


if __name__ == "__main__":
    main()
