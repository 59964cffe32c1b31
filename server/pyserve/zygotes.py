"""Starting a zygote: a fresh interpreter, with one end of a channel as its descriptor 3.

The first one is started before the command line is read (``start_early``): the two interpreters then warm up side by
side, and the zygote waits on its channel for the configuration. Import nothing here that the master does not need.
"""

from __future__ import annotations

import os
import signal
import sys

from pyserve.channel import Channel

CHANNEL_FD = 3
# Signals that are blocked over the exec, so that a Ctrl-C or a HUP does not end a zygote that has no handler yet.
BLOCKED = (signal.SIGINT, signal.SIGHUP)
# What a service manager told the master is not for the app.
MASTER_ONLY = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
PROGRAM = "from pyserve_workers.zygote import main; main()"

_early: tuple[int, Channel] | None = None


def start_early() -> None:
    """Start an interpreter that ``start`` will hand out first."""
    global _early
    for fd in range(3, 3 + int(os.environ.get("LISTEN_FDS", "0") or 0)):
        os.set_inheritable(fd, False)  # sockets that systemd handed over go to zygotes by their channel
    _early = _start()


def discard_early() -> None:
    """End the early zygote that nobody took: it reads the end of its channel and exits."""
    global _early
    if _early is not None:
        pid, channel = _early
        _early = None
        channel.close()
        os.waitpid(pid, 0)


def start() -> tuple[int, Channel]:
    """A zygote's pid and the master's end of its channel; it waits for CONFIG. OSError if it cannot be started."""
    global _early
    if _early is not None:
        taken, _early = _early, None
        return taken
    return _start()


def _start() -> tuple[int, Channel]:
    channel, theirs = Channel.pair()
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
            setsigdef=(signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD),
        )
    except OSError:
        channel.close()
        raise
    finally:
        theirs.close()
    return pid, channel


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
