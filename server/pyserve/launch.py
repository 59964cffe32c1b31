"""From a configuration to a master: open what must be opened, set the first zygote to work, then become the master.

The order is for speed. While the zygote imports the app, the master imports the rest of itself.
"""

from __future__ import annotations

import os
from importlib import import_module

from pyserve.errors import BY_KIND, AppError, BindError, ExitCode
from pyserve.ipc.handoff import HandoffQueue
from pyserve.ipc.logs import LogFiles
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.master import listeners, zygotes
from pyserve.master.belongings import Belongings
from pyserve.system.accounts import ids_of
from pyserve.system.notify import listen_fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.ipc.channel import Channel
    from pyserve.master.master import Master

# What is imported where it is needed, by when the release that this master is of may have been removed.
LATER = ("pyserve.config.gunicorn_habits", "pyserve.config.tomlfile")
CHECKED = ("LOADED", "LOAD_FAILED")  # what a zygote says to whoever only wants to know whether the app loads


def serve(config: Config, reload_config: Callable[[], Config]) -> int:
    """Serve until told to stop; the exit code. PyserveError if it cannot begin."""
    logs = LogFiles.open(config)
    owner = ids_of(config.user, config.group)
    try:
        activated = listen_fds(os.environ, os.getpid())
    except OSError as error:
        raise BindError(f"the sockets that LISTEN_FDS promises are not there: {error.strerror}") from None
    opened = listeners.open_all(config.bind, config.backlog, config.socket_mode, owner, activated)
    zygotes.block_signals()  # until the master has its handlers: from here on there may be clients to answer
    belongings = Belongings(logs, opened, Scoreboard.create(), HandoffQueue.create())
    if not belongings.scoreboard.sealed:
        logs.error.warning("memfd_create() is denied here: a worker could cut short what it shares with the master")
    try:
        if config.control_socket:
            from pyserve.master.controlsocket import ControlSocket

            belongings.control_socket = ControlSocket.listen(config.control_socket)
        if config.pidfile:
            from pyserve.master.pidfile import Pidfile

            pidfile = Pidfile(config.pidfile)
            pidfile.write()
            belongings.pidfile = pidfile
        first = first_zygote(config, belongings)
        from pyserve.master.master import Master

        master = Master(config, reload_config, belongings, first)
    except BaseException:
        belongings.put_away()
        raise
    return run(master)


def run(master: Master, record: dict[str, Any] | None = None) -> int:
    """Be the master, to its end, and put away what belonged to it; the exit code. record: of the one before it."""
    try:
        master.start()
        complete(master, record)
        return master.run()
    except Exception:  # noqa: BLE001  (the log is where an operator looks, not standard error)
        import traceback

        master.log.critical(f"BUG: the master failed; the workers finish and leave\n{traceback.format_exc()}")
        return ExitCode.INTERNAL
    finally:
        master.belongings.put_away()


def complete(master: Master, record: dict[str, Any] | None = None) -> None:
    """Add the parts that are not needed for a start. The zygote is at work, so what takes time here costs nothing."""
    from pyserve.master.upgrade import Upgrade

    if master.belongings.control_socket:
        from pyserve.control.control import Control

        master.add(Control(master.belongings.control_socket, master), record)
    upgrade = Upgrade(master)
    master.add(upgrade)  # the last, for what it ends: whoever has asked for something has had an answer in this turn
    master.ask_upgrade = upgrade.ask
    for name in LATER:
        import_module(name)


def first_zygote(config: Config, ours: Belongings) -> tuple[int, Channel] | None:
    """Generation 1's zygote, at work; None if it cannot be had: the master then tries again, and says why not."""
    try:
        pid, channel = zygotes.start(config.worker_class)
    except OSError:
        return None
    try:
        zygotes.configure(channel, config, 1, config.preload, ours)
    except (OSError, ValueError):
        channel.close()
        os.waitpid(pid, 0)
        return None
    return pid, channel


def check(config: Config) -> None:
    """Load the app in a zygote, as serving would, and end it again. PyserveError says what is wrong."""
    import signal

    from pyserve.ipc.channel import LostError, ProtocolError

    belongings = Belongings(LogFiles.open(config), [], Scoreboard.create(), HandoffQueue.create())
    pid, channel = zygotes.start(config.worker_class)
    # never: the zygote would only say that its workers load the app; always: no audit, since nothing is forked.
    zygotes.configure(channel, config, 0, "always", belongings)
    channel.socket.settimeout(config.boot_timeout)
    try:
        message = channel.receive()
        if message is not None and (message.kind not in CHECKED or message.fds):
            message.discard()
            raise ProtocolError(f"{message.kind} with {len(message.fds)} descriptors")
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        raise AppError(f"the app did not load within boot_timeout ({config.boot_timeout:g} s)") from None
    except (ProtocolError, LostError) as error:
        os.kill(pid, signal.SIGKILL)
        raise AppError(f"the process that loads the app misused its channel: {error}") from None
    finally:
        channel.close()
        _, status = os.waitpid(pid, 0)
    if message is None:
        from pyserve.master.deaths import explain

        raise AppError(f"the process that loads the app {explain(status)}")
    if message.kind == "LOAD_FAILED":
        raise BY_KIND.get(message["kind"], AppError)(message["message"], message["details"])
