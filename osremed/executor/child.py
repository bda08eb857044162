"""The child in which ansible-runner runs a command takes leave at once.

pexpect waits 0.1 s whenever it closes a child, before it looks whether that has ended (`delayafterclose` of ptyprocess
0.7); ansible-runner closes one that has. That was a fifth of a call. One that has not is ended as ever.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible_runner import runner


def take_leave_at_once() -> None:
    """For all runs of ansible-runner in this process, and for nobody else who uses pexpect."""
    pexpect = runner.pexpect
    if isinstance(pexpect, SimpleNamespace):
        return

    def spawn(*words: Any, **options: Any) -> Any:
        child = pexpect.spawn(*words, **options)
        child.ptyproc.delayafterclose = 0.0
        return child

    runner.pexpect = SimpleNamespace(**{**vars(pexpect), "spawn": spawn})
