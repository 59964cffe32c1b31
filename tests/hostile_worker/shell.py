"""A server whose app does what a test sends it: the code of an attack, run in a worker with all that the worker has.

POST / runs the body, in the namespace that the app's module is; GET / answers with the worker's pid. What an attack is
to show afterwards is always the same: the master lives and hears, every worker that is to be there serves, and the log
says in one line what happened.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from support import Server, serve
from support.processes import GENEROUS

APP = '''
import ctypes, fcntl, gc, json, os, posix, resource, select, signal, socket, struct, sys, threading, time
from array import array
from pyserve.ipc.scoreboard import FIELDS, SLOT_SIZE, SLOTS
from pyserve_workers.life.worker import Worker

def whole():
    """The worker that this process is."""
    return next(each for each in gc.get_objects() if isinstance(each, Worker))

def tell(packet, *fds, to=None):
    """Send the master a packet as it stands; fds and to: numbers, or what has one."""
    numbers = array("i", [each if isinstance(each, int) else each.fileno() for each in fds])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if fds else []
    to = to or whole().channel
    sock = socket.socket(fileno=to if isinstance(to, int) else to.fileno())
    try:
        sock.sendmsg([packet if isinstance(packet, bytes) else packet.encode()], rights)
    finally:
        sock.detach()

def ask_alone(*fds, to=None, **more):
    """Send EXCLUSIVE; more: JSON texts of its fields."""
    usual = {"number": "7", "name": '"x"', "line": '""', "blocks": "false", "waits": "true",
             "drain_timeout": "30", "hold": "0", "timeout": "0", "kills": "false"}
    fields = ", ".join(f'"{name}": {text}' for name, text in {**usual, **more}.items())
    tell(f'["EXCLUSIVE", {{{fields}}}]', *fds, to=to)

def ticket():
    """The master's end of a ticket; the other one stays open."""
    ours, theirs = socket.socketpair()
    kept.append(ours)
    return theirs

def listening():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # a name that the kernel chooses
    listener.listen()
    return listener

def lingering():
    """A TCP socket whose close() waits for a peer that does not read."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    kept.append((listener, listener.accept()))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(65536))
    except BlockingIOError:
        return ours.detach()

def apart(run):
    """Do something in a process of its own, which has of the server's only what it has duplicated before."""
    if not os.fork():
        try:
            run()
        finally:
            os._exit(0)

kept = []  # what an attack wants to stay open

def wsgi(environ, start_response):
    code = environ["wsgi.input"].read()
    if code:
        exec(code.decode(), globals())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

if os.path.exists("at_import"):
    exec(open("at_import").read())
'''


class Shell:
    """A server under attack."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.mark = 0
        self.sent: list[http.client.HTTPConnection] = []

    def run(self, code: str) -> int:
        """Have some worker run code that it survives; its pid."""
        response = self.server.request("POST", "/", data=code, headers={"Connection": "close"})
        assert response.status_code == 200, self.server.log[self.mark :]
        return int(response.text)

    def attack(self, code: str) -> None:
        """Have some worker run code that it may not survive."""
        self.mark = len(self.server.log)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=GENEROUS)
        connection.request("POST", "/", code)
        self.sent.append(connection)

    def attacks(self, code: str, line: str) -> str:
        """An attack, and the line that tells of it, of which there is one."""
        self.attack(code)
        self.said(line)
        self.is_well()
        found = [text for text in self.news.splitlines() if re.search(line, text)]
        assert len(found) == 1, found
        return found[0]

    @property
    def news(self) -> str:
        """The log since the attack."""
        return self.server.log[self.mark :]

    def said(self, line: str) -> None:
        def logged() -> bool:
            assert self.server.process.poll() is None, f"the master ended:\n{self.news}"
            assert "answered with 500" not in self.news, f"the attack failed:\n{self.news}"
            return re.search(line, self.news) is not None

        try:
            self.server.wait_for(logged)
        except AssertionError:
            print(f"--- log since the attack\n{self.news}---")
            raise

    def is_well(self, workers: int = 2) -> None:
        """The master hears signals, and so many workers serve."""
        server, before = self.server, self.server.log.count("log files reopened")
        server.signal(signal.SIGUSR1)
        server.wait_for(lambda: server.process.poll() is not None or server.log.count("log files reopened") > before)
        assert server.process.poll() is None, f"the master ended:\n{self.news}"
        served: set[int] = set()

        def all_serve() -> bool:
            served.intersection_update(server.workers())
            # ... unless the worker that had it was the one that is being ended.
            with contextlib.suppress(requests.ConnectionError, ValueError):
                served.add(int(server.get("/", headers={"Connection": "close"}).text))
            return len(served & set(server.workers())) >= workers

        server.wait_for(all_serve)
        assert "BUG" not in self.news, self.news
        self.hang_up()

    def hang_up(self) -> None:
        for connection in self.sent:
            connection.close()
        self.sent.clear()

    def other_than(self, *pids: int) -> int:
        """The pid of another worker."""
        return next(pid for pid in self.server.workers() if pid not in pids)


@contextmanager
def hostile(folder: Path, *arguments: str, error_log: Path | None = None) -> Iterator[Shell]:
    """Two workers, whose crashes are all repaired at once."""
    (folder / "app.py").write_text(APP)
    always = ("--workers", "2", "--crash-window", "0.001", "--timeout", "600", "--keepalive-linger", "0.1")
    with serve("app:wsgi", *always, *arguments, cwd=folder, error_log=error_log) as server:
        shell = Shell(server, folder)
        yield shell
        shell.hang_up()


def fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
