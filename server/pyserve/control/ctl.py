"""The ``pyservectl`` command: what an operator asks of a running server.

Every subcommand is one request on the control socket. ``--json`` prints the lines of the answer as they come; without
it they are made readable here. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 69 no server to talk to; ``stop
--wait`` has the server's own.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Any

import click

from pyserve import __version__
from pyserve.control import runalone, statuspage
from pyserve.control.controlclient import Answer, UnavailableError, ask, connect, find
from pyserve.ipc.log import ESCAPES
from pyserve.system import called

FAILED = 1
PAGE_LIMIT = 48 << 10  # bytes of JSON: control.REQUEST_LIMIT has room for them


class Server:
    """How to reach the server, and how to print what it says."""

    def __init__(self, path: str | None, as_json: bool) -> None:
        self.path = path
        self.as_json = as_json

    def ask(self, command: str, *, patient: bool = False, **arguments: Any) -> Answer:
        path, sock = self.connect()
        return ask(sock, path, command, patient=patient, **arguments)

    def connect(self) -> tuple[str, socket.socket]:
        if self.path:
            return self.path, connect(self.path)
        return find(dict(os.environ), called.directory(os.environ))

    def refuse_inside(self, what: str) -> None:
        """What waits until nothing runs alone would wait for ever in a command that does."""
        if runalone.INSIDE not in os.environ:
            return
        path, sock = self.connect()
        sock.close()
        if os.path.realpath(path) == os.environ[runalone.INSIDE]:
            raise click.UsageError(
                f"{what} would wait for the command that runs alone, of which it is a part; do it afterwards"
            )

    def run(self, show: Callable[[dict[str, Any]], None], command: str, **arguments: Any) -> None:
        """Ask, show every line, and exit with 1 if the last is not ok."""
        end: dict[str, Any] = {}
        for said in self.ask(command, **arguments):
            if self.as_json:
                print_line(json.dumps(said))
            elif said["event"] == "log":
                print_line(f"{said['level']:<5} {safe(said['text'])}", err=said["level"] != "info")
            elif said["event"] != "end":
                show(said)
            if said["event"] == "end":
                end = said
        if not self.as_json and end.get("text"):
            print_line(safe(end["text"]), err=not end["ok"])
        if not end["ok"]:
            sys.exit(end.get("exit_code") or FAILED)


def print_line(text: str, err: bool = False) -> None:
    click.echo(text, err=err)


def safe(text: str) -> str:
    """A text with nothing in it that a terminal would obey; further lines are indented."""
    return text.translate(ESCAPES).rstrip("\n").replace("\n", "\n    ")


def nothing(_said: dict[str, Any]) -> None:
    """There is nothing to show but the log and the end."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pyservectl", message="%(prog)s %(version)s")
@click.option("--socket", "path", metavar="PATH", help="The server's control socket. [default: found by itself]")
@click.option("--json", "as_json", is_flag=True, help="Print what the server says as lines of JSON.")
@click.pass_context
def cli(context: click.Context, path: str | None, as_json: bool) -> None:
    """Talk to a running pyserve over its control socket (its setting control_socket).

    Without --socket the server is looked for where pyserve.toml and the environment of the working directory say, and
    then in /run/*/pyserve.ctl; there must be exactly one.
    """
    context.obj = Server(path, as_json)


@cli.command()
@click.pass_obj
def status(server: Server) -> None:
    """Show the generations and the workers, and what each worker does now."""
    server.run(lambda said: print_line(safe_table(statuspage.page(said))), "status")


def safe_table(text: str) -> str:
    return text.translate(ESCAPES)


@cli.command()
@click.option("--wait", is_flag=True, help="Show the steps until the new code is committed; exit with 1 if it is not.")
@click.pass_obj
def reload(server: Server, wait: bool) -> None:
    """Serve with the code and the configuration as they are now, without losing a request."""
    if wait:
        server.refuse_inside("reload --wait")
    server.run(nothing, "reload", wait=wait)


@cli.command()
@click.option("--wait", is_flag=True, help="Show the steps until the old code serves; exit with 1 if it does not.")
@click.pass_obj
def rollback(server: Server, wait: bool) -> None:
    """Serve with the code and the configuration of before the last reload, without losing a request.

    It is there while that generation is still loaded, for keep_previous (300 s) after the reload; during a reload, this
    gives it up.
    """
    if wait:
        server.refuse_inside("rollback --wait")
    server.run(nothing, "rollback", wait=wait)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("workers", metavar="N|+N|-N")
