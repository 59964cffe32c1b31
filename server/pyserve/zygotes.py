"""Starting a zygote: a fresh interpreter, with one end of a channel as its descriptor 3.

The first one is started before the command line is read (``start_early``): the two interpreters then warm up side by
side, and the zygote waits on its channel for the configuration. Every import here delays it. Therefore the C modules
behind socket and signal, which import selectors, enum and more for what is not needed here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import _socket
import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.channel import Channel

CHANNEL_FD = 3
MOST_HANDED_OVER = 1024
# Signals that are blocked over the exec, so that a Ctrl-C or a HUP does not end a zygote that has no handler yet.
BLOCKED = (_signal.SIGINT, _signal.SIGHUP)
# What a service manager told the master is not for the app.
MASTER_ONLY = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
PROGRAM = "from pyserve_workers.zygote import main; main()"

_early: tuple[int, int] | None = None  # pid, the master's end of the channel


def start_early() -> None:
    """Start an interpreter that ``start`` will hand out first."""
    global _early
    handed_over = os.environ.get("LISTEN_FDS", "")
    if handed_over.isdecimal() and os.environ.get("LISTEN_PID") == str(os.getpid()):
        for fd in range(3, 3 + min(int(handed_over), MOST_HANDED_OVER)):
            with contextlib.suppress(OSError):  # whoever takes them over says what is wrong
                os.set_inheritable(fd, False)  # they go to zygotes by their channels
    _early = _start()


def discard_early() -> None:
    """End the early zygote that nobody took: it reads the end of its channel and exits."""
    global _early
    if _early is not None:
        pid, fd = _early
        _early = None
        os.close(fd)
        os.waitpid(pid, 0)


def start() -> tuple[int, Channel]:
    """A zygote's pid and the master's end of its channel; it waits for CONFIG. OSError if it cannot be started."""
    global _early
    from socket import socket

    from pyserve.channel import Channel

    pid, fd = _early or _start()
    _early = None
    return pid, Channel(socket(fileno=fd), blocking=False)


def _start() -> tuple[int, int]:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    environ = {name: value for name, value in os.environ.items() if name not in MASTER_ONLY}
    command = [sys.executable, *interpreter_options(sys.orig_argv), "-P", "-c", PROGRAM]
    try:
        pid = os.posix_spawn(
            sys.executable,
            command,
            environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            ],
            setsigmask=BLOCKED,
            setsigdef=(_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGCHLD),
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours.detach()


def interpreter_options(command: list[str]) -> list[str]:
    """The interpreter's own options: ``["python", "-X", "dev", "-um", "pyserve"]`` → ``["-X", "dev", "-u"]``."""
    options: list[str] = []
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word == "--check-hash-based-pycs":
            options += [word, next(words, "")]
            continue
        # Letters can stand together; one of these takes the rest of the word, or the next word, as its value.
        flags, letter, value = _split(word, "cmWX") if not word.startswith("--") else (word, "", "")
        if flags != "-":
            options.append(flags)
        if letter in ("c", "m"):
            break
        if letter:
            options += [f"-{letter}", value or next(words, "")]
    return options


def _split(word: str, letters: str) -> tuple[str, str, str]:
    """A word before the first of some letters, that letter, and what is after it; both empty if none is there."""
    at = next((index for index, letter in enumerate(word) if letter in letters), len(word))
    return word[:at], word[at : at + 1], word[at + 1 :]
