"""How the end of a process is explained: from its wait status, and from what pyserve and the kernel have done to it."""

from __future__ import annotations

import os
import signal

from pyserve.system.signals import END

SOMEBODY = "; not by pyserve: by someone, or by the kernel for lack of memory"
NOT_MEMORY = "; not by pyserve, nor for lack of memory: by someone"
MEMORY = " by the kernel, for lack of memory (its control group's oom_kill counts it)"
STUCK = ": it was stuck and ended by its own timer"


def explain(status: int | None, killed_because: str = "", *, oom: bool | None = None) -> str:
    """How a process ended, from its wait status: ``"exited with code 3"``, ``"was killed by SIGSEGV"``.

    killed_because: why pyserve killed it, if it did. oom: did the kernel, for lack of memory? None: nobody knows.
    """
    if status is None:
        return "ended before it could say its pid"
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        return f"exited with code {code}" if code != 128 + signal.SIGQUIT else "ended at once, as a SIGQUIT asked for"
    number = os.WTERMSIG(status)
    name = signal_name(number)
    if killed_because:
        return f"was killed by pyserve ({name}): {killed_because}"
    hint = ""
    if number == signal.SIGKILL:
        hint = {None: SOMEBODY, False: NOT_MEMORY, True: MEMORY}[oom]
    elif number == END:
        hint = STUCK
    return f"was killed by {name}{hint}"


def unexplained_kill(status: int | None, killed_because: str) -> bool:
    """Was it a SIGKILL that pyserve has not sent? Then the kernel may tell more."""
    killed = status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return killed and not killed_because


def loss(cut: int, inside: list[str]) -> str:
    """The requests that ended with their worker; ``inside``: the lines of those in the app, as far as known."""
    if not cut:
        return ""
    what = "1 request cut" if cut == 1 else f"{cut} requests cut"
    return f"; {what}: {named(cut, inside)}" if inside else f"; {what}"


def named(number: int, lines: list[str]) -> str:
    """So many requests, of which these lines are known: ``"GET /a, GET /b and 2 more"``."""
    known = ", ".join(lines)
    return f"{known} and {number - len(lines)} more" if number > len(lines) else known


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
