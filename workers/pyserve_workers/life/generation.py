"""A generation: the app as it was loaded once, and what all its workers have in common."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from types import SimpleNamespace

from pyserve.app import lifecycle
from pyserve.errors import ConfigError, HookError
from pyserve.ipc import logs, namedfds
from pyserve.ipc.log import Log
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.system import descriptors, linux
from pyserve.system.accounts import become
from pyserve_workers.life import namedhooks
from pyserve_workers.native import forked
from pyserve_workers.native.body import try_spool
from pyserve_workers.native.system import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.ipc.channel import Message

COLLECT_EVERY = 100_000  # container objects, while the app is imported


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
