"""The zygote: one per generation. Imports the app once and forks workers from it; serves nothing itself.

The master starts it before it has read its own command line, so all it knows at first is its channel. It ends when the
channel does. Signals that are sent to all processes and mean the master do nothing; QUIT ends it, and the master starts
another.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import sys
import time
from _thread import start_new_thread
from importlib import import_module

from pyserve.app import lifecycle
from pyserve.errors import ConfigError, PyserveError
from pyserve.failpoint import failpoint
from pyserve.ipc import CHANNEL_FD, logs, namedfds
from pyserve.ipc.channel import Channel, ProtocolError
from pyserve.system import linux
from pyserve.system.signals import BLOCKED, DUMP
from pyserve_workers.life import hubs, randomness
from pyserve_workers.life.audit import Audit
from pyserve_workers.life.generation import Generation
from pyserve_workers.native import forked
from pyserve_workers.native.system import close, poll, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyserve.ipc.channel import Message
    from pyserve_workers.life.worker import Worker

OURS = {
    "sync": "pyserve_workers.classes.sync:SyncWorker",
    "threads": "pyserve_workers.classes.threads:ThreadsWorker",
    "gevent": "pyserve_workers.classes.geventworker:GeventWorker",
}
TELL_LOST_EVERY = 1000  # milliseconds
# What is imported where it is needed, by when it may be gone from the disk, or the rights to read it.
LATER = ("pyserve.app.alone", "pyserve.app.hooktime", "pyserve_workers.life.check")
# What every generation needs: there is time for it while the master reads its command line.
FIRST = ("setproctitle", "pyserve_workers.life.apploader", "pyserve_workers.classes.sync")


def main() -> None:
    heed_no_signals()
    faulthandler.register(DUMP, all_threads=True)
    os.set_inheritable(CHANNEL_FD, False)
    channel = Channel(socket(fileno=CHANNEL_FD))
    for name in (*FIRST, *LATER):
        import_module(name)
    from pyserve_workers.native.failure import rehearse

    rehearse()
    message = channel.receive()
    if message is not None:
        leave(Zygote(channel, message).run())


def heed_no_signals() -> None:
    """From here on those for the master do nothing here. What the app forks has their defaults again, but for INT and
    HUP: of these Python must know the handler, or it has one of its own that raises."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    linux.ignore_signals([number for number in BLOCKED if number not in (signal.SIGINT, signal.SIGHUP)], False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


def leave(code: int) -> NoReturn:
    """End the process. Python gives signals back their defaults on the way."""
    for number in BLOCKED:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