@click.pass_obj
def scale(server: Server, workers: str) -> None:
    """Have N workers, or N more, or N fewer, until the next reload."""
    if not re.fullmatch(r"[+-]?[0-9]+", workers, re.ASCII):
        raise click.BadParameter(f"it is to be a number of workers, or +N or -N, not {workers!r}", param_hint="N")
    server.run(nothing, "scale", workers=workers)


@cli.command()
@click.option("--wait", is_flag=True, help="Show the steps until the server has ended, and exit with its exit code.")
@click.pass_obj
def stop(server: Server, wait: bool) -> None:
    """Stop gracefully: requests under way are finished first."""
    server.run(nothing, "stop", wait=wait)


@cli.command()
@click.argument("worker", metavar="[WORKER]", type=click.IntRange(0), required=False)
@click.pass_obj
def dump(server: Server, worker: int | None) -> None:
    """Show the stacks of every thread (and greenlet) of a worker, by its number, or of all; also of one that hangs."""
    server.run(show_stacks, "dump", **({} if worker is None else {"worker": worker}))


def show_stacks(said: dict[str, Any]) -> None:
    doing = f": {safe(said['request'])}" if said["request"] else ""
    print_line(f"worker {said['worker']} gen {said['generation']} pid {said['pid']} {said['state']}{doing}")
    print_line("    " + safe(said["error"] or said["text"] or "no stack"))


@cli.command()
@click.argument("action", type=click.Choice(["on", "off", "status"]))
@click.option("--retry-after", type=click.IntRange(1), default=60, show_default=True, help="Seconds; clients are told.")
@click.option("--page", type=click.File("rb"), help="An HTML file for clients, of about 40 KiB at most.")
@click.option("--hold", type=click.FloatRange(0), default=0.0, help="Let clients wait for so many seconds first.")
@click.option("--allow", multiple=True, metavar="PATH", help="Serve this path all the same; repeat for more.")
@click.pass_obj
def maintenance(server: Server, action: str, retry_after: int, page: Any, hold: float, allow: tuple[str, ...]) -> None:
    """Answer every client with 503, or have it wait, until maintenance is off again."""
    text = ""
    if any(not path.startswith("/") for path in allow):
        raise click.BadParameter("each is a path and begins with /", param_hint="--allow")
    if action == "on":
        server.refuse_inside("maintenance on")
    if page is not None:
        try:
            text = page.read(PAGE_LIMIT + 1).decode()
        except UnicodeDecodeError:
            raise click.BadParameter("it must be UTF-8", param_hint="--page") from None
        if len(json.dumps(text)) > PAGE_LIMIT:
            raise click.BadParameter(f"it must not have more than {PAGE_LIMIT >> 10} KiB as JSON", param_hint="--page")
    server.run(
        nothing,
        "maintenance",
        patient=True,
        action=action,
        retry_after=retry_after,
        page=text,
        hold=hold,
        allow=list(allow),
    )


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--wait", is_flag=True, help="While another has the gate, wait for it, for as long as --drain-timeout.")
@click.option(
    "--drain-timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for requests to end."
)
@click.option("--hold", type=click.FloatRange(0), default=0.0, help="Let clients wait for so many seconds first.")
@click.option("--retry-after", type=click.IntRange(1), default=5, show_default=True, help="Seconds; clients are told.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_obj
def exclusive(
    server: Server, wait: bool, drain_timeout: float, hold: float, retry_after: int, command: tuple[str, ...]
) -> None:
    """Run COMMAND while no request is in the app, and exit with its exit code."""
    server.refuse_inside("exclusive")
    terms = {"wait": wait, "drain_timeout": drain_timeout, "hold": hold, "retry_after": retry_after}
    sys.exit(runalone.run(server.ask, command, terms, lambda text: print_line(f"pyservectl: {safe(text)}", err=True)))


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what is shown are bytes of clients and names of files
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="pyservectl")
    except UnavailableError as error:
        details = "".join(f"\n  {line}" for line in error.details.splitlines())
        click.echo(f"pyservectl: {error.message}{details}", err=True)
        sys.exit(error.exit_code)
