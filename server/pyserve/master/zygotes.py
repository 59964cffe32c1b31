"""Starting a zygote: an interpreter that has imported nothing, with one end of a channel as its descriptor 3.

Each is a fresh exec of the interpreter that ``called`` finds, so that new code and a new interpreter count. Only the
first generation's is forked, by the launcher, before it has imported anything itself (``fork_early``): the interpreter
is then as fresh, and the two import side by side, the master its configuration and the zygote what serving needs.
``_resemble_exec`` makes both look alike. Where an agent was there before us (sitecustomize, a .pth file) it is not
fresh, and the first zygote is exec'd like the others.
Every import here delays the zygote. Therefore the C modules behind socket and signal, which import selectors, enum and
more for what is not needed here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import _socket
import contextlib
import os
import sys
from errno import EPERM

from pyserve.ipc import CHANNEL_FD
from pyserve.system import called
from pyserve.system.signals import BLOCKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.config.config import Config
    from pyserve.ipc.channel import Channel
    from pyserve.master.belongings import Belongings

MOST_HANDED_OVER = 1024
DEFAULTS = (_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGCHLD)  # signals that mean to it what they usually mean
# What a service manager told the master is not for the app.
MASTER_ONLY = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
PROGRAM = "from pyserve_workers.programs.zygote import main; main()"
# Worker classes whose zygote has something to do before it imports anything else.
PROGRAMS = {"gevent": "from pyserve_workers.programs.patched import main; main()"}

_early: tuple[int, int, str] | None = None  # pid, the master's end of the channel, its program


def fork_early() -> str:
    """Fork the zygote that ``start`` will hand out first. In it, what must run there, as ``__main__``; else empty."""
    global _early
    handed_over = _handed_over()
    if not _is_fresh(handed_over):
        return ""
    if called.real(called.interpreter()) != sys.executable:
        return ""  # the modules that this one finds may be another release's by the time they are imported
    program = _guess()
    ours, theirs = _channel()
    usual = _signal.pthread_sigmask(_signal.SIG_BLOCK, BLOCKED)
    try:
        pid = os.fork()
        if pid == 0:
            _resemble_exec(theirs, program)
            for fd in {*handed_over, ours, theirs} - {CHANNEL_FD}:
                os.close(fd)
            return program
        _early = pid, ours, program
    except OSError:  # no process to be had: start() will find the same, when there is a log to say it in
        os.close(ours)
    os.close(theirs)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, usual)
    return ""


def _handed_over() -> set[int]:
    """The sockets of LISTEN_FDS, which go to zygotes by their channels, and not by inheritance."""
    number, found = os.environ.get("LISTEN_FDS", ""), set()
    if number.isdecimal() and os.environ.get("LISTEN_PID") == str(os.getpid()):
        for fd in range(3, 3 + min(int(number), MOST_HANDED_OVER)):
            with contextlib.suppress(OSError):  # whoever takes them over says what is wrong
                os.set_inheritable(fd, False)
                found.add(fd)
    return found


def _is_fresh(known: set[int]) -> bool:
    """Was nobody here before us? Who has opened something or started a thread would have the one without the other in
    a fork. What is inherited stays as it is, unless it has the number of the channel."""
    for fd in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *known}:
        with contextlib.suppress(OSError):  # the listing's own is closed already
            if not os.get_inheritable(fd) or fd == CHANNEL_FD:
                return False
    return len(os.listdir("/proc/self/task")) == 1


def _guess() -> str:
    """The program for the class of workers that command line and environment seem to ask for. The configuration may say
    something else in the end."""
    words = (*sys.argv, os.environ.get("PYSERVE_WORKER_CLASS", ""))
    return next((PROGRAMS[name] for name in PROGRAMS for word in words if word.endswith(name)), PROGRAM)


def _resemble_exec(channel: int, program: str) -> None:
    """Make a fork look to the app like an interpreter that was started with ``_command(program)``."""
    os.dup2(channel, CHANNEL_FD)
    os.set_inheritable(CHANNEL_FD, True)  # until the zygote has taken it, as over an exec
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number in {*DEFAULTS, *BLOCKED} - {_signal.SIGINT}:  # which Python handles
        _signal.signal(number, _signal.SIG_DFL)
    for name in MASTER_ONLY:
        os.environ.pop(name, None)
    sys.orig_argv[:] = _command(program)
    sys.argv[:] = ["-c"]
    main = type(sys)("__main__")  # not the launcher's, whose name and file a multiprocessing child would run
    main.__builtins__ = sys.modules["builtins"]  # type: ignore[attr-defined]  # as each __main__ has it
    if sys.version_info < (3, 14):  # which makes it when it is asked for
        main.__annotations__ = {}
    sys.modules["__main__"] = main


def discard_early() -> None:
    """End the early zygote that nobody took: it reads the end of its channel and exits."""
    global _early
    if _early is not None:
        pid, fd, _ = _early
        _early = None
        os.close(fd)
        os.waitpid(pid, 0)


def block_signals() -> None:
    _signal.pthread_sigmask(_signal.SIG_BLOCK, BLOCKED)


def start(worker_class: str = "sync") -> tuple[int, Channel]:
    """A zygote's pid and the master's end of its channel; it waits for CONFIG. OSError if it cannot be started."""
    global _early
    from socket import socket

    from pyserve.ipc.channel import Channel

    program = PROGRAMS.get(worker_class, PROGRAM)
    if _early is not None and _early[2] != program:
        os.kill(_early[0], _signal.SIGKILL)  # rather than wait until it has imported everything
        discard_early()
    pid, fd, _ = _early or _start(program)
    _early = None
    return pid, Channel(socket(fileno=fd), blocking=False)


def launch(program: str) -> tuple[int, Channel]:
    """A process that runs a program as zygotes do: its pid and the master's end of its channel. OSError: it cannot."""
    from socket import socket

    from pyserve.ipc.channel import Channel

    pid, fd, _ = _start(program)
    return pid, Channel(socket(fileno=fd), blocking=False)


