"""The new program's side of an upgrade: proving that it can take over, and taking over.

Both make a master from the state of the running one. The proving child does it beside that master, in whose place it
never runs, and ends; the program that takes over has the process of the old one, and all that belonged to it.
"""

from __future__ import annotations

import os
import sys

from pyserve import __version__
from pyserve.cli import say, tell
from pyserve.config import arguments, config
from pyserve.errors import ExitCode, PyserveError
from pyserve.failpoint import failpoint
from pyserve.launch import complete, run
from pyserve.master import carried, zygotes
from pyserve.master.master import Master
from pyserve.master.upgrade import PROVEN_SAYS, VARIABLE
from pyserve.system import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def prove(argv: Sequence[str], state: int) -> int:
    """Say that this version can take over; the exit code. What is wrong is told as at a start."""
    try:
        record = carried.unpack(state)
        master = Master.resume(record)
        complete(master, record)
        failpoint("upgrade.prove")
        accept_configuration(argv, master)
        start_zygote(master.situation.config.worker_class)
    except carried.FormatError as error:
        tell(PyserveError(str(error)))
        return ExitCode.INTERNAL
    except PyserveError as error:
        tell(error)
        return error.exit_code
    say(f"{PROVEN_SAYS}{__version__}", sys.stdout)
    os._exit(ExitCode.OK)  # what it has resumed is not to be put away


def accept_configuration(argv: Sequence[str], master: Master) -> None:
    """Read it as a reload of this version would. PyserveError says what is wrong."""
    given, _ = arguments.read(argv)
    config.load(given, os.environ, master.situation.config.sources.cwd)


def start_zygote(worker_class: str) -> None:
    """Have a zygote import all that it needs before it is told what to load, and end."""
    try:
        pid, channel = zygotes.start(worker_class)
    except OSError as error:
        raise PyserveError(f"{called.interpreter()} cannot be started: {error.strerror}") from None
    channel.close()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        from pyserve.master.deaths import explain

        raise PyserveError(f"the process that is to load the app {explain(status)}")


def take_over(state: str) -> int:
    """Be the master of which the descriptor with this number holds the state; the exit code of the process."""
    try:
        record = carried.unpack(int(state))
    except (ValueError, carried.FormatError) as error:
        tell(PyserveError(f"{VARIABLE} is for pyserve alone, take it out of the environment: {error}"))
        return ExitCode.INTERNAL
    os.close(int(state))
    return run(Master.resume(record), record)
