"""Children by their pidfds: who is signalled and waited for is then the process itself, not who has its number now.

Where the kernel has none (or no descriptor is left) the pid serves. That is right as long as nobody else waits for our
children: a pid is not given to another process before its parent has waited for it.
"""

from __future__ import annotations

import os
import signal

NONE = -1


def open_one(pid: int) -> int:
    """A child's pidfd, close-on-exec, readable when the child has ended; NONE if it cannot be had."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return NONE


def send(pidfd: int, pid: int, number: int) -> None:
    """Send a signal. ProcessLookupError if the process has ended and was waited for."""
    if pidfd == NONE:
        os.kill(pid, number)
    else:
        signal.pidfd_send_signal(pidfd, number)


def wait(pidfd: int, pid: int) -> int | None:
    """The status that waitpid() would give, of a child that has ended; None if it has not.

    ChildProcessError: it is no child.
    """
    by = (os.P_PID, pid) if pidfd == NONE else (os.P_PIDFD, pidfd)
    result = os.waitid(*by, os.WEXITED | os.WNOHANG)
    return None if result is None else status_of(result.si_code, result.si_status)


def status_of(code: int, status: int) -> int:
    """The status of waitpid() from what waitid() says: how it ended (CLD_…), and with what."""
    if code == os.CLD_EXITED:
        return status << 8
    return status | (0x80 if code == os.CLD_DUMPED else 0)


def ended() -> int:
    """The pid of a child that has ended and was not waited for, which it stays; 0 if there is none."""
    try:
        result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return result.si_pid if result else 0