def configure(channel: Channel, config: Config, generation: int, preload: str, belongings: Belongings) -> None:
    """Tell a zygote what it is to load, and hand over what its workers will use. OSError, ValueError: it cannot be."""
    from pyserve.ipc import namedfds

    namedfds.send(
        channel,
        "CONFIG",
        {
            "scoreboard": [belongings.scoreboard.fd],
            "queue": list(belongings.queue.fds),
            "listeners": [listener.fileno() for listener in belongings.listeners],
            **belongings.logs.named(),
        },
        generation=generation,
        master=os.getpid(),
        config=config.values(),
        spool_dir_given=config.spool_dir_given,
        preload=preload,
        listeners=[listener.describe() for listener in belongings.listeners],
    )


def _start(program: str) -> tuple[int, int, str]:
    ours, theirs = _channel()
    environ = {name: value for name, value in called.environ().items() if name not in MASTER_ONLY}
    command = _command(program)
    try:
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, CHANNEL_FD),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                ],
                setsigmask=BLOCKED,
                setsigdef=DEFAULTS,
            )
        except OSError as error:
            if error.errno != EPERM:
                raise
            pid = _fork_and_exec(command, environ, theirs)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return pid, ours, program


def _fork_and_exec(command: list[str], environ: dict[str, str], channel: int) -> int:
    """The same where clone3() is denied (a seccomp profile): the C library has no posix_spawn() then."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(channel, CHANNEL_FD)
            os.set_inheritable(CHANNEL_FD, True)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, BLOCKED)
            for number in DEFAULTS:
                _signal.signal(number, _signal.SIG_DFL)
            os.execve(command[0], command, environ)
        finally:
            os._exit(127)
    return pid


def _channel() -> tuple[int, int]:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return ours.detach(), theirs.detach()


def _command(program: str) -> list[str]:
    return [called.real(called.interpreter()), *interpreter_options(sys.orig_argv), "-P", "-c", program]


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
