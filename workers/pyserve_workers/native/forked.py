"""Processes that the app forks from one of ours: they are the app's, and no code of the server runs in them.

A fork has all that this process has: the loop, the connections, the listeners. In the child of a fork that is not the
server's own, the owner gives that back at once (``disown()``). The app goes on there as long as it likes. Where its
code ends, and the server's would go on, ``check()`` ends the process, with the exit code that the app asked for.
"""

from __future__ import annotations

import contextlib
import os
import sys
from select import POLLOUT

from pyserve.errors import PyserveError
from pyserve_workers.native.system import poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    from pyserve.ipc.log import Log

    class Owner(Protocol):
        @property
        def log(self) -> Log: ...

        def disown(self) -> None:
            """In a process that the app has forked: close what is the server's, and have nothing of it go on."""


_owner: Owner | None = None
_is_one = False  # was this process forked by the app?


def belong(owner: Owner | None) -> None:
    """Whose process this is, from here on; None: the next fork is the server's own."""
    global _owner
    _owner = owner


def _after_fork() -> None:
    global _is_one
    if _owner is not None and not _is_one:
        _is_one = True
        _owner.disown()


os.register_at_fork(after_in_child=_after_fork)


def check(where: str, *, only_exit: bool = False) -> None:
    """The app's code has ended, by a return or by the exception that is being handled (or only if that is SystemExit).
    Does not return in a process that the app has forked. ``where``: what of the app it was, for the log."""
    if _is_one:
        error = sys.exception()
        leave(where, error if not only_exit or isinstance(error, SystemExit) else None)


def leave(where: str, error: BaseException | None) -> NoReturn:
    """End this process, which the app has forked and whose code has ended with ``error``, or has returned."""
    code = 1
    try:
        if isinstance(error, PyserveError) and error.__context__ is not None:
            error = error.__context__  # what the app raised
        code = code_of(error)
        tell(where, error, code)
        flush_streams()
    finally:
        os._exit(code)


def code_of(error: BaseException | None) -> int:
    """The exit code that an interpreter ends with after this exception, or after none; it prints what is no number."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def tell(where: str, error: BaseException | None, code: int) -> None:
    if _owner is None:
        return
    log, who = _owner.log, f"{where}: a process that the app has forked (pid {os.getpid()})"
    if isinstance(error, SystemExit):
        log.info(f"{who} has ended with code {code}")
    elif error is None:
        log.warning(f"{who} has returned to the server; it is ended with code {code}, and should end by os._exit()")
    else:
        from pyserve_workers.native.failure import describe

        log.error(f"{who} has failed; it is ended with code {code}\n{describe(error)}")


def flush_streams() -> None:
    """So that a worker does not print again what the import has printed. Not into a pipe that is full: that waits."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the app may have closed or replaced it
            room = poll()
            room.register(stream.fileno(), POLLOUT)
            if room.poll(0):
                stream.flush()
