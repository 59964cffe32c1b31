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
from types import SimpleNamespace

from pyserve.app import lifecycle
from pyserve.errors import ConfigError, HookError, PyserveError
from pyserve.failpoint import failpoint
from pyserve.ipc import logs, namedfds
from pyserve.ipc.channel import Channel, ProtocolError
from pyserve.ipc.log import Log
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.master.children import DUMP
from pyserve.master.zygotes import BLOCKED, CHANNEL_FD
from pyserve.system import descriptors, linux
from pyserve.system.accounts import become
from pyserve_workers.life import hubs, namedhooks, randomness
from pyserve_workers.life.audit import Audit
from pyserve_workers.life.system import close, poll, socket
from pyserve_workers.native import forked
from pyserve_workers.native.body import try_spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from pyserve.config.config import Config
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
COLLECT_EVERY = 100_000  # container objects, while the app is imported


def main() -> None:
    heed_no_signals()
    faulthandler.register(DUMP, all_threads=True)
    os.set_inheritable(CHANNEL_FD, False)
    channel = Channel(socket(fileno=CHANNEL_FD))
    # While the master reads its command line there is time for what every generation needs.
    import setproctitle  # noqa: F401

    from pyserve_workers.native.failure import rehearse

    for name in LATER:
        import_module(name)
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


class Generation:
    """What all workers of a generation have in common, given to each by the fork."""

    def __init__(self, message: Message) -> None:
        self.number: int = message["generation"]
        self.master_pid: int = message["master"]
        # The values as the master found them valid; the module that reads and checks settings takes long to import.
        self.config: Config = SimpleNamespace(**message["config"])  # type: ignore[assignment]  # has its attributes
        self.spool_dir_given: str = message["spool_dir_given"]
        self.preload: str = message["preload"]
        fds = namedfds.of(message)
        self.scoreboard = Scoreboard(*fds["scoreboard"])
        self.handoff_fds = fds["queue"]
        self.log_fds = {name: fds[name][0] for name in logs.NAMES if name in fds}
        self.listener_fds = fds["listeners"]
        self.listeners: list[dict[str, Any]] = message["listeners"]
        self.log = Log(self.log_fds["error_log"], self.config.log_level, f"zygote {self.number}")
        self.app: Callable[..., Any] | None = None  # None: each worker loads it for itself
        self.title = self.config.proc_name
        self.folder = ""
        self.signal_mask: set[int] = set()  # what the app's import has left blocked

    @property
    def owned_fds(self) -> list[int]:
        """The listeners that were bound by the master: others must be left to who has made them."""
        found = zip(self.listener_fds, self.listeners, strict=True)
        return [fd for fd, about in found if not about["inherited"]]

    @property
    def access_log_fd(self) -> int | None:
        return self.log_fds.get("access_log")

    def enter(self) -> None:
        """Become the process that the app expects: environment, directory, import path, rights."""
        config = self.config
        for variable in config.env:
            name, _, value = variable.partition("=")
            os.environ[name] = value
        if config.umask is not None:
            os.umask(config.umask)
        descriptors.take(config.limit_connections)
        try:
            become(config.user, config.group)
            os.chdir(config.chdir)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise ConfigError(f"cannot run as configured{where}: {error.strerror}") from None
        # Only now: a change of user clears it. A zygote has nothing to finish when the master is gone.
        linux.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != self.master_pid:
            os._exit(1)
        # Where the directories really are: a link to the current release is resolved once per generation.
        self.folder = os.getcwd()
        sys.path[:0] = [*map(os.path.realpath, config.pythonpath), self.folder]

    def try_spool_dir(self) -> str:
        """Store something there as the user that the workers run as: what is wrong, empty if nothing is. What cannot be
        used is taken for none. ConfigError if somebody has chosen it."""
        config = self.config
        try:
            try_spool(config.spool_dir)
        except OSError as error:
            by = f" by user {config.user}" if config.user else ""
            what = f"large bodies and responses cannot be stored there{by}: {error.strerror}"
            directory, config.spool_dir = config.spool_dir, None  # type: ignore[assignment]  # it is the workers' copy
            if self.spool_dir_given:
                raise ConfigError(f"spool_dir = {directory} ({self.spool_dir_given}): {what}") from None
            return f"{directory}: {what}"
        return ""

    def disown(self) -> None:
        """In a process that the app has forked."""
        for fd in (*self.listener_fds, *self.handoff_fds):
            with contextlib.suppress(OSError):  # the listeners that are held were closed at the fork
                close(fd)

    def load_app(self) -> str:
        """Import the app and run its ``on_app_loaded`` hooks; what was loaded, in words. PyserveError if that fails."""
        from pyserve_workers.life.apploader import load, user_traceback

        usual = gc.get_threshold()
        gc.set_threshold(COLLECT_EVERY)  # what an import makes stays; looking at it again and again takes a tenth of it
        try:
            self.app, description = load(self.config.app)
            namedhooks.register(self.config)
            with contextlib.suppress(ImportError):  # as below, at encodings.idna
                lifecycle.prepare()
        finally:
            forked.check(f"importing '{self.config.app}'")
            if gc.get_threshold()[0] == COLLECT_EVERY:  # the app has not chosen its own
                gc.set_threshold(*usual)
        try:
            lifecycle.run_start("on_app_loaded", self.log.debug)
        except lifecycle.HookFailedError as error:
            raise HookError(str(error), user_traceback(error.__cause__ or error)) from None
        return description


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
        flush_streams()
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


def flush_streams() -> None:
    """So that a worker does not print again what the import has printed. Not into a pipe that is full: that waits."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the app may have closed or replaced it
            room = poll()
            room.register(stream.fileno(), select.POLLOUT)
            if room.poll(0):
                stream.flush()


def find_worker_class(name: str) -> type[Worker]:
    """The class of a name: our own, an entry point in the group ``pyserve.workers``, or ``module:Class``."""
    try:
        if name in OURS:  # without importlib.metadata, whose import takes longer than all else here
            module, _, attribute = OURS[name].partition(":")
            ours: type[Worker] = getattr(import_module(module), attribute)
            return ours
        from importlib.metadata import EntryPoint, entry_points

        known = {point.name: point for point in entry_points(group="pyserve.workers")}
        if ":" in name:
            known[name] = EntryPoint(name, name, "pyserve.workers")
        if name not in known:
            raise ConfigError(f"worker class '{name}' is not known; installed are: {', '.join(sorted(known))}")
        loaded: type[Worker] = known[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"worker class '{name}' cannot be loaded: {error}") from None
    return loaded
