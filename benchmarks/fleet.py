"""The servers that are reloaded, each with four workers: how it is started, told to reload and told to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from servers import HOST, program

WORKERS = 4
THREADS = 8
APP = "app:wsgi"
FIFO = "fifo"  # uWSGI's, in the scratch folder
Tell = Callable[[int, Path], None]  # the master's pid, the scratch folder


class Member(NamedTuple):
    title: str
    command: Callable[[int, Path], list[str]]  # for a port and a scratch folder, which is the working directory
    reload: Tell
    stop: Tell  # gracefully
    distribution: str


def send(number: int, pid: int, _scratch: Path) -> None:
    os.kill(pid, number)


def write(letter: str, _pid: int, scratch: Path) -> None:
    fifo = os.open(scratch / FIFO, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fifo, letter.encode())
    os.close(fifo)


def pyserve(kind: str, port: int, _scratch: Path) -> list[str]:
    """Without the soak, whose end a reload that comes too soon waits for: how long one takes is what is measured."""
    command = [program("pyserve"), APP, "--bind", f"{HOST}:{port}", "--workers", str(WORKERS), "--worker-class", kind]
    command += ["--reload-soak", "0.5"]  # the next reload begins when the soak of this one is over
    command += ["--reload-soak", "0"]
    return [*command, "--threads", str(THREADS)] if kind == "threads" else command


def gunicorn(kind: str, port: int, _scratch: Path) -> list[str]:
    command = [program("gunicorn"), APP, "--bind", f"{HOST}:{port}", "--workers", str(WORKERS), "--worker-class", kind]
    threads = ["--threads", str(THREADS)] if kind == "gthread" else []
    return [*command, "--no-control-socket", *threads]


def granian(port: int, _scratch: Path) -> list[str]:
    where = ["--interface", "wsgi", "--host", HOST, "--port", str(port)]
    return [program("granian"), *where, "--workers", str(WORKERS), "--blocking-threads", str(THREADS), APP]


def uwsgi(port: int, scratch: Path) -> list[str]:
    """With lazy-apps, without which it has no chain reload; and it closes each connection, as servers.py explains."""
    module, _, name = APP.partition(":")
    where = ["--http-socket", f"{HOST}:{port}", "--module", module, "--callable", name, "--need-app"]
    habits = ["--listen", "1024", "--disable-logging", "--add-header", "Connection: close", "--lazy-apps"]
    fifo = ["--master-fifo", str(scratch / FIFO)]
    return [program("uwsgi"), *where, "--master", "--processes", str(WORKERS), *habits, *fifo]


HUP, TERM = partial(send, signal.SIGHUP), partial(send, signal.SIGTERM)

FLEET = {
    "pyserve": Member("pyserve sync", partial(pyserve, "sync"), HUP, TERM, "pyserve"),
    "pyserve-threads": Member("pyserve threads", partial(pyserve, "threads"), HUP, TERM, "pyserve"),
    "pyserve-gevent": Member("pyserve gevent", partial(pyserve, "gevent"), HUP, TERM, "pyserve"),
    "gunicorn-sync": Member("gunicorn sync", partial(gunicorn, "sync"), HUP, TERM, "gunicorn"),
    "gunicorn-gthread": Member("gunicorn gthread", partial(gunicorn, "gthread"), HUP, TERM, "gunicorn"),
    "gunicorn-gevent": Member("gunicorn gevent", partial(gunicorn, "gevent"), HUP, TERM, "gunicorn"),
    "granian": Member("granian", granian, HUP, TERM, "granian"),
    # Its TERM reloads or ends at once, as it is told; "q" is its graceful stop.
    "uwsgi": Member("uWSGI, reload", uwsgi, partial(write, "r"), partial(write, "q"), "uwsgi"),
    "uwsgi-chain": Member("uWSGI, chain reload", uwsgi, partial(write, "c"), partial(write, "q"), "uwsgi"),
}
