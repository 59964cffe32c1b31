"""Children by their pidfds: who is signalled and waited for is then the process itself, not who has its number now.

Where the kernel has none (or no descriptor is left) the pid serves. That is right as long as nobody else waits for our
children: a pid is not given to another process before its parent has waited for it.

Where waitid() is denied (a seccomp profile), who has ended cannot be looked at without being waited for. Its status is
then kept here, until it is asked for.
"""

from __future__ import annotations

import os
import signal

from pyserve.system.memfile import DENIED

NONE = -1

_statuses: dict[int, int] = {}  # of children that were waited for too early


def open_one(pid: int) -> int:
    """A child's pidfd, close-on-exec, readable when the child has ended; NONE if it cannot be had."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return NONE


def send(pidfd: int, pid: int, number: int) -> None:
    """Send a signal. ProcessLookupError if the process has ended and was waited for."""
    if pidfd != NONE:
        try:
            signal.pidfd_send_signal(pidfd, number)
            return
        except OSError as error:
            if error.errno not in DENIED:
                raise
    if pid not in _statuses:
        os.kill(pid, number)


def wait(pidfd: int, pid: int) -> int | None:
    """The status that waitpid() would give, of a child that has ended; None if it has not.

    ChildProcessError: it is no child.
    """
    if pid in _statuses:
        return _statuses.pop(pid)
    by = (os.P_PID, pid) if pidfd == NONE else (os.P_PIDFD, pidfd)
    try:
        result = os.waitid(*by, os.WEXITED | os.WNOHANG)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        found, status = os.waitpid(pid, os.WNOHANG)
        return status if found else None
    return None if result is None else status_of(result.si_code, result.si_status)


def is_child(pid: int) -> bool:
    """Is this the pid of a child of ours, running or not yet waited for?"""
    return pid in _statuses or _look(os.P_PID, pid) is not None


def status_of(code: int, status: int) -> int:
    """The status of waitpid() from what waitid() says: how it ended (CLD_…), and with what."""
    if code == os.CLD_EXITED:
        return status << 8
    return status | (0x80 if code == os.CLD_DUMPED else 0)


def ended() -> int:
    """The pid of a child that has ended and was not waited for, which it stays; 0 if there is none."""
    return next(iter(_statuses), 0) or _look(os.P_ALL, 0) or 0


def _look(kind: int, which: int) -> int | None:
    """The pid of one of these children if it has ended, else 0; None if there is no such child."""
    try:
        result = os.waitid(kind, which, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return result.si_pid if result else 0
    except ChildProcessError:
        return None
    except OSError as error:
        if error.errno not in DENIED:
            raise
    try:
        pid, status = os.waitpid(which or -1, os.WNOHANG)
    except ChildProcessError:
        return None
    if pid:
        _statuses[pid] = status
    return pid
