"""The command line: ``pyserve [OPTIONS] APP``.

All options are made from the table of settings. Whatever is wrong is told in one line on standard error, with the exit
code of its kind.
"""

from __future__ import annotations

import os
import sys

from pyserve import __version__
from pyserve.config import arguments, config
from pyserve.errors import ExitCode, PyserveError
from pyserve.system import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from pyserve.config.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit code of the process."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except PyserveError as error:
        tell(error)
        return error.exit_code
    except BrokenPipeError:  # pyserve --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def run(argv: Sequence[str]) -> int:
    given, mode = arguments.read(argv)
    if mode == "help":
        from pyserve.config.helptext import helptext

        say(helptext().rstrip())
        return ExitCode.OK
    if mode == "version":
        say(f"pyserve {__version__}")
        return ExitCode.OK
    current = config.load(given, os.environ, called.directory(os.environ), need_app=mode != "print")
    if mode == "print":
        return print_config(current)
    if mode == "check":
        return check_config(current)
    from pyserve.launch import serve

    return serve(current, lambda: config.reload(current))


def print_config(current: Config) -> int:
    """Print every setting with its value and where that came from."""
    from pyserve.config.settings import SETTINGS

    rows = [(row.name, row.kind.show(getattr(current, row.name)), current.origin[row.name]) for row in SETTINGS]
    names = max(len(name) for name, _, _ in rows)
    values = min(max(len(value) for _, value, _ in rows), 40)
    lines = [f"{name:<{names}}  {value:<{values}}  {origin}" for name, value, origin in rows]
    say("\n".join(lines))
    tell_warnings(current.warnings)
    return ExitCode.OK


def check_config(current: Config) -> int:
    """Load the application as serving would, in processes of its own, and say whether all is well."""
    from pyserve.config import trust
    from pyserve.launch import check

    tell_warnings((*current.warnings, *trust.warnings(current.file, current.user, current.group)))
    check(current)
    say("configuration and app are fine")
    return ExitCode.OK


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line now, so that a reader who has gone is noticed here."""
    stream = stream or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def tell(error: PyserveError) -> None:
    details = error.details.rstrip("\n")
    say(f"pyserve: {error.message}" + (f"\n{details}" if details else ""), sys.stderr)


def tell_warnings(lines: Iterable[str]) -> None:
    for line in lines:
        say(f"pyserve: warning: {line}", sys.stderr)
