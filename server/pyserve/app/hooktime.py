"""The time that one call of a hook may take. When it is over, HookTimeout is raised in the hook, where it is.

What raises it is a signal of a timer, whose Python handler runs in the main thread, as hooks do: it ends a loop, a
sleep, a lock and a read from a socket. It does not end one long call of C code; ``boot_timeout`` and ``hook_timeout``
do, with the whole process.
"""

from __future__ import annotations

import signal

from pyserve.errors import HookTimeout
from pyserve.system import linux
from pyserve.system.signals import LATE_HOOK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any


class Call:
    """One call under way."""

    def __init__(self) -> None:
        self.running = True

    def end(self) -> None:
        """In the handler of the signal: raise in what the main thread does, which is the hook."""
        self.interrupt()

    def interrupt(self) -> None:
        if self.running:
            self.running = False
            raise HookTimeout


make_call: Callable[[], Call] = Call  # where greenlets take turns in the main thread, one that finds the hook's


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """What ``function()`` returns; HookTimeout if it takes longer than ``seconds``."""
    call = make_call()

    def late(_number: int, _frame: FrameType | None) -> None:
        call.end()

    signal.signal(LATE_HOOK, late)
    linux.start_timer(LATE_HOOK, seconds)
    try:
        return function()
    finally:
        call.running = False
        linux.stop_timer()
        # The handler stays: the signal may be under way, and its default would end the process.