class Zygote:
    def __init__(self, channel: Channel, message: Message) -> None:
        self.channel = channel
        self.generation = Generation(message)
        self.log = self.generation.log

    def run(self) -> int:
        """Load, then fork workers until the channel ends. In a worker, return what its run returns."""
        from setproctitle import setproctitle

        generation = self.generation
        forked.belong(self)
        lifecycle.ended = forked.check
        faulthandler.register(DUMP, file=generation.log.fd, all_threads=True)
        setproctitle(f"pyserve: zygote gen {generation.number} [{generation.title}]")
        if not self.load():
            return 0
        while True:
            self.tell_lost()
            try:
                message = self.channel.receive()
            except ProtocolError as error:  # no descriptor was free for those that came with it
                self.log.error(f"a message of the master was lost: {error}")
                continue
            if message is None:
                return 0
            if message.kind == "SPAWN":
                worker = self.spawn(message)
                if worker is not None:
                    return worker.run()
            elif message.kind == "REOPEN":
                logs.take_over(namedfds.of(message), generation.log_fds)
            message.close()

    def load(self) -> bool:
        began = time.monotonic()
        failpoint("zygote.loading")
        from pyserve_workers.native.accesslog import AccessLog

        generation = self.generation
        description = "what workers need, but not the app: each imports it for itself"
        try:
            if generation.config.worker_class in OURS:  # a user who cannot read the interpreter's files can run it
                find_worker_class(generation.config.worker_class)
            generation.enter()
            find_worker_class(generation.config.worker_class)
            if generation.access_log_fd is not None:  # a wrong format is found before there are workers
                AccessLog(generation.access_log_fd, generation.config.access_logformat)
            unusable = generation.try_spool_dir()
            if generation.preload != "never":
                linux.hold_listeners(generation.owned_fds)
                with Audit() as audit:
                    description = generation.load_app()
                linux.ignore_signals([signal.SIGTERM], False)  # again: the app may have set its own
                unsafe = audit.found() if generation.preload == "auto" else ""
                if unsafe:
                    self.channel.send("UNSAFE", reasons=unsafe)
                    return False
        except PyserveError as error:
            self.channel.send("LOAD_FAILED", kind=error.kind, message=error.message, details=error.details)
            return False
        if unusable:
            self.log.warning(
                f"{unusable}; they stay in memory, and bodies that do not fit into buffer_memory are answered with "
                "503: set spool_dir"
            )
        failpoint("zygote.loaded")
        self.channel.send(
            "LOADED",
            description=description,
            seconds=time.monotonic() - began,
            folder=generation.folder,
            interpreter=sys.executable,
        )
        # While the master answers:
        if generation.app is not None and "urllib.parse" in sys.modules:
            # Web frameworks and getaddrinfo() import this at their first use: once here, rather than in each worker.
            with contextlib.suppress(ImportError):  # an interpreter that the --user cannot read
                import encodings.idna  # noqa: F401
        gc.freeze()  # what is there now is never looked at by a worker's collector, and so stays shared memory
        return True

    def spawn(self, message: Message) -> Worker | None:
        """Fork a worker, by way of a process that ends at once, so that the master adopts it; in it, return it."""
        from pyserve_workers.life.apploader import user_traceback

        try:
            lifecycle.run_start("before_fork", self.log.debug)
        except lifecycle.HookFailedError as error:
            self.refuse(message, "hook", str(error), user_traceback(error.__cause__ or error))
            return None
        failpoint("zygote.forking")
        hubs.destroy()
        forked.flush_streams()
        forked.belong(None)
        linux.hold_listeners([])  # a worker's own
        # Until the worker has its handlers.
        self.generation.signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            if linux.fork_orphan():
                return self.become_worker(message)
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.generation.signal_mask)
            self.refuse(message, "app", f"fork failed: {error.strerror}")
        signal.pthread_sigmask(signal.SIG_SETMASK, self.generation.signal_mask)
        forked.belong(self)
        return None

    def disown(self) -> None:
        """In a process that the app has forked."""
        self.channel.close()
        self.generation.disown()

    def tell_lost(self) -> None:
        """While the master has nothing to say, and the log had no room for what we said: try again."""
        heard = poll()
        heard.register(self.channel.fileno(), select.POLLIN)
        while self.log.lost and not heard.poll(TELL_LOST_EVERY):
            self.log.tell_lost()

    def refuse(self, message: Message, kind: str, text: str, details: str = "") -> None:
        self.channel.send("SPAWN_FAILED", id=message["id"], kind=kind, message=text, details=details)

    def become_worker(self, message: Message) -> Worker:
        self.channel.close()
        randomness.reseed()
        channel = Channel(socket(fileno=message.fds[0]))
        stacks_fd, bell_fd = message.fds[1:]
        message.fds = []
        name = self.generation.config.worker_class
        without = name == "threads" and not can_start_threads()
        worker_class = find_worker_class("sync" if without else name)
        worker = worker_class(self.generation, channel, message["number"], message["slot"])
        worker.stacks_fd = stacks_fd
        worker.bell_fd = bell_fd
        if without:
            close(bell_fd)  # a thread would listen to it
            worker.bell_fd = -1
            self.log.warning("no thread can be started here: this worker serves one request at a time, as sync ones do")
        forked.belong(worker)
        return worker


def can_start_threads() -> bool:
    """A limit on processes or a seccomp profile may be against it."""
    try:
        start_new_thread(int, ())
    except RuntimeError:
        return False
    return True


def find_worker_class(name: str) -> type[Worker]:
    """The class of a name: our own, or an entry point in the group ``pyserve.workers``."""
    try:
        if name in OURS:  # without importlib.metadata, whose import takes longer than all else here
            module, _, attribute = OURS[name].partition(":")
            ours: type[Worker] = getattr(import_module(module), attribute)
            return ours
        from importlib.metadata import entry_points

        known = {point.name: point for point in entry_points(group="pyserve.workers")}
        if name not in known:
            raise ConfigError(f"worker class '{name}' is not known; installed are: {', '.join(sorted(known))}")
        loaded: type[Worker] = known[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"worker class '{name}' cannot be loaded: {error}") from None
    return loaded
